"""Two streams as one data set, one sampler, one collator."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from row_sources import AtOnce, OneByOne, Wrapper
from tiny import Images
from torch.utils.data import DataLoader

from hf_immunize.data.collate import collate_images
from hf_immunize.training.pairing import PairedBatchSampler, PairedCollator, PairedDataset


def sampler(n_primary=10, n_harmful=4, batch=(3, 2), seed=0):
    harmful = range(n_harmful) if n_harmful else None
    return PairedBatchSampler(PairedDataset(range(n_primary), harmful), *batch, seed)


def test_primary_samples_come_first_and_each_says_which_it_is():
    paired = PairedDataset(["a", "b"], ["x", "y", "z"])
    assert (len(paired), paired.n_primary, paired.n_harmful) == (5, 2, 3)
    assert [paired[index] for index in range(5)] == [
        ("primary", "a"),
        ("primary", "b"),
        ("harmful", "x"),
        ("harmful", "y"),
        ("harmful", "z"),
    ]
    assert paired.__getitems__([4, 0]) == [("harmful", "z"), ("primary", "a")]
    alone = PairedDataset(["a"], None)
    assert (len(alone), alone.n_harmful, alone[0]) == (1, 0, ("primary", "a"))


def test_rows_of_a_source_that_gives_many_at_once_are_asked_for_together():
    paired = PairedDataset(AtOnce("abc"), AtOnce("xy"))
    # A harmful row may come twice in a batch, and its transform may give another picture then.
    assert paired.__getitems__([2, 4, 0, 3, 4]) == [
        ("primary", "c0"),
        ("harmful", "y0"),
        ("primary", "a1"),
        ("harmful", "x1"),
        ("harmful", "y2"),
    ]


@pytest.mark.parametrize("source", [OneByOne("abc"), Wrapper(AtOnce("abc"))])
def test_what_changes_a_single_row_is_not_passed_by(source):
    assert PairedDataset(source, None).__getitems__([2, 0]) == [("primary", "C"), ("primary", "A")]


def test_an_epoch_is_one_pass_over_the_primary_data_and_recycles_the_harmful_ones():
    batches = list(sampler())
    assert len(batches) == len(sampler()) == 3
    primary = [index for batch in batches for index in batch[:3]]
    harmful = [index for batch in batches for index in batch[3:]]
    assert len(set(primary)) == 9
    assert set(primary) <= set(range(10))
    # Six harmful places for four samples: all of them once, then two anew.
    assert sorted(harmful[:4]) == [10, 11, 12, 13]
    assert set(harmful[4:]) <= {10, 11, 12, 13}
    assert len(set(harmful[4:])) == 2


def test_a_batch_larger_than_the_harmful_data_holds_each_as_often_as_the_others():
    (batch,) = sampler(n_primary=2, n_harmful=3, batch=(2, 6))
    assert sorted(batch[2:]) == [2, 2, 3, 3, 4, 4]


def test_longer_harmful_data_are_left_over_and_none_is_taken_twice():
    batches = list(sampler(n_primary=6, n_harmful=50, batch=(3, 4)))
    harmful = [index for batch in batches for index in batch[3:]]
    assert len(set(harmful)) == len(harmful) == 8
    assert min(harmful) >= 6


def test_the_order_depends_on_seed_and_epoch_alone():
    one, other = sampler(), sampler()
    assert list(one) == list(one) == list(other)
    one.set_epoch(1)
    second = list(one)
    assert second != list(other)
    # Epoch 1 of seed 0 must not be asked for through what ran before: a resumed run starts there.
    resumed = sampler()
    resumed.set_epoch(1)
    assert list(resumed) == second
    assert list(sampler(seed=5)) != list(sampler(seed=6))


def test_without_a_harmful_stream_batches_are_primary_alone():
    alone = sampler(n_harmful=0)
    assert alone.batch_size == 3
    assert all(len(batch) == 3 and max(batch) < 10 for batch in alone)


def test_a_loader_that_accelerate_prepared_reshuffles_with_the_epoch():
    paired = PairedDataset(Images(10), Images(4, labels=False))
    loader = Accelerator(cpu=True).prepare(
        DataLoader(paired, batch_sampler=PairedBatchSampler(paired, 3, 2, 0), collate_fn=PairedCollator(collate_images))
    )

    def images(epoch):
        loader.set_epoch(epoch)
        return [batch["primary"]["pixel_values"] for batch in loader]

    first, second = images(0), images(1)
    rows = [index for batch in PairedBatchSampler(paired, 3, 2, 0) for index in batch[:3]]
    assert torch.equal(torch.cat(first), paired.primary.x[rows])
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_the_collator_keeps_the_streams_apart():
    primary, harmful = Images(3), Images(2, labels=False)
    collate = PairedCollator(collate_images)
    batch = collate(
        [("harmful", harmful[1]), ("primary", primary[2]), ("primary", primary[0]), ("harmful", harmful[0])]
    )
    assert torch.equal(batch["primary"]["pixel_values"], primary.x[[2, 0]])
    assert torch.equal(batch["primary"]["labels"], primary.y[[2, 0]])
    assert torch.equal(batch["harmful"]["pixel_values"], harmful.x[[1, 0]])
    assert set(batch["harmful"]) == {"pixel_values"}
    assert set(collate([("primary", primary[0])])) == {"primary"}


def test_sources_with_an_epoch_of_their_own_are_told():
    class Augmented(Images):
        def set_epoch(self, epoch):
            self.epoch = epoch

    paired = PairedDataset(Augmented(3), Images(2))
    paired.set_epoch(4)
    assert paired.primary.epoch == 4


def test_sources_that_cannot_be_say_what_to_do():
    stream = iter([1, 2])
    with pytest.raises(TypeError, match=r"harmful data must have a length .*got list_iterator"):
        PairedDataset(Images(3), stream)
    with pytest.raises(ValueError, match="primary data set is empty"):
        PairedDataset(Images(0), Images(3))
    with pytest.raises(ValueError, match="harmful data set is empty"):
        PairedDataset(Images(3), Images(0))
    with pytest.raises(ValueError, match=r"holds 2 samples, fewer than one batch of 3. Lower per_device"):
        sampler(n_primary=2)
