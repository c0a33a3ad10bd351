"""Where nothing but the first token is read, nothing else is computed; features, logits and gradients stay the same."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import transformers as hf
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_immunize import features_and_logits
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.trainable import select_trainable

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"image_size": 32, "patch_size": 8, "num_labels": 3}


def timm_vit(**changes):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    return timm.models.VisionTransformer(**{**sizes, **changes})


def hf_vit(kind="ViT", **changes):
    return getattr(hf, f"{kind}ForImageClassification")(getattr(hf, f"{kind}Config")(**SMALL, **changes))


def split(model, selection="last", dtype=torch.float32):
    torch.manual_seed(0)
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Heads of zeros and scales of one hide mistakes.
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval()
    select_trainable(model, selection, images)
    prefix = FrozenPrefix(model, images)
    model.to(dtype)
    return prefix, prefix(images.to(dtype))


def outcome(prefix, activations, every_token):
    prefix.model.zero_grad()
    shapes = []
    with prefix.bypassed(every_token=every_token):
        hooks = [
            one.register_forward_hook(lambda module, args, output: shapes.append(output.shape[1]))
            for one in prefix.model.modules()
            if isinstance(one, (nn.Linear, nn.LayerNorm)) and one.weight.requires_grad
        ]
        features, logits = features_and_logits(prefix.model, activations)
        for hook in hooks:
            hook.remove()
    # A gradient of the gradient's size is what objectives on spectra take.
    (features.square().sum().sqrt() + logits.square().sum()).backward()
    gradients = {name: one.grad for name, one in prefix.model.named_parameters() if one.requires_grad}
    return features, logits, gradients, shapes


@pytest.mark.parametrize(
    ("model", "block", "attends"),
    [
        (timm_vit, "blocks.2", True),
        (lambda: timm_vit(qk_norm=True, init_values=1e-6, reg_tokens=2), "blocks.2", True),
        (hf_vit, "vit.layers.2", True),
        (lambda: hf_vit("DeiT"), "deit.layers.2", True),
        (lambda: hf_vit(attn_implementation="eager"), "vit.layers.2", False),
    ],
)
def test_the_last_block_of_a_class_token_computes_it_alone(model, block, attends):
    prefix, activations = split(model(), dtype=torch.float64)
    readers = prefix._first_token
    assert readers.layers
    assert all(one.startswith(block) or one.endswith("norm") for one in readers.layers)
    assert [one.startswith(block) for one in readers.attentions] == [True] * attends
    *whole, shapes_of_all = outcome(prefix, activations, True)
    *alone, shapes = outcome(prefix, activations, False)
    assert len(shapes) == len(shapes_of_all)
    # What reads queries, keys and values reads all tokens; everything behind it the first one.
    n_tokens = activations.shape[1]
    assert 2 <= shapes.count(n_tokens) <= 4 < shapes_of_all.count(n_tokens)
    assert shapes[: shapes.count(n_tokens)] == [n_tokens] * shapes.count(n_tokens)
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-14)
    assert all(one.any() for one in whole[2].values())
    # No trace of it stays.
    assert not any(one._forward_pre_hooks or one._forward_hooks for one in prefix.model.modules())
    # The copy that attackers are given is short for good, and so are their copies of it.
    tail = copy.deepcopy(prefix.tail())
    reached = []
    tail.get_submodule(readers.layers[1]).register_forward_hook(lambda *args: reached.append(args[-1].shape[1]))
    torch.testing.assert_close(features_and_logits(tail, activations), tuple(whole[:2]), rtol=1e-10, atol=1e-14)
    assert set(reached) == {1}


def test_gradients_at_other_weights_are_the_same_too():
    prefix, activations = split(timm_vit(), dtype=torch.float64)
    own = {name: one for name, one in prefix.model.named_parameters() if one.requires_grad}

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = prefix.model

        def forward(self, one):
            return features_and_logits(self.model, one)

    found = []
    for every_token in (True, False):
        # The fast kernels have no second derivative.
        with prefix.bypassed(every_token=every_token), sdpa_kernel(SDPBackend.MATH):
            # A step of an attacker and the gradient through it, as meta-learning takes it.
            loss = features_and_logits(prefix.model, activations)[1].square().sum()
            steps = torch.autograd.grad(loss, list(own.values()), create_graph=True)
            moved = {f"model.{name}": one - 0.1 * step for (name, one), step in zip(own.items(), steps, strict=True)}
            after = functional_call(Reader(), moved, (activations,))[1].square().sum()
            found.append(torch.autograd.grad(after, list(own.values())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        lambda: timm_vit(global_pool="avg"),
        # However small: what counts is that something is read, not how much it does.
        lambda: timm_vit(global_pool="avg", init_values=1e-12),
        lambda: timm_vit(global_pool="map", class_token=False),
        lambda: hf_vit("Dinov2"),
        lambda: hf_vit("Beit"),
        # Two tokens are read.
        lambda: timm.models.deit.VisionTransformerDistilled(
            img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=3
        ),
        # Other shapes draw other numbers, so that a training would be another one.
        lambda: hf_vit(hidden_dropout_prob=0.1),
        lambda: timm_vit(proj_drop_rate=0.1),
    ],
)
def test_where_more_is_read_or_drawn_everything_is_computed(model):
    prefix, _ = split(model())
    assert (prefix._first_token.layers, prefix._first_token.attentions) == ((), ())


def test_of_several_blocks_that_train_the_last_one_alone_is_shortened():
    prefix, activations = split(timm_vit(), ["blocks.1", "blocks.2", "norm", "head"], torch.float64)
    assert prefix._first_token.attentions == ("blocks.2.attn",)
    assert not any(one.startswith("blocks.1") for one in prefix._first_token.layers)
    torch.testing.assert_close(
        outcome(prefix, activations, False)[:3], outcome(prefix, activations, True)[:3], rtol=1e-10, atol=1e-14
    )


def test_looking_for_it_moves_neither_statistics_nor_random_numbers():
    model = timm_vit()
    nn.utils.parametrizations.spectral_norm(model.blocks[2].mlp.fc1)
    images = torch.randn(4, 3, 32, 32)
    select_trainable(model, "last", images)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    modes = [one.training for one in model.modules()]
    numbers = torch.get_rng_state()
    prefix = FrozenPrefix(model, images)
    assert prefix._first_token.layers
    assert torch.equal(torch.get_rng_state(), numbers)
    assert [one.training for one in model.modules()] == modes
    for name, one in model.state_dict().items():
        assert torch.equal(one, before[name]), name
