"""The metric over several processes, and its memory."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import pytest
import torch
from metric_rows import check, output, start

from hf_immunize.metrics.load import load_rir

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
