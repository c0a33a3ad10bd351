"""Whether the frozen part runs once: every reason against it, and that it changes nothing."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from samples import tiny_timm
from tiny import Images, Skips, TinyNet
from trainers import arguments, tiny_vit, trainer

from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.trainable import select_trainable
from hf_immunize.training import caching
from hf_immunize.training.caching import cached_streams


class Still(Images):
    """The same tensors each time, and known for it."""

    is_deterministic = True


def decided(tmp_path, *, model=None, streams=None, own_collator=False, more=None, **changes):
    model = TinyNet().eval() if model is None else model
    streams = [Still(64, seed=1), Still(40, seed=2, labels=False)] if streams is None else streams
    images = torch.randn(2, 3, 8, 8, dtype=next(model.parameters()).dtype)
    select_trainable(model, "last", images)
    sample = {"pixel_values": images, **(more or {})}
    args = arguments(tmp_path, **changes)
    return cached_streams(model, streams, sample, args, ActivationStore(), own_collator=own_collator)


def test_images_that_are_read_more_than_once_are_run_once(tmp_path):
    streams = [Still(64, seed=1), None]
    prefix, found, note = decided(tmp_path, streams=streams)
    assert prefix is not None
    assert "run once for each image" in note
    assert found[1] is None
    assert len(found[0]) == 64
    assert "activations" in found[0][0]
    assert "pixel_values" not in found[0][0]
    torch.testing.assert_close(found[0][5]["activations"], prefix(streams[0].x[5:6])[0])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda: {"cache_frozen": "off"}, "cache_frozen is off"),
        (lambda: {"more": {"labels": torch.zeros(2), "mask": torch.zeros(2)}}, "takes mask beside images"),
        (lambda: {"model": torch.compile(TinyNet().eval(), backend="eager")}, "compiled or sharded"),
        (lambda: {"model": TinyNet().eval().double()}, "not in float32"),
        (lambda: {"own_collator": True}, "may be augmented"),
        (lambda: {"streams": [Still(64), Images(40)]}, "may be augmented"),
        (lambda: {"max_steps": 1}, "32 images are read of 104, each about once"),
        (lambda: {"max_steps": -1, "num_train_epochs": 1.0, "streams": [Still(70), None]}, "64 images are read of 70"),
        (lambda: {"model": Skips().eval()}, "cannot be run once for all|gives other logits"),
    ],
)
def test_each_reason_against_it_is_said(tmp_path, given, reason):
    given = given()
    streams = given.setdefault("streams", [Still(64, seed=1), Still(40, seed=2, labels=False)])
    prefix, found, note = decided(tmp_path, **given)
    assert prefix is None
    assert all(one is other for one, other in zip(found, streams, strict=True))
    assert note.startswith("Frozen part with every step: ")
    assert re.search(reason, note), note


def test_activations_beyond_memory_are_kept_only_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "MOST_BYTES", 1_000)
    prefix, _, note = decided(tmp_path)
    assert prefix is None
    assert "more than 0.0 GB" in note
    assert decided(tmp_path, cache_frozen="on")[0] is not None


def test_whoever_insists_is_told_where_it_cannot_be(tmp_path):
    assert decided(tmp_path, streams=[Images(64), None], max_steps=1, cache_frozen="on")[0] is not None
    with pytest.raises(ValueError, match=r"cannot be run once for all|gives other logits"):
        decided(tmp_path, model=Skips().eval(), cache_frozen="on")


@pytest.mark.parametrize("build", [tiny_vit, tiny_timm], ids=["ViT", "ResNet"])
def test_cached_and_uncached_training_give_the_same_weights(tmp_path, build):
    start, trained = build(), {}
    for mode in ("on", "off"):
        trained[mode] = copy.deepcopy(start)
        run = trainer(
            tmp_path, trained[mode], Still(48, seed=1), Still(40, seed=2), cache_frozen=mode, learning_rate=1e-3
        )
        run.train()
        assert (run._prefix is not None) == (mode == "on")
    moved = 0.0
    for (name, before), a, b in zip(
        start.state_dict().items(), trained["on"].state_dict().values(), trained["off"].state_dict().values(),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
        moved = max(moved, (a - before).abs().max().item())
    assert moved > 1e-4
