import doctest
import json
import re
import sys

import datasets
import evaluate
import numpy as np
import pytest
import torch
from metric_rows import FOLDER, TASKS, check, output, start, take

from hf_immunize.metrics.load import load_rir


def test_loads_by_path_without_a_network(rows, expected, tmp_path):
    """A proxy that refuses every connection: loading may not even try."""
    code = f"""
        import json, sys
        import evaluate, torch
        rows = torch.load({str(tmp_path / "rows.pt")!r})
        metric = evaluate.load({str(FOLDER)!r}, cache_dir={str(tmp_path)!r})
        assert metric.name == "rir" and metric.module_type == "metric"
        assert "2505.23760" in metric.citation
        print(json.dumps(metric.compute(**rows)))
    """
    torch.save(rows, tmp_path / "rows.pt")
    nowhere = "http://127.0.0.1:9"
    process = start(code, HTTPS_PROXY=nowhere, HTTP_PROXY=nowhere, HF_HOME=str(tmp_path / "home"))
    check(json.loads(output(process)[-1]), expected)


def test_batches_and_single_rows_equal_whole_features(rir, rows, expected):
    for first, end in ((0, 1), (1, 20), (20, 33)):
        rir.add_batch(**take(rows, slice(first, end)))
    for i in range(33, 48):
        rir.add(immunized=rows["immunized"][i], initial=rows["initial"][i], task=rows["task"][i])
    assert len(rir) == 48
    check(rir.compute(), expected)


def test_one_call_and_a_batch_of_one_task(rir, rows, expected):
    check(rir.compute(**rows), expected)
    for task in TASKS:
        part = torch.tensor([one == task for one in rows["task"]])
        rir.add_batch(immunized=rows["immunized"][part], initial=rows["initial"][part], task=task)
    check(rir.compute(), expected)


@pytest.mark.parametrize(
    "convert",
    [
        lambda column: column,
        lambda column: column.numpy(),
        lambda column: list(column),
        lambda column: list(column.numpy()),
        lambda column: column.tolist(),
        lambda column: tuple(map(tuple, column.tolist())),
    ],
    ids=["tensor", "array", "list of tensors", "list of arrays", "lists", "tuples"],
)
def test_takes_tensors_arrays_and_lists(tmp_path, rows, expected, convert):
    rir = load_rir(cache_dir=str(tmp_path), precision="float32")
    task = np.array(rows["task"])
    rir.add_batch(immunized=convert(rows["immunized"][:47]), initial=convert(rows["initial"][:47]), task=task[:47])
    rir.add(immunized=convert(rows["immunized"])[47], initial=convert(rows["initial"])[47], task=task[47])
    check(rir.compute(), expected)


def test_state_is_cleared_by_compute_also_after_an_error(rir, rows, expected):
    rir.add_batch(**rows)
    check(rir.compute(), expected)
    assert len(rir) == 0
    with pytest.raises(ValueError, match="No rows yet"):
        rir.compute()
    with pytest.raises(ValueError, match="No harmful rows"):
        rir.compute(**(take(rows, slice(None)) | {"task": "primary"}))
    check(rir.compute(**rows), expected)


def test_a_refused_batch_adds_nothing(rir, rows, expected):
    rir.add_batch(**take(rows, slice(0, 30)))
    broken = take(rows, slice(30, 48))
    broken["initial"] = broken["initial"].clone()
    broken["initial"][-1, 0] = torch.nan
    with pytest.raises(ValueError, match="initial: 1 of 18 feature rows hold NaN"):
        rir.add_batch(**broken)
    with pytest.raises(ValueError, match="Unknown task"):
        rir.add_batch(**(take(rows, slice(30, 48)) | {"task": ["primary"] * 17 + ["harmfull"]}))
    assert len(rir) == 30
    rir.add_batch(**take(rows, slice(30, 48)))
    check(rir.compute(), expected)


def test_precision_sets_the_floor_of_rank(tmp_path):
    smooth = torch.diag(torch.logspace(0, -6, 10, dtype=torch.float64))
    inputs = {
        "immunized": smooth.tolist() * 2,
        "initial": smooth.tolist() * 2,
        "task": ["primary"] * 10 + ["harmful"] * 10,
    }
    assert load_rir(cache_dir=str(tmp_path)).compute(**inputs)["initial_harmful_rank"] == 10
    coarse = load_rir(cache_dir=str(tmp_path), precision="float16").compute(**inputs)
    assert coarse["initial_harmful_rank"] == 4
    assert coarse["precision_limited"] is True
    for wrong in ("float33", "int32", 16):
        with pytest.raises(ValueError, match="precision must name a floating dtype"):
            load_rir(cache_dir=str(tmp_path), precision=wrong)


def test_lost_rank_arrives_as_a_bound(rir):
    base, lost = np.diag([3.0, 2.0, 1.0]), np.diag([3.0, 2.0, 0.0])
    rir.add_batch(immunized=lost, initial=base, task="harmful")
    rir.add_batch(immunized=base, initial=base, task="primary")
    result = rir.compute()
    assert (result["rir_bound"], result["rir_i_bound"], result["rir_ii_bound"]) == ("lower", "lower", "exact")
    assert (result["immunized_harmful_rank"], result["initial_harmful_rank"]) == (2, 3)
    assert result["rir"] > 1e10


def test_combines_with_another_module(tmp_path, rows, expected):
    class Count(evaluate.Metric):
        """Number of samples."""

        def _info(self):
            features = datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            )
            return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

        def _compute(self, predictions, references):
            return {"count": len(predictions)}

    both = evaluate.combine([load_rir(cache_dir=str(tmp_path)), Count(cache_dir=str(tmp_path))])
    both.add_batch(predictions=[0] * 47, references=[1] * 47, **take(rows, slice(0, 47)))
    both.add(prediction=0, reference=1, **{name: column[47] for name, column in rows.items()})
    result = both.compute()
    assert result.pop("count") == 48
    check(result, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"task": "harmfull"}, ValueError, "Unknown task 'harmfull'. Did you mean 'harmful'?"),
        ({"task": ["primary", "Primary", "harmful", "harmful"]}, ValueError, "'Primary'. Did you mean 'primary'?"),
        ({"task": "zzz"}, ValueError, "Unknown task 'zzz'. Tasks are 'primary' and 'harmful'."),
        ({"task": [0, 1, 0, 1]}, ValueError, "Unknown task 0"),
        ({"task": ["primary"] * 3}, ValueError, "task names 3 rows of 4"),
        ({"immunized": torch.ones(3, 5)}, ValueError, "immunized holds 3 rows and initial 4"),
        ({"immunized": torch.ones(4, 6)}, ValueError, "immunized has width 6 and initial 5"),
        ({"immunized": torch.ones(4)}, ValueError, r"immunized: Features must have shape \(n, d\)"),
        ({"initial": [[1.0, 2.0], [3.0], [1.0], [1.0]]}, TypeError, "initial: .* rows of one length"),
        ({"initial": [torch.ones(2), torch.ones(3)]}, ValueError, "initial: rows of different shapes"),
        ({"initial": torch.full((4, 5), torch.inf)}, ValueError, "initial: 4 of 4 feature rows hold NaN or infinite"),
        ({"labels": [0] * 4}, ValueError, "Unknown inputs .'labels'"),
        ({"task": None}, ValueError, "Inputs are missing: .'task'"),
    ],
)
def test_bad_rows_are_named(rir, change, error, message):
    generator = torch.Generator().manual_seed(0)
    good = {name: torch.randn(4, 5, generator=generator) for name in ("immunized", "initial")}
    good["task"] = ["primary", "primary", "harmful", "harmful"]
    with pytest.raises(error, match=message):
        rir.compute(**(good | change))
    assert rir.compute(**good)["rir"] > 0


def test_bad_sequences_are_named(rir):
    row = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="add takes one row"):
        rir.add(immunized=row, initial=row, task="primary")
    with pytest.raises(TypeError, match="add takes the name of one task"):
        rir.add(immunized=row[0], initial=row[0], task=["primary"])
    rir.add_batch(immunized=row, initial=row, task="primary")
    with pytest.raises(ValueError, match="width 3 after 5"):
        rir.add_batch(immunized=row[:, :3], initial=row[:, :3], task="harmful")
    rir.add(immunized=row[0], initial=row[0], task="harmful")
    with pytest.raises(ValueError, match="One harmful sample"):
        rir.compute()


def test_examples_in_the_docs_run():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    example = re.search(r"### Example\n\n```python\n(.*?)```", card, re.DOTALL).group(1)
    module = sys.modules[type(load_rir()).__module__]
    examples = [example, module._KWARGS_DESCRIPTION.replace('"path/to/metrics/rir"', repr(str(FOLDER)))]
    for text in examples:
        test = doctest.DocTestParser().get_doctest(text, {"rir": load_rir(), "evaluate": evaluate}, "card", None, 0)
        result = doctest.DocTestRunner().run(test)
        assert (result.failed, result.attempted) == (0, len(test.examples))
        assert result.attempted >= 4
