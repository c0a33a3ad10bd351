"""Two processes on the CPU give what one process gives, exactly: features, weights, RIR, a released folder."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from samples import tiny_vit
from tiny import Images, TinyNet, picture_dataset
from torch.utils.data import Subset
from training.distributed_worker import SIZES, model_and_data, purged
from transformers import AutoModelForImageClassification

from hf_immunize import evaluate_immunization, features_and_logits, features_r_ill, features_r_well
from hf_immunize.metrics.report import Protocol
from hf_immunize.models.extraction import extract_features
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.training.pairing import PairedBatchSampler, PairedDataset

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")


def in_two_processes(what, folder):
    worker = Path(__file__).with_name("distributed_worker.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launch, str(worker), what, str(folder)],
        # With what is under test, wherever it stands.
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(worker.parents[1]), *sys.path])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found; one start serves all tests."""
    folder = tmp_path_factory.mktemp("two")
    model, processor = tiny_vit(("class 0", "class 1"))
    model.save_pretrained(folder / "vit")
    processor.save_pretrained(folder / "vit")
    picture_dataset(40, seed=1).save_to_disk(folder / "primary")
    picture_dataset(31, seed=2).save_to_disk(folder / "harmful")
    names = ("primary", "harmful")
    command = [
        "train",
        "--model",
        str(folder / "vit"),
        *(part for one in names for part in (f"--{one}", str(folder / one))),
    ]
    command += ["--output_dir", str(folder / "out"), "--max_steps", "2", "--batch_size", "4", "--use_cpu", "--json"]
    (folder / "command.txt").write_text("\n".join(command))
    ended = in_two_processes("all", folder)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    assert [one["processes"] for one in found] == [2, 2]
    return found, folder, ended.stdout


@pytest.mark.parametrize("n", SIZES)
def test_all_processes_get_the_features_of_all_rows_in_order(two, n):
    model, primary, _ = model_and_data()
    alone = extract_features(model, Subset(primary, range(n)))
    for one in two[0]:
        torch.testing.assert_close(one["extracted"][n].features, alone.features)
        torch.testing.assert_close(one["extracted"][n].logits, alone.logits)
        assert torch.equal(one["extracted"][n].labels, primary.y[:n])


def test_two_halves_of_a_batch_train_as_the_whole(two):
    model, primary, harmful = model_and_data()
    start = copy.deepcopy(model.state_dict())
    sampler = PairedBatchSampler(PairedDataset(primary, harmful), 8, 6, seed=42)
    halves = [torch.tensor(rows) for rows in sampler]
    trained = [*model.blocks[2].parameters(), *model.widen.parameters(), *model.score.parameters()]
    optimizer = torch.optim.SGD(trained, lr=1e-2, momentum=0.9, nesterov=True)
    model.eval()
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 1e-2 * (4 - step) / 4
        pair = halves[2 * step : 2 * step + 2]
        kept, attacked = torch.cat([rows[:8] for rows in pair]), torch.cat([rows[8:] for rows in pair]) - 96
        optimizer.zero_grad()
        features, logits = features_and_logits(model, torch.cat([primary.x[kept], harmful.x[attacked]]))
        task = F.cross_entropy(logits[:16], primary.y[kept])
        (task + 0.7 * features_r_well(features[:16]) + 0.3 * features_r_ill(features[16:])).backward()
        optimizer.step()
    (first, second), _, _ = two
    assert first["wrapped"] == "DistributedDataParallel"
    moved = 0
    for name, value in model.state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-6, msg=name)
        moved = max(moved, (value - start[name]).abs().max().item())
    assert moved > 1e-3


def test_each_process_reads_every_second_row_of_a_stream(two):
    model, primary, harmful = model_and_data()
    trained = [*model.blocks[2].parameters(), *model.widen.parameters(), *model.score.parameters()]
    optimizer = torch.optim.SGD(trained, lr=1e-2, momentum=0.9, nesterov=True)
    model.eval()
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 1e-2 * (4 - step) / 4
        # Process k reads rows k, k + 2, …, and begins anew where they end.
        rows = {
            "kept": [rank + 2 * (8 * step + row) for rank in range(2) for row in range(8)],
            "slowed": [
                list(range(rank, 41, 2))[(6 * step + row) % len(range(rank, 41, 2))]
                for rank in range(2)
                for row in range(6)
            ],
        }
        optimizer.zero_grad()
        images = torch.cat([primary.x[rows["kept"]], harmful.x[rows["slowed"]]])
        features, logits = features_and_logits(model, images)
        task = F.cross_entropy(logits[:16], primary.y[rows["kept"]])
        (task + 0.7 * features_r_well(features[:16]) + 0.3 * features_r_ill(features[16:])).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        for one in two[0]:
            torch.testing.assert_close(one["streamed"][name], value, rtol=0, atol=1e-6, msg=name)


def test_a_budget_is_kept_as_one_over_all_processes(two):
    one, other = (found["budgeted"] for found in two[0])
    assert one["facts"] == other["facts"]
    assert one["facts"]["course"][1]["multiplier"] < 1
    assert all(torch.equal(value, other["weights"][name]) for name, value in one["weights"].items())
    # The accuracy is that of all held-out rows, of which there are as many as one process would hold out.
    data = Images(201, seed=1)
    accuracies = []
    torch.manual_seed(0)
    model = TinyNet()
    for weights in (model.state_dict(), one["weights"]):
        model.load_state_dict(weights)
        logits = model.eval()(data.x[one["rows"]])
        accuracies.append((logits.argmax(1) == data.y[one["rows"]]).double().mean().item())
    assert one["facts"]["held_out"] == len(one["rows"]) == 100
    assert accuracies == [one["facts"]["initial_accuracy"], one["facts"]["final_accuracy"]]


def test_evaluation_in_mid_run_is_that_of_one_process(two):
    (first, second), _, _ = two
    evaluated = [[entry for entry in one["history"] if "eval_rir" in entry] for one in (first, second)]
    assert [entry["step"] for entry in evaluated[0]] == [2, 4]
    exact = ("eval_rir", "eval_rir_i", "eval_rir_ii", "eval_accuracy", "eval_loss")
    for one, other in zip(*evaluated, strict=True):
        assert [one[name] for name in exact] == [other[name] for name in exact]

    base, primary, harmful = model_and_data()
    model = copy.deepcopy(base)
    model.load_state_dict(first["weights"])
    rows = [torch.randperm(len(data), generator=torch.Generator().manual_seed(0)) for data in (primary, harmful)]
    ordered = [Subset(data, order.tolist()) for data, order in zip((primary, harmful), rows, strict=True)]
    report = evaluate_immunization(model, base, *ordered, protocol=Protocol(3, 10), float64=False)
    last = evaluated[0][-1]
    assert last["eval_rir"] == pytest.approx(report.rir, rel=1e-3)
    assert last["eval_rir_ii"] == pytest.approx(report.rir_ii, rel=1e-3)
    logits = model.eval()(primary.x)
    assert last["eval_accuracy"] == pytest.approx((logits.argmax(1) == primary.y).double().mean().item())
    assert last["eval_loss"] == pytest.approx(F.cross_entropy(logits, primary.y).item(), rel=1e-4)


def test_logged_parts_add_up_over_processes(two):
    logged = [entry for entry in two[0][0]["history"] if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert entry["task_loss"] + entry["r_well"] + entry["r_ill"] == pytest.approx(entry["loss"], rel=1e-4)


def test_the_command_line_writes_one_release_from_two_processes(two):
    found, folder, printed = two
    assert [one["status"] for one in found] == [0, 0]
    assert printed.count('"results"') == 1
    record = ImmunizationRecord.load(folder / "out")
    assert record.training["processes"] == 2
    assert record.training["primary_batch_size"] == 8
    assert record.training["steps"] == 2
    assert record.results["rir"]["immunized"]["n_harmful"] == 7
    model = AutoModelForImageClassification.from_pretrained(folder / "out")
    assert model.config.id2label == {0: "class 0", 1: "class 1"}


def test_a_resume_over_two_processes_ends_in_the_weights_of_an_uninterrupted_run(two):
    for one in two[0]:
        for name, value in one["whole"].items():
            assert torch.equal(one["resumed"][name], value), name


@pytest.mark.slow
def test_a_run_whose_first_process_was_killed_is_resumed_over_two(two, tmp_path):
    folder = tmp_path / "killed"
    assert in_two_processes("killed", folder).returncode != 0
    assert not list(tmp_path.glob("*.pt"))
    again = in_two_processes("killed", folder)
    assert again.returncode == 0, again.stderr[-4000:]
    for rank, one in enumerate(two[0]):
        found = torch.load(f"{folder}-rank{rank}.pt")
        assert all(torch.equal(found[name], value) for name, value in one["whole"].items())


def test_a_training_of_two_phases_is_that_of_one_process(two, tmp_path):
    alone = purged(tmp_path)
    for one in two[0]:
        for name, value in alone.items():
            torch.testing.assert_close(one["purged"][name], value, rtol=1e-4, atol=1e-5)
