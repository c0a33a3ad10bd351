"""Activations of whole data sets behind a frozen part: made once, in memory or on disk, and never stale ones."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import tiny_timm
from tiny import Images, TinyNet, picture_dataset
from torch.utils.data import Dataset, Subset

from hf_immunize.data.images import ImageInputs
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.errors import OutputError
from hf_immunize.models import activation_files, activations
from hf_immunize.models.activations import ActivationStore, CachedActivations
from hf_immunize.models.frozen_prefix import FrozenPrefix
from hf_immunize.models.trainable import select_trainable


@pytest.fixture
def prefix(tiny_net):
    select_trainable(tiny_net, "last", torch.randn(2, 3, 8, 8))
    return FrozenPrefix(tiny_net, torch.randn(2, 3, 8, 8))


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Stores of one folder, none of which keeps anything in memory."""
    monkeypatch.setattr(activations, "MOST_IN_MEMORY", 0)
    return lambda most=1e9: ActivationStore(most, folder=tmp_path / "kept")


@pytest.fixture
def runs(monkeypatch):
    """How many images each call of a frozen part was given."""
    found, run = [], FrozenPrefix.__call__
    monkeypatch.setattr(FrozenPrefix, "__call__", lambda self, images: found.append(len(images)) or run(self, images))
    return found


def inputs(n=30, seed=1, **config):
    return ImageInputs(picture_dataset(n, seed=seed), TimmImageProcessor({"input_size": (3, 8, 8), **config}))


def test_cached_activations_are_the_prefix_of_each_sample(tiny_net, prefix, primary, harmful):
    cached = CachedActivations(prefix, primary, batch_size=40)
    assert len(cached) == len(primary)
    assert torch.equal(cached.labels, primary.y)
    tiny_net.eval()
    expected = tiny_net.blocks[1](tiny_net.blocks[0](tiny_net.stem(primary.x)))
    torch.testing.assert_close(cached.activations, expected.detach())
    assert torch.equal(cached[7]["activations"], cached.activations[7])
    assert "labels" not in CachedActivations(prefix, harmful)[0]


def test_activations_are_kept_by_the_frozen_part_and_the_rows(tiny_net, prefix, primary):
    store = ActivationStore()
    whole = store.of(prefix, primary)
    assert store.of(prefix, primary) is whole
    # The same rows of the same data, drawn twice, are the same; other rows are not.
    some = store.of(prefix, Subset(primary, [3, 5]))
    assert store.of(prefix, Subset(primary, [3, 5])) is some
    assert store.of(prefix, Subset(primary, [5, 3])) is not some
    assert torch.equal(some.activations, whole.activations[[3, 5]])
    # What trains may move; another frozen part is another one.
    with torch.no_grad():
        tiny_net.widen.weight += 1
    assert store.of(prefix, primary) is whole
    with torch.no_grad():
        tiny_net.stem.weight += 1
    assert store.of(prefix, primary) is not whole


@pytest.mark.parametrize("make", [inputs, lambda: Subset(inputs(), [4, 2, 9]), lambda: Images(30)])
def test_what_lies_on_disk_is_what_would_stand_in_memory(prefix, on_disk, make):
    data = make()
    expected = CachedActivations(prefix, data)
    store = on_disk()
    found = store.of(prefix, data, batch_size=7)
    assert store.of(prefix, data) is found
    assert found.nbytes == 0 < expected.nbytes
    assert len(found) == len(expected)
    for one in (found, pickle.loads(pickle.dumps(found))):
        torch.testing.assert_close(one.activations, expected.activations)
        torch.testing.assert_close(one[-1]["activations"], expected[len(data) - 1]["activations"])
        assert [int(one[row]["labels"]) for row in range(len(data))] == expected.labels.tolist()
    with pytest.raises(IndexError):
        found[len(data)]


def test_a_later_run_reads_what_an_earlier_one_made(prefix, on_disk, runs, tmp_path):
    made = on_disk().of(prefix, inputs())
    del runs[:]
    # Read anew, with labels that are others: pictures and processor are the same.
    data = inputs()
    data.labels = [1 - label for label in data.labels]
    found = on_disk().of(prefix, data)
    assert sum(runs) == 3, "an image for its size, and both ends for a check"
    assert torch.equal(found.activations, made.activations)
    assert found.labels.tolist() == data.labels
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 1


def test_nothing_stale_is_read(tiny_net, prefix, on_disk, tmp_path):
    on_disk().of(prefix, inputs())

    def made_anew(data):
        found = on_disk().of(prefix, data)
        torch.testing.assert_close(found.activations, CachedActivations(prefix, data).activations)
        return len(list((tmp_path / "kept").glob("*.npy")))

    assert made_anew(inputs()) == 1
    assert made_anew(inputs(mean=(0.1, 0.1, 0.1))) == 2
    assert made_anew(inputs(seed=2)) == 3
    assert made_anew(Subset(inputs(), range(29, -1, -1))) == 4
    one_other = picture_dataset(30, seed=1).map(
        lambda row, place: {"image": row["image"].rotate(90)} if place == 13 else row, with_indices=True
    )
    assert made_anew(ImageInputs(one_other, inputs().image_processor)) == 5
    with torch.no_grad():
        tiny_net.blocks[1].norm.running_mean += 1
    assert made_anew(inputs()) == 6


def test_a_file_that_no_longer_agrees_is_made_again(prefix, on_disk, tmp_path):
    expected = on_disk().of(prefix, inputs()).activations
    (path,) = (tmp_path / "kept").glob("*.npy")
    for broken in (np.zeros(expected.shape, np.float32), np.zeros((2, 3), np.float32)):
        np.save(path, broken)
        assert torch.equal(on_disk().of(prefix, inputs()).activations, expected)
    path.write_bytes(path.read_bytes()[:-400])
    assert torch.equal(on_disk().of(prefix, inputs()).activations, expected)


def test_nothing_half_written_is_left_or_read(prefix, on_disk, tmp_path, monkeypatch):
    def fails_late(self, images):
        if len(images) == 2:
            raise OSError(28, "No space left on device")
        return run(self, images)

    run = FrozenPrefix.__call__
    with monkeypatch.context() as patched:
        patched.setattr(FrozenPrefix, "__call__", fails_late)
        with pytest.raises(OutputError, match="No space left"):
            on_disk().of(prefix, inputs(), batch_size=7)
    assert not [*(tmp_path / "kept").glob("*.npy"), *(tmp_path / "kept").glob("*.part")]
    assert len(on_disk().of(prefix, inputs(), batch_size=7)) == 30


def test_without_room_it_is_said_with_the_figures(prefix, on_disk, monkeypatch):
    fits, told = on_disk(91_000).fits(prefix, inputs(), Images(200))
    assert not fits
    assert "0.00307 MB an image, 230 images, 0.000707 GB of activations, of which 9.1e-05 GB may lie on disk" in told
    assert on_disk(1e6).fits(prefix, inputs(), Images(200))[0]
    # Half of what is free, whatever was allowed.
    monkeypatch.setattr(activation_files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e6}))
    assert not on_disk(1e9).fits(prefix, inputs(), Images(200))[0]
    monkeypatch.setattr(activations, "MOST_IN_MEMORY", 2**30)
    assert on_disk(0).fits(prefix, inputs(), Images(200)) == (
        True,
        "0.00307 MB an image, 230 images, 0.000707 GB of activations in memory",
    )


def test_the_files_used_longest_ago_make_room(prefix, on_disk, tmp_path):
    size = 30 * 12 * 8 * 8 * 4 + 200
    kept = [on_disk(2 * size).of(prefix, inputs(seed=1))]
    time.sleep(0.02)
    kept.append(on_disk(2 * size).of(prefix, inputs(seed=2)))
    time.sleep(0.02)
    on_disk(2 * size).of(prefix, inputs(seed=1))
    before = set((tmp_path / "kept").glob("*.npy"))
    gone = kept[1].rows.path
    kept.append(on_disk(2 * size).of(prefix, inputs(seed=3)))
    after = set((tmp_path / "kept").glob("*.npy"))
    assert len(after) == 2
    assert before - after == {gone}
    # Whoever reads it already goes on.
    torch.testing.assert_close(kept[1][4]["activations"], CachedActivations(prefix, inputs(seed=2))[4]["activations"])


def test_what_belongs_to_one_run_goes_with_it(prefix, on_disk, tmp_path):
    store = on_disk()
    store.of(prefix, Images(30))
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 1
    del store
    assert not list((tmp_path / "kept").glob("*.npy"))


def _in_a_process(folder, ready, shown):
    torch.set_num_threads(1)
    model = tiny_timm()
    select_trainable(model, "last", torch.randn(2, 3, 32, 32))
    prefix, data = FrozenPrefix(model, torch.randn(2, 3, 32, 32)), inputs(60, input_size=(3, 32, 32))
    activations.MOST_IN_MEMORY, made, write = 0, [], activations.write_rows
    activations.write_rows = lambda *args: made.append(1) or write(*args)
    ready.wait()
    found = ActivationStore(1e9, folder=folder).of(prefix, data, batch_size=2)
    shown.put((len(made), float(found.activations.double().sum())))


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, shown = context.Barrier(2), context.Queue()
    both = [context.Process(target=_in_a_process, args=(tmp_path, ready, shown)) for _ in range(2)]
    for one in both:
        one.start()
    found = [shown.get(timeout=60) for _ in both]
    for one in both:
        one.join()
    assert sorted(made for made, _ in found) == [0, 1]
    assert found[0][1] == found[1][1]


class _Drawn(Dataset):
    """Images that are made when they are asked for."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return {"pixel_values": torch.full((3, 32, 32), float(index % 7))}


def _memory(name):
    return next(
        int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines() if name in line
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux tells it")
def test_memory_does_not_grow_with_the_images(on_disk):
    model = TinyNet().eval()
    select_trainable(model, "last", torch.randn(2, 3, 32, 32))
    prefix, grown = FrozenPrefix(model, torch.randn(2, 3, 32, 32)), {}
    for n in (100, 500, 2_000):
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
        store = on_disk()
        cached = store.of(prefix, _Drawn(n))
        assert sum(float(cached[row]["activations"][0, 0, 0]) for row in range(0, n, 3)) != 0
        grown[n] = _memory("VmHWM") - before
    # 49 kB an image: 98 MB of 2,000 images, 25 MB of 500.
    assert grown[2_000] - grown[500] < 10, grown
