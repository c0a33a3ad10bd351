"""Whether the frozen part runs once: every reason against it, and that it changes nothing."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from samples import tiny_timm
from tiny import Images, Skips, TinyNet, picture_dataset
from trainers import arguments, tiny_vit, trainer

from hf_immunize.data.images import ImageInputs
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.errors import OutputError
from hf_immunize.models import activation_files, activations
from hf_immunize.models.activations import ActivationStore
from hf_immunize.models.trainable import select_trainable
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
    store = ActivationStore(args.cache_frozen_gb * 1e9, folder=tmp_path / "kept")
    return cached_streams(model, streams, sample, args, store, own_collator=own_collator)


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
        (lambda: {"own_collator": True}, "data_collator of your own"),
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


def test_activations_beyond_memory_lie_on_disk_and_beyond_that_there_are_none(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(activations, "MOST_IN_MEMORY", 1_000)
    given = {"streams": [Still(64, seed=1), Still(40, seed=2, labels=False)]}
    prefix, found, note = decided(tmp_path, **given)
    assert prefix is not None
    assert note.endswith("0.00307 MB an image, 104 images, 0.000319 GB of activations, 0.000319 GB of it on disk.")
    assert found[0].rows.path.parent == tmp_path / "kept"
    prefix, found, note = decided(tmp_path, cache_frozen_gb=2e-4, **given)
    assert prefix is None
    assert found == given["streams"]
    assert "0.000319 GB of activations, of which 0.0002 GB may lie on disk" in note
    with pytest.raises(ValueError, match=r"of which 0.0002 GB may lie on disk.*Raise cache_frozen_gb"):
        decided(tmp_path, cache_frozen_gb=2e-4, cache_frozen="on")
    with pytest.raises(ValueError, match="cache_frozen_gb must be a number of 0 or more"):
        decided(tmp_path, cache_frozen_gb=-1.0)


def test_a_cache_that_cannot_be_written_ends_no_run_that_did_not_insist(tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "MOST_IN_MEMORY", 1_000)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(activation_files.os, "fsync", full)
    prefix, _, note = decided(tmp_path)
    assert prefix is None
    assert note == "Frozen part with every step: its activations could not be written."
    with pytest.raises(OutputError, match="No space left on device"):
        decided(tmp_path, cache_frozen="on")


def test_whoever_insists_is_told_where_it_cannot_be(tmp_path):
    assert decided(tmp_path, streams=[Images(64), None], max_steps=1, cache_frozen="on")[0] is not None
    with pytest.raises(ValueError, match=r"cannot be run once for all|gives other logits"):
        decided(tmp_path, model=Skips().eval(), cache_frozen="on")


def same_weights(one, other, atol=1e-6):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("most", [0, 2**30], ids=["disk", "memory"])
@pytest.mark.parametrize("build", [tiny_vit, tiny_timm], ids=["ViT", "ResNet"])
def test_cached_and_uncached_training_give_the_same_weights(tmp_path, monkeypatch, build, most):
    monkeypatch.setattr(activations, "MOST_IN_MEMORY", most)
    monkeypatch.setattr(activation_files, "cached_assets_path", lambda *_, **__: tmp_path)
    start, trained = build(), {}
    for mode in ("on", "off"):
        trained[mode] = copy.deepcopy(start)
        run = trainer(
            tmp_path, trained[mode], Still(48, seed=1), Still(40, seed=2), cache_frozen=mode, learning_rate=1e-3
        )
        run.train()
        assert (run._prefix is not None) == (mode == "on")
    same_weights(trained["on"], trained["off"])
    with pytest.raises(AssertionError):
        same_weights(trained["on"], start, atol=1e-4)


def test_a_run_goes_on_with_activations_from_disk(tmp_path, monkeypatch):
    """From the checkpoint in its middle, in another trainer on data read anew."""
    monkeypatch.setattr(activations, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(activation_files, "cached_assets_path", lambda *_, **__: tmp_path)
    start, processor = tiny_vit(), TimmImageProcessor({"input_size": (3, 8, 8)})
    made, write = [], activations.write_rows
    monkeypatch.setattr(activations, "write_rows", lambda *args: made.append(1) or write(*args))

    def run(checkpoint=None):
        model = copy.deepcopy(start)
        data = [ImageInputs(picture_dataset(48, seed=seed), processor) for seed in (1, 2)]
        one = trainer(tmp_path / "run", model, *data, save_strategy="steps", save_steps=3)
        one.train(resume_from_checkpoint=checkpoint)
        assert one._prefix is not None
        return model

    whole = run()
    same_weights(run(str(tmp_path / "run" / "checkpoint-3")), whole, atol=0)
    assert len(made) == 2, "both data sets once for both runs"
