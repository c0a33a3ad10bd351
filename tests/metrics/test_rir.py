import doctest
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import evaluate
import filelock
import numpy as np
import pytest
import torch

from hf_immunize.metrics.load import load_rir
from hf_immunize.spectra.ratio import relative_immunization_ratio
from hf_immunize.spectra.spectrum import FeatureGram

FOLDER = Path(inspect.getfile(load_rir)).parent / "rir"
TASKS = ("primary", "harmful")


@pytest.fixture
def rir(tmp_path):
    return load_rir(cache_dir=str(tmp_path))


@pytest.fixture(scope="module")
def rows():
    """48 samples of 9 features, float32 under both models, tasks interleaved."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -1, 9)
    return {
        "immunized": torch.randn(48, 9, generator=generator) * scales,
        "initial": torch.randn(48, 9, generator=generator),
        "task": [TASKS[bool(i % 3)] for i in range(48)],
    }


@pytest.fixture(scope="module")
def expected(rows):
    """RIR of the same rows through the Grams of whole feature matrices."""
    chosen = torch.tensor([task == "harmful" for task in rows["task"]])
    grams = []
    for mask in (chosen, ~chosen):
        for model in ("immunized", "initial"):
            grams.append(FeatureGram(9))
            grams[-1].update(rows[model][mask])
    result = relative_immunization_ratio(*grams)
    exact = relative_immunization_ratio(
        *(rows[m][mask] for mask in (chosen, ~chosen) for m in ("immunized", "initial"))
    )
    assert result.rir == pytest.approx(exact.rir, rel=1e-9)
    assert abs(result.rir - 1) > 1
    return result.to_dict()


def take(rows, part):
    return {name: column[part] for name, column in rows.items()}


def check(result, expected):
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert type(result[name]) is type(value)
        assert result[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


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
    for start, end in ((0, 1), (1, 20), (20, 33)):
        rir.add_batch(**take(rows, slice(start, end)))
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


def start(code, *arguments, **environment):
    # The tests may run from a checkout that is not installed.
    paths = [str(FOLDER.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, **pipes)


def output(process):
    """The lines a process printed, once it has ended well."""
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed.splitlines()


SHARE = """
    import json, sys, time
    import torch
    from hf_immunize.metrics.load import load_rir

    folder, process = sys.argv[1], int(sys.argv[2])
    rows = torch.load(f"{folder}/rows.pt")
    metric = load_rir(num_process=2, process_id=process, experiment_id="test", cache_dir=f"{folder}/cache", timeout=60)
    # Uneven shares, one of which holds a single task; in the second round they change places, and the process that was
    # early is late.
    late = [i for i in range(33, 48) if rows["task"][i] == "harmful"]
    rest = [i for i in range(48) if i not in late]
    for turn in range(2):
        if process == turn:
            time.sleep(0.5)
        part = rest if process == turn else late
        task = [rows["task"][i] for i in part]
        metric.add_batch(immunized=rows["immunized"][part], initial=rows["initial"][part], task=task)
        print(json.dumps(metric.compute()))
        assert len(metric) == 0
"""


def test_two_processes_give_the_single_processs_result(rows, expected, tmp_path):
    torch.save(rows, tmp_path / "rows.pt")
    # What a killed run leaves behind under the same name: a token nobody waits for and rows that must not be counted.
    cache = tmp_path / "cache" / "rir" / "default"
    cache.mkdir(parents=True)
    (cache / "test-2-token").write_text("stale")
    (cache / "test-2-1-stale.safetensors").write_bytes(b"not to be read")
    processes = [start(SHARE, tmp_path, process) for process in (1, 0)]
    second, first = (output(process) for process in processes)
    assert len(first) == 2
    for line in first:
        check(json.loads(line), expected)
    assert second == ["null", "null"]
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(("process", "message"), [(0, "no rows from processes .1."), (1, "did not collect the rows")])
def test_a_process_that_stays_alone_says_so(rows, tmp_path, process, message):
    metric = load_rir(num_process=2, process_id=process, experiment_id="alone", cache_dir=str(tmp_path), timeout=0.3)
    metric.add_batch(**rows)
    with pytest.raises(ValueError, match=message + r"[\s\S]*experiment_id \(here 'alone'\)"):
        metric.compute()
    assert len(metric) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_two_runs_of_one_name_are_kept_apart(rows, tmp_path):
    metric = load_rir(num_process=2, experiment_id="same", cache_dir=str(tmp_path), timeout=0.3)
    with (
        filelock.FileLock(Path(metric.data_dir) / "same-2-0.lock"),
        pytest.raises(ValueError, match="its own experiment"),
    ):
        metric.compute(**rows)


def test_the_first_row_takes_the_place_and_no_rows_of_two_runs_are_added_up(rows, tmp_path):
    """A's process 0 and B's process 1 came first: their other halves are refused at once, and so is A's sum."""

    def of(process):
        return load_rir(num_process=2, process_id=process, experiment_id="two", cache_dir=str(tmp_path), timeout=5)

    first, second = of(0), of(1)
    first.add_batch(**rows)
    second.add_batch(**rows)
    for process in (0, 1):
        late = of(process)
        with pytest.raises(ValueError, match="its own experiment_id"):
            late.add_batch(**rows)
        assert len(late) == 0
    with ThreadPoolExecutor() as pool:
        other = pool.submit(second.compute)
        with pytest.raises(ValueError, match="its own experiment_id"):
            first.compute()
        assert other.exception(timeout=30) is not None or other.result() is None
    # The next run of that name starts afresh.
    first, second = of(0), of(1)
    for metric in (first, second):
        metric.add_batch(**rows)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(second.compute)
        assert first.compute()["initial_primary_n_samples"] == 2 * rows["task"].count("primary")
        assert other.result() is None


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


MEMORY = """
    import resource, sys
    import torch
    from hf_immunize.metrics.load import load_rir

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    metric = load_rir(cache_dir=sys.argv[1])
    torch.linalg.eigvalsh(torch.eye(8, dtype=torch.float64) @ torch.ones(8, 8, dtype=torch.float64))
    batch, size = {}, int(sys.argv[2])
    for name in ("immunized", "initial"):
        batch[name] = torch.randn(size, 768)
    before = peak()
    for start in range(0, 50_000, size):
        metric.add_batch(**batch, task="harmful" if start < 25_000 else "primary")
    result = metric.compute()
    assert result["initial_harmful_n_samples"] + result["initial_primary_n_samples"] == 50_000
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [500, 25_000])
def test_fifty_thousand_rows_cost_less_than_300_mib_beyond_a_batch(tmp_path, batch_size):
    (peak,) = output(start(MEMORY, tmp_path, batch_size))
    assert float(peak) < 300
