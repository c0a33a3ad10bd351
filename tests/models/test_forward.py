"""A model is run one way, whatever wraps it and however its inputs are given."""

from __future__ import annotations

import copy

import pytest
import torch
from backbones import made
from torch import nn

from hf_immunize import features_and_logits
from hf_immunize.models.forward import unwrap
from hf_immunize.models.trainable import select_trainable


def test_inputs_may_be_a_mapping_with_labels():
    for name in ("ViT", "timm ViT"):
        model, images, _ = made(name)
        expected = features_and_logits(model, images)
        found = features_and_logits(model, {"pixel_values": images, "labels": torch.zeros(3, dtype=torch.long)})
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("run_before", [False, True], ids=["fresh", "already compiled"])
def test_a_compiled_model_gives_the_same(run_before):
    torch._dynamo.reset()
    model, images, _ = made("timm ConvNeXt")
    expected = [features_and_logits(model, one) for one in (images, -images)]
    compiled = torch.compile(model, backend="eager")
    if run_before:
        compiled(images)
    for one, (features, logits) in zip((images, -images), expected, strict=True):
        found = features_and_logits(compiled, one)
        torch.testing.assert_close(found[0], features)
        torch.testing.assert_close(found[1], logits)
    found[0].sum().backward()
    assert model.get_submodule("stages.3").blocks[0].conv_dw.weight.grad is not None
    assert unwrap(compiled) is model


def test_a_model_in_distributed_data_parallel_gives_the_same_and_synchronises(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed")
    model, images, _ = made("timm ResNet")
    select_trainable(model, "last", images)
    plain = copy.deepcopy(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        features, logits = features_and_logits(wrapped, images)
        (features.square().mean() + logits.square().mean()).backward()
        assert unwrap(wrapped) is model
    finally:
        torch.distributed.destroy_process_group()
    expected, raw = features_and_logits(plain, images)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, raw)
    (expected.square().mean() + raw.square().mean()).backward()
    torch.testing.assert_close(model.fc.weight.grad, plain.fc.weight.grad)
    torch.testing.assert_close(model.layer4[1].conv2.weight.grad, plain.layer4[1].conv2.weight.grad)
