"""Trainings on streams: batches, shares, a resume, evaluations, and what cannot be."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import IterableDataset
from samples import tiny_vit
from tiny import Images, TinyNet, picture_dataset
from trainers import arguments, state
from transformers import TrainerCallback

from hf_immunize import ImmunizationTrainer, immunize
from hf_immunize.data.streams import StreamedInputs
from hf_immunize.training.streaming import PairedStream

NAMES = ("class 0", "class 1")


class Torch(torch.utils.data.IterableDataset):
    """A stream of torch of model inputs."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return (self.data[index] for index in range(len(self.data)))


def stream(n=40, **options):
    return picture_dataset(n, **options).to_iterable_dataset(num_shards=2)


def streamed(folder, model=None, **given):
    own, processor = tiny_vit(NAMES)
    sets = {name: given.pop(name) for name in list(given) if name.endswith("dataset")}
    options = {"per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-3} | given
    sets = {"train_dataset": stream(), "harmful_dataset": stream(seed=1, n_classes=3)} | sets
    return ImmunizationTrainer(model or own, arguments(folder, **options), processing_class=processor, **sets)


def paired(primary, harmful, **options):
    sizes = {"primary_batch_size": 3, "harmful_batch_size": 2, "seed": 0}
    return PairedStream(primary, harmful, **(sizes | options))


def test_batches_without_an_end_and_each_pass_shuffled_otherwise():
    batches = iter(paired(list(range(7)), Torch(list("abc"))))
    found = [next(batches) for _ in range(7)]
    assert all([name for name, _ in batch] == ["primary"] * 3 + ["harmful"] * 2 for batch in found)
    rows = [row for batch in found for name, row in batch if name == "primary"]
    assert all(sorted(rows[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
    assert rows[:7] != rows[7:14]
    # What torch streams keeps its order.
    assert [row for batch in found for name, row in batch if name == "harmful"][:6] == list("abcabc")


@pytest.mark.parametrize("make", [list, Torch])
def test_each_process_has_rows_of_its_own(make):
    shares = []
    for rank in range(2):
        batches = iter(paired(make(list(range(12))), None, rank=rank, world=2))
        shares.append({row for _ in range(2) for _, row in next(batches)})
    assert shares[0] | shares[1] == set(range(12))
    assert not shares[0] & shares[1]
    with pytest.raises(ValueError, match="no row for each reader"):
        next(iter(paired(make([1]), None, rank=1, world=2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_share_the_rows(workers):
    processor = tiny_vit(NAMES)[1]
    inputs = StreamedInputs(stream(24), processor)
    loader = torch.utils.data.DataLoader(paired(inputs, None), batch_size=None, num_workers=workers)
    batches = iter(loader)
    seen = [one["pixel_values"].sum().item() for _ in range(8) for _, one in next(batches)]
    assert sorted(seen) == pytest.approx(sorted(one["pixel_values"].sum().item() for one in inputs))


@pytest.mark.parametrize("harmful", [None, "rows", "torch"])
def test_a_training_on_streams_of_any_kind(tmp_path, harmful):
    kinds = {
        "rows": picture_dataset(30, seed=1),
        "torch": Torch([{"pixel_values": torch.randn(3, 32, 32)} for _ in range(9)]),
        None: stream(seed=1, n_classes=3),
    }
    run = streamed(tmp_path, harmful_dataset=kinds[harmful], eval_dataset=stream(30, seed=2), stream_samples=20)
    before = state(run.model)
    run.train()
    assert run.state.global_step == 4
    assert any(not torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert "Frozen part with every step: a stream is read as it comes." in run.notes
    assert "primary evaluation: took 20 rows of a stream" in run.notes
    found = run.evaluate()
    assert len(run.eval_dataset) == 20
    assert found["eval_rir"] > 0
    assert 0 <= found["eval_accuracy"] <= 1


def test_a_stream_trains_on_what_a_data_set_would(tmp_path):
    data = picture_dataset(8)
    seen = {}
    for name, one in (("stream", data.to_iterable_dataset()), ("rows", data)):
        run = streamed(tmp_path / name, train_dataset=one, harmful_dataset=data, max_steps=3, cache_frozen="off")
        run.train()
        seen[name] = state(run.model)
    # Every batch holds all eight rows, whatever their order.
    for name, value in seen["rows"].items():
        torch.testing.assert_close(seen["stream"][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_evaluate_takes_a_stream_too(tmp_path):
    run = streamed(tmp_path, stream_samples=12)
    found = run.evaluate(stream(30, seed=3), metric_key_prefix="far")
    assert {"far_accuracy", "far_rir"} <= set(found)


def test_a_resumed_run_reads_on_behind_what_it_has_seen(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    whole = streamed(tmp_path / "whole", **options)
    whole.train()
    first = streamed(tmp_path / "halves", **options)
    first.add_callback(Stop())
    first.train()
    second = streamed(tmp_path / "halves", **options)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 6
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1, "num_train_epochs": 2}, "does not say when an epoch ends.*Set max_steps"),
        ({"train_dataset": stream(n_classes=3)}, "name different classes"),
        ({"train_dataset": stream().remove_columns("label")}, "no column of labels"),
        ({"train_dataset": stream().filter(lambda row: False)}, "The stream is empty"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        streamed(tmp_path, **changes)


def test_a_cache_of_a_stream_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a stream has no rows to keep"):
        streamed(tmp_path, cache_frozen="on").train()


@pytest.mark.parametrize("kind", ["pictures", "inputs"])
def test_a_label_outside_the_head_is_said_when_it_comes(tmp_path, kind):
    rows = [{"image": one["image"], "label": 0} for one in picture_dataset(40)]
    rows[39]["label"] = 5
    given = IterableDataset.from_generator(lambda: iter(rows))
    if kind == "inputs":
        given = Torch([{"pixel_values": torch.randn(3, 32, 32), "labels": row["label"]} for row in rows])
    run = streamed(tmp_path, train_dataset=given, max_steps=20)
    with pytest.raises(ValueError, match="labels run from 0 to 5, but the model's head has 2 classes"):
        run.train()


def test_the_whole_path_takes_streams(tmp_path):
    model, processor = tiny_vit(NAMES)
    args = arguments(tmp_path, max_steps=2, per_device_train_batch_size=8, stream_samples=24, optim="adamw_torch")
    run = immunize(
        model,
        (stream(), stream(30, seed=4)),
        {"train": stream(seed=1), "test": stream(30, seed=5)},
        args,
        image_processor=processor,
        control=False,
        attackers=["ridge"],
    )
    record = json.loads(json.dumps(run.record.to_dict()))
    assert record["primary"]["n_train"] is None
    assert record["primary"]["n_eval"] == 24
    assert record["results"]["attacks"]["n_train"] == 24
    assert any("took 24 rows of the stream 'test'" in note for note in run.notes)


def test_images_of_torch_without_a_name_are_read_by_workers_too(tmp_path):
    run = streamed(
        tmp_path,
        train_dataset=Torch(Images(20, n_classes=2)),
        harmful_dataset=Images(9),
        dataloader_num_workers=1,
        model=TinyNet(n_classes=2),
    )
    run.train()
