"""What trains, and what stays still."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers as hf
from backbones import made, small
from trainers import tiny_vit

from hf_immunize import features_and_logits
from hf_immunize.models.head import find_head
from hf_immunize.models.trainable import blocks_that_train, keep_still, modules_before_training, select_trainable


def test_all_and_patterns_choose_by_module_name():
    model, images, _ = made("timm ResNet")
    assert select_trainable(model, "all", images).n_parameters == sum(one.numel() for one in model.parameters())
    assert all(one.requires_grad for one in model.parameters())
    selection = select_trainable(model, ["layer4.1", "*.bn1", "fc"], images)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    by_hand = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("layer4.1.", "fc.")) or name.rpartition(".")[0].endswith(".bn1")
    }
    assert trained == by_hand
    assert "fc" in str(selection)
    assert f"{selection.n_parameters:,} of {selection.n_total:,}" in str(selection)
    with pytest.raises(ValueError, match=r"'layer5' fits no parameter.*layer4"):
        select_trainable(model, ["layer5", "fc"], images)


def test_shared_weights_train_whole_or_not_at_all(tiny_net):
    images = torch.randn(2, 3, 8, 8)
    tiny_net.blocks[2].conv.weight = tiny_net.blocks[0].conv.weight
    for selection in ("last", ["blocks.2", "score"], ["blocks.0"]):
        with pytest.raises(ValueError, match=r"are one and the same weights.*Name both, or neither"):
            select_trainable(tiny_net, selection, images)
    both = select_trainable(tiny_net, ["blocks.0", "blocks.2", "score"], images)
    assert tiny_net.blocks[0].conv.weight.requires_grad
    assert both.n_parameters == 12 * 12 * 9 + 2 * 24 + 24 * 3 + 3
    select_trainable(tiny_net, ["blocks.1", "score"], images)
    assert not tiny_net.blocks[2].conv.weight.requires_grad


def test_dropout_of_frozen_parts_stays_still_and_that_of_trained_parts_does_not():
    torch.manual_seed(0)
    model = hf.ViTForImageClassification(hf.ViTConfig(**small(hidden_dropout_prob=0.5)))
    images = torch.randn(2, 3, 32, 32)
    select_trainable(model, "last", images)
    assert {"vit.embeddings", "vit.layers.0", "vit.layers.1"} <= modules_before_training(model, images)
    arriving, leaving = [], []
    block = model.vit.layers[-1]
    block.register_forward_pre_hook(lambda _, args: arriving.append(args[0].detach()))
    block.register_forward_hook(lambda _, __, output: leaving.append(output.detach()))

    def twice():
        arriving.clear(), leaving.clear()
        features_and_logits(model, images), features_and_logits(model, images)
        return torch.equal(*arriving), torch.equal(*leaving)

    find_head(model, images)
    model.train()
    assert twice() == (False, False)
    keep_still(model)
    assert twice() == (True, False)


def test_the_last_stage_is_found_where_no_gradients_are_kept(tiny_net):
    with torch.no_grad():
        found = select_trainable(tiny_net, "last", torch.randn(2, 3, 8, 8))
    assert found == select_trainable(tiny_net, "last", torch.randn(2, 3, 8, 8))


def test_what_was_frozen_before_and_trains_now_is_said(tiny_net):
    images = torch.randn(2, 3, 8, 8)
    assert "frozen before" not in str(select_trainable(tiny_net, ["blocks.2", "score"], images))
    tiny_net.requires_grad_(False)
    tiny_net.score.requires_grad_(True)
    found = select_trainable(tiny_net, ["blocks.2", "score"], images)
    assert found.n_thawed == sum(one.numel() for one in tiny_net.blocks[2].parameters())
    assert f"({found.n_thawed:,} of them were frozen before" in str(found)


def test_blocks_are_the_members_of_sequences_and_what_stands_beside_them():
    def names(model, selection, size=32):
        select_trainable(model, selection, torch.zeros(2, 3, size, size))
        return [name for name, _ in blocks_that_train(model)]

    vit = tiny_vit()
    layers = [name for name in names(vit, "all", 8) if name.rpartition(".")[2].isdigit()]
    assert len(layers) == vit.config.num_hidden_layers
    assert len(names(vit, "all", 8)) > len(layers)
    resnet = timm.create_model("resnet10t", num_classes=3)
    assert {f"layer{stage}" for stage in range(1, 5)} <= set(names(resnet, "all"))
    assert names(resnet, "layer4.*") == ["layer4"]
    assert names(timm.create_model("resnet18"), ["layer4", "fc"]) == ["layer4.0", "layer4.1", "fc"]
