"""Runs of the command line in child processes that are stopped at a chosen moment, and what they leave."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers.modeling_utils
from commands import training
from matplotlib.figure import Figure
from safetensors.torch import load_file

from hf_immunize.cli.main import main
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.training import ratio_in_mid_run, theta_zero
from hf_immunize.training.trainer import ImmunizationTrainer

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
#: Of a file's path, or of both where there are two.
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"}
#: Figures of the clock, which no two runs share.
OF_THE_CLOCK = ("seconds", "runtime", "per_second")


@dataclass(frozen=True)
class Stop:
    """When a child stops, and by which signal: at its ``moment``-th file operation, step or pass, counted from 1."""

    moment: int
    by: int


def options(world: Path, output: Path, *, fit: bool, dropout: bool, evaluation: bool) -> list[str]:
    """A training of four steps with two checkpoints, its log out of step with both."""
    more = ["--save_steps", "2", "--logging_steps", "3", "--attackers", "ridge", "--keep", "initial", "control"]
    more += ["--learning_rate", "0.02", "--warmup_steps", "0", "--disable_tqdm", "true", "--report_to", "none"]
    more += ["--fit_steps", "3"] if fit else []
    if evaluation:
        more += ["--eval_strategy", "steps", "--eval_steps", "1", "--rir_groups", "2", "--rir_group_size", "5"]
        more += ["--load_best_model_at_end", "--metric_for_best_model", "eval_loss"]
    return training(world, output, *more, model="dropout" if dropout else "vit")


def run(given: list[str], log: Path, stop: Stop | None = None) -> tuple[int, int]:
    """One command in a child: its status, negative for a signal as in `subprocess`, and the moments that it lived."""
    counted, written = os.pipe()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(target, 1)
            os.dup2(target, 2)
            moments = _Moments(Path(given[given.index("--output_dir") + 1]).parent, stop)
            status = main(given)
            os.write(written, str(moments.passed).encode())
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(written)
    _, status = os.waitpid(child, 0)
    found = os.read(counted, 100)
    os.close(counted)
    return os.waitstatus_to_exitcode(status), int(found or 0)


class _Moments:
    """Counts what happens to files below a folder, steps and passes over data, and stops at one of them."""

    def __init__(self, folder: Path, stop: Stop | None) -> None:
        self.folder, self.stop, self.passed = str(folder), stop, 0
        # What is there before the run costs nothing at each of the Trainer's collections, and figures take seconds.
        gc.freeze()
        Figure.savefig = lambda _, path, **__: Path(path).write_bytes(b"a figure")
        sys.addaudithook(self._heard)
        for module, name in (
            (torch, "save"),
            (safetensors.torch, "save_file"),
            (theta_zero, "save_file"),
            (transformers.modeling_utils, "safe_save_file"),
        ):
            setattr(module, name, self._cutting(getattr(module, name)))
        ImmunizationTrainer.compute_loss = self._counted(ImmunizationTrainer.compute_loss)
        ratio_in_mid_run.extract_features = self._counted(ratio_in_mid_run.extract_features)

    def _heard(self, event: str, values: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and str(values[0]).startswith(self.folder):
            self._passes()

    def _passes(self, written: Any = None) -> None:
        self.passed += 1
        if self.stop is None or self.passed != self.stop.moment:
            return
        if written is not None:
            # In the middle of the file.
            os.truncate(written, os.path.getsize(written) // 2)
        os.kill(os.getpid(), self.stop.by)

    def _counted(self, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._passes()
            return function(*args, **kwargs)

        return counted

    def _cutting(self, function: Any) -> Any:
        def cut(tensors: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
            function(tensors, file, *args, **kwargs)
            self._passes(file if isinstance(file, (str, os.PathLike)) else None)

        return cut


def finished_after(given: list[str], log: Path, stops: list[Stop]) -> list[int]:
    """Runs a command, stops it, goes on with it as often as that, and then to its end: the status of each."""
    output = Path(given[given.index("--output_dir") + 1])
    found = []
    for stop in [*stops, None]:
        # Stopped before it had made anything, a run has nothing to go on from.
        goes_on = output.with_name(f"{output.name}-checkpoints").is_dir()
        found.append(run([*given, "--resume_from_checkpoint"] if goes_on else given, log, stop)[0])
    return found


def drawn(seed: int, moments: int) -> list[Stop]:
    """One stop or, for every third seed, two."""
    rng = random.Random(seed)
    return [Stop(rng.randint(1, moments), rng.choice(SIGNALS)) for _ in range(2 if seed % 3 == 0 else 1)]


def outcome(output: Path) -> dict[str, Any]:
    """All that two runs of the same options must share: weights, record, and what the log of each stage says."""
    weights = {path.relative_to(output).as_posix(): load_file(path) for path in output.rglob("*.safetensors")}
    work = output.with_name(f"{output.name}-checkpoints")
    logs = {
        path.relative_to(work).as_posix(): json.loads(path.read_text())["log_history"]
        for path in work.rglob("checkpoint-4/trainer_state.json")
    }
    left = [path.name for path in (*output.parent.iterdir(), *work.rglob("*")) if path.name.startswith(".")]
    record = ImmunizationRecord.load(output).to_dict()
    return without_clock(
        {
            "weights": {
                name: {key: value.numpy().tobytes() for key, value in one.items()} for name, one in weights.items()
            },
            "record": {name: str(value).replace(str(output), "OUT") for name, value in without_clock(record).items()},
            "logs": logs,
            "left behind": left,
        }
    )


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clock(one) for key, one in value.items() if not str(key).endswith(OF_THE_CLOCK)}
    return [without_clock(one) for one in value] if isinstance(value, list) else value
