"""The frozen part run once: what trains behind it is the model."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from backbones import MODELS, made
from tiny import Images, TinyNet

from hf_immunize import features_and_logits
from hf_immunize.models.frozen_prefix import FrozenPrefix, shared_prefix
from hf_immunize.models.trainable import select_trainable


@pytest.mark.parametrize("name", [name for name in MODELS if name != "Swin"])
def test_the_tail_behind_a_frozen_prefix_is_the_model(name):
    model, images, _ = made(name)
    select_trainable(model, "last", images)
    prefix = FrozenPrefix(model, images)
    activations = prefix(images)
    assert not activations.requires_grad

    def gradients(module, inputs):
        model.zero_grad()
        features, logits = features_and_logits(module, inputs)
        (logits.square().sum() + features.square().mean()).backward()
        return features, logits, {one: part.grad for one, part in model.named_parameters() if part.requires_grad}

    of_model = gradients(model, images)
    with prefix.bypassed():
        of_tail = gradients(model, activations)
    torch.testing.assert_close(of_tail[0], of_model[0])
    torch.testing.assert_close(of_tail[1], of_model[1])
    for one, gradient in of_model[2].items():
        torch.testing.assert_close(of_tail[2][one], gradient, msg=one)
    # What trains is the model's very own; the frozen parameters are no part of a tail, which is a copy.
    torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1).step()
    after = features_and_logits(model, images)[1]
    assert not torch.allclose(after, of_model[1])
    with prefix.bypassed():
        torch.testing.assert_close(features_and_logits(model, {"activations": activations})[1], after)
    torch.testing.assert_close(features_and_logits(model, images)[1], after)
    tail = prefix.tail()
    assert len(list(tail.parameters())) < len(list(model.parameters()))
    torch.testing.assert_close(features_and_logits(tail, activations)[1], after)
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.zero_()
    assert torch.equal(features_and_logits(model, images)[1], after)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "swin_tiny_patch4_window7_224"])
def test_activations_come_in_the_layout_that_what_trains_would_get(name):
    sizes = {"img_size": 64, "window_size": 2} if "swin" in name else {}
    model = timm.create_model(name, num_classes=2, **sizes).eval()
    images = torch.randn(2, 3, 64, 64)
    select_trainable(model, "last", images)
    prefix = FrozenPrefix(model, images)
    # Rows of Swin's activations are (H, W, C) already: they only look like images.
    assert prefix.layout == (torch.channels_last if name == "mobilenetv3_small_050" else torch.contiguous_format)
    activations = prefix(images)
    assert activations.ndim == 4
    with prefix.bypassed():
        found = features_and_logits(model, activations.contiguous(memory_format=prefix.layout))[1]
    torch.testing.assert_close(found, features_and_logits(model, images)[1])


def test_a_model_that_hangs_on_more_than_one_tensor_is_not_split():
    model, images, _ = made("Swin")
    select_trainable(model, "last", images)
    with pytest.raises(ValueError, match=r"SwinForImageClassification cannot be run once for all.*Train without"):
        FrozenPrefix(model, images)
    everything = TinyNet()
    select_trainable(everything, "all", torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match="nothing frozen stands before"):
        FrozenPrefix(everything, torch.randn(2, 3, 8, 8))

    class Detour(TinyNet):
        """What trains reads the stem twice, so one tensor is not enough."""

        def forward(self, pixel_values):
            first = self.stem(pixel_values)
            early = self.blocks[1](self.blocks[0](first))
            return self.score(torch.relu(self.widen(self.blocks[2](early) + 3 * first)).mean((2, 3)))

    detour, images = Detour().eval(), torch.randn(4, 3, 8, 8)
    select_trainable(detour, ["blocks.2", "widen", "score"], images)
    with pytest.raises(ValueError, match="what trains, alone, gives other features or logits"):
        FrozenPrefix(detour, images)


def test_what_two_models_share_is_found_by_their_tensors(tiny_net, primary):
    images = primary.x[:4]
    tiny_net.eval()
    other = copy.deepcopy(tiny_net)
    assert shared_prefix([tiny_net, other], images) is None, "nothing differs"
    with torch.no_grad():
        other.widen.weight.add_(1)
    prefix = shared_prefix([tiny_net, other], images)
    torch.testing.assert_close(prefix(images), tiny_net.blocks(tiny_net.stem(images)))
    with prefix.of(other).bypassed():
        behind = features_and_logits(other, prefix(images))[1]
    torch.testing.assert_close(behind, features_and_logits(other, images)[1])
    # A statistic alone makes a layer another one; inside its block one tensor is not enough, so that it runs whole.
    other.blocks[1].norm.running_mean.add_(1)
    early = tiny_net.blocks[0](tiny_net.stem(images))
    torch.testing.assert_close(shared_prefix([tiny_net, other], images)(images), early)
    with torch.no_grad():
        other.stem.bias.add_(1)
    assert shared_prefix([tiny_net, other], images) is None
    assert shared_prefix([tiny_net, TinyNet(n_classes=7)], images) is None
    assert not any(
        one.requires_grad != two.requires_grad
        for one, two in zip(tiny_net.parameters(), other.parameters(), strict=True)
    )


class DrawsItself(TinyNet):
    """Dropout in the forward of the model, which no module could hold still."""

    def forward(self, pixel_values):
        return super().forward(torch.nn.functional.dropout(pixel_values, 0.5, self.training))


def test_a_frozen_part_that_draws_in_training_is_not_run_once_for_all():
    images = Images(4).x
    model = DrawsItself().eval()
    select_trainable(model, "widen", images)
    with pytest.raises(ValueError, match="in a training its activations are others"):
        FrozenPrefix(model, images)
    plain = TinyNet(dropout=0.5)
    select_trainable(plain, "widen", images)
    numbers = torch.get_rng_state()
    FrozenPrefix(plain, images)
    assert torch.equal(torch.get_rng_state(), numbers)


class Doubles(TinyNet):
    """What stands between two modules is lost where the first of them is passed by."""

    def forward(self, pixel_values):
        hidden = self.blocks(self.stem(pixel_values * 2) * 3)
        return self.score(torch.relu(self.widen(hidden)).mean((2, 3)))


def test_a_split_is_checked_by_features_where_the_head_is_all_zeros():
    model, images = Doubles().eval(), Images(4).x
    with torch.no_grad():
        model.score.weight.zero_()
        model.score.bias.zero_()
    select_trainable(model, "blocks", images)
    with pytest.raises(ValueError, match="gives other features or logits"):
        FrozenPrefix(model, images)
