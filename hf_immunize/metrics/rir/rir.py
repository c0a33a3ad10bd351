"""RIR as an `evaluate` metric: the Grams of four feature streams accumulate, the rows are never stored.

Zheng, Bai, Bullins, Yeh, "Model Immunization from a Condition Number Perspective", ICML 2025, arXiv 2505.23760.
"""

import difflib
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import evaluate
import filelock
import safetensors.torch
import torch

from hf_immunize.errors import InputError, InputTypeError
from hf_immunize.spectra.ratio import relative_immunization_ratio
from hf_immunize.spectra.spectrum import FeatureGram, check_features

TASKS = ("primary", "harmful")
MODELS = ("immunized", "initial")
#: Seconds between two looks at the cache folder while one process waits for another.
POLL = 0.05

_DESCRIPTION = """
The relative immunization ratio RIR_θ0 says how much worse conditioned an immunized feature extractor has made a harmful
task, relative to the primary one: RIR = (i)/(ii), with (i) = κ_H(θᴵ)/κ_H(θ0) and (ii) = κ_P(θᴵ)/κ_P(θ0), where κ is the
condition number of the Hessian XᵀX of a linear probe on the features X.
"""

_KWARGS_DESCRIPTION = """
Args:
    immunized: features under the immunized model, shape (n, d); in `add`, one row of length d.
    initial: features of the same samples, in the same order, under the initial model, shape (n, d).
    task: "primary" or "harmful": one name for the batch, or one name for each row.

Returns of `compute`, a flat dictionary:
    rir, rir_i, rir_ii: the ratio and its two parts.
    rir_bound, rir_i_bound, rir_ii_bound: "exact", "lower", "upper" or "undetermined".
    precision_limited: whether the initial spectrum runs into rounding, so that κ shows the tolerance and not the model.
    and for each of immunized_harmful, initial_harmful, immunized_primary, initial_primary:
    {name}_condition_number, {name}_rank, {name}_n_samples, {name}_n_features.

Example:
    >>> rir = evaluate.load("path/to/metrics/rir")
    >>> rows = [[2.0, 0.0], [0.0, 1.0]]
    >>> rir.add_batch(immunized=[[4.0, 0.0], [0.0, 1.0]], initial=rows, task="harmful")
    >>> rir.add_batch(immunized=rows, initial=rows, task="primary")
    >>> round(rir.compute()["rir"], 6)
    4.0
"""

_CITATION = """
@inproceedings{zheng2025model,
    title = {Model Immunization from a Condition Number Perspective},
    author = {Zheng, Amber Yijia and Bai, Site and Bullins, Brian and Yeh, Raymond A.},
    booktitle = {International Conference on Machine Learning},
    year = {2025},
    url = {https://arxiv.org/abs/2505.23760}
}
"""


class Rir(evaluate.Metric):
    """RIR of feature rows that arrive in batches, over one process or several.

    Args:
        *args: see `evaluate.Metric`.
        precision: dtype in which the features were computed ("float32", ...), where that is coarser than the dtype
            they arrive in. Lists of Python numbers arrive as float64.
        **kwargs: see `evaluate.Metric`; ``timeout`` is how many seconds `compute` waits for the other processes.
    """

    def __init__(self, *args: Any, precision: str | torch.dtype | None = None, **kwargs: Any) -> None:
        self.precision = _dtype(precision)
        self._grams: dict[str, FeatureGram] = {}
        self._lock: filelock.BaseFileLock | None = None
        super().__init__(*args, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"immunized": row, "initial": row, "task": datasets.Value("string")}),
            homepage="https://arxiv.org/abs/2505.23760",
            reference_urls=["https://arxiv.org/abs/2505.23760"],
            license="Apache-2.0",
        )

    def __len__(self) -> int:
        """Rows added since the last `compute`."""
        return sum(self._grams[f"initial_{task}"].n_samples for task in TASKS if f"initial_{task}" in self._grams)

    def add(self, *, immunized: Any, initial: Any, task: str) -> None:
        """Adds one sample: its features under both models, each of length d, and the name of its task."""
        if not isinstance(task, str):
            raise InputTypeError(f"add takes the name of one task, got {task!r}. For several rows use add_batch.")
        self.add_batch(immunized=_one_row(immunized, "immunized"), initial=_one_row(initial, "initial"), task=task)

    def add_batch(self, *, immunized: Any, initial: Any, task: str | Sequence[str]) -> None:
        """Adds a batch of samples: features (n, d) under both models, and the task of the batch or of each row.

        A batch that raises adds nothing.
        """
        rows = {"immunized": _features(immunized, "immunized"), "initial": _features(initial, "initial")}
        shapes = {name: tuple(matrix.shape) for name, matrix in rows.items()}
        if shapes["immunized"][0] != shapes["initial"][0]:
            raise InputError(
                f"immunized holds {shapes['immunized'][0]} rows and initial {shapes['initial'][0]}: pass the features "
                "of the same samples in the same order."
            )
        if shapes["immunized"][1] != shapes["initial"][1]:
            raise InputError(
                f"immunized has width {shapes['immunized'][1]} and initial {shapes['initial'][1]}: both models must "
                "have the same architecture."
            )
        count, width = shapes["initial"]
        known = {gram.n_features for gram in self._grams.values()} - {width}
        if known:
            raise InputError(f"Features of width {width} after {known.pop()}. Call compute() between models.")
        names = _tasks(task, count)
        self._claim()
        for name in dict.fromkeys(names):
            chosen = None if names.count(name) == count else torch.tensor([one == name for one in names])
            for model in MODELS:
                matrix = rows[model]
                if chosen is not None:
                    matrix = matrix[chosen.to(matrix.device)]
                gram = self._grams.setdefault(f"{model}_{name}", FeatureGram(width, self.precision))
                gram.update(matrix)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """RIR of all rows since the last call; the rows are forgotten afterwards, also when this raises.

        Args:
            predictions: not used; `evaluate.combine` passes it to every module.
            references: not used, as above.
            **kwargs: the arguments of `add_batch`, to add rows and compute in one call.

        Returns:
            the flat dictionary described below in process 0, None in every other process.
        """
        try:
            unknown = sorted(set(kwargs) - set(self._feature_names()))
            if unknown:
                raise InputError(f"Unknown inputs {unknown}. This metric takes {self._feature_names()}.")
            given = {name: value for name, value in kwargs.items() if value is not None}
            missing = [name for name in self._feature_names() if name not in given]
            if given and missing:
                raise InputError(f"Inputs are missing: {missing}. This metric takes {self._feature_names()}.")
            if given:
                self.add_batch(**given)
            if self.num_process > 1:
                self._claim()
                if self.process_id > 0:
                    self._hand_over()
                    return None
                self._collect()
            return self._compute()
        finally:
            self._grams = {}
            self._release()

    def _compute(self) -> dict[str, Any]:
        if not self._grams:
            raise InputError("No rows yet. Call add or add_batch with both tasks before compute, or pass the rows.")
        missing = [task for task in TASKS if f"initial_{task}" not in self._grams]
        if missing:
            raise InputError(f"No {missing[0]} rows were added. RIR needs rows of both tasks, {' and '.join(TASKS)}.")
        return relative_immunization_ratio(**self._grams).to_dict()

    # Several processes. Process 0 writes a fresh token; each other answers with a file that carries it and waits until
    # process 0 has taken it. What a killed run left behind carries another token and is never read.

    def _path(self, suffix: str) -> Path:
        return Path(self.data_dir) / f"{self.experiment_id}-{self.num_process}-{suffix}"

    def _gram_path(self, process_id: int, token: str) -> Path:
        return self._path(f"{process_id}-{token}.safetensors")

    def _claim(self) -> None:
        # From the first row to the end of compute, in whatever thread. Who finds the place taken leaves a word of it:
        # process 0, which may belong to either run, must not add up the rows of both.
        if self.num_process == 1 or self._lock is not None:
            return
        lock = filelock.FileLock(self._path(f"{self.process_id}.lock"), thread_local=False)
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            self._path(f"{self.process_id}.twice").touch()
            raise InputError(self._two_runs(self.process_id)) from None
        self._lock = lock
        self._path(f"{self.process_id}.twice").unlink(missing_ok=True)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def _two_runs(self, process: int) -> str:
        told = f"Two runs compute this metric in {self.data_dir}, both with process {process} of {self.num_process} and"
        return f"{told} experiment_id {self.experiment_id!r}. Give each run its own experiment_id."

    def _hand_over(self) -> None:
        for left in Path(self.data_dir).glob(self._gram_path(self.process_id, "*").name):
            left.unlink(missing_ok=True)
        deadline = time.monotonic() + self.timeout
        answered, written = None, None
        try:
            while time.monotonic() < deadline:
                if written is not None and not written.exists():
                    return
                token = self._read_token()
                if token is not None and token != answered:
                    if written is not None:
                        written.unlink(missing_ok=True)
                    answered, written = token, self._gram_path(self.process_id, token)
                    self._save(written)
                time.sleep(POLL)
        finally:
            if written is not None:
                written.unlink(missing_ok=True)
        raise InputError(f"Process 0 did not collect the rows of process {self.process_id}. {self._advice()}")

    def _collect(self) -> None:
        token = uuid.uuid4().hex
        waiting = {process: self._gram_path(process, token) for process in range(1, self.num_process)}
        partial = self._path(f"{token}.partial")
        try:
            partial.write_text(token)
            os.replace(partial, self._path("token"))
            deadline = time.monotonic() + self.timeout
            while not all(path.exists() for path in waiting.values()):
                if time.monotonic() > deadline:
                    absent = [process for process, path in waiting.items() if not path.exists()]
                    raise InputError(f"Process 0 received no rows from processes {absent}. {self._advice()}")
                time.sleep(POLL)
            twice = [process for process in range(self.num_process) if self._path(f"{process}.twice").exists()]
            if twice:
                raise InputError(self._two_runs(twice[0]))
            for process, path in waiting.items():
                self._merge(safetensors.torch.load_file(path), process)
        finally:
            # The token goes first: a process whose file is gone may already wait for the token of the next compute.
            self._path("token").unlink(missing_ok=True)
            for path in (partial, *waiting.values()):
                path.unlink(missing_ok=True)

    def _advice(self) -> str:
        return (
            f"It waited {self.timeout} s in {self.data_dir}. All {self.num_process} processes must call compute() with "
            f"one experiment_id (here {self.experiment_id!r}) and one cache_dir; timeout=<seconds> waits longer."
        )

    def _read_token(self) -> str | None:
        try:
            return self._path("token").read_text() or None
        except FileNotFoundError:
            return None

    def _save(self, path: Path) -> None:
        tensors = {}
        for name, gram in self._grams.items():
            tensors[f"{name}.matrix"] = gram.matrix.cpu().contiguous()
            tensors[f"{name}.n_samples"] = torch.tensor(gram.n_samples)
            tensors[f"{name}.eps"] = torch.tensor(gram.eps, dtype=torch.float64)
        partial = path.with_suffix(".partial")
        try:
            safetensors.torch.save_file(tensors, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _merge(self, tensors: dict[str, torch.Tensor], process: int) -> None:
        for key in [key for key in tensors if key.endswith(".matrix")]:
            name, matrix = key.removesuffix(".matrix"), tensors[key]
            width = matrix.shape[0]
            known = {gram.n_features for gram in self._grams.values()} - {width}
            if known:
                raise InputError(f"Process {process} sent features of width {width}, others of {known.pop()}.")
            gram = self._grams.setdefault(name, FeatureGram(width, self.precision))
            gram.matrix = gram.matrix + matrix.to(gram.matrix.device)
            gram.n_samples += int(tensors[f"{name}.n_samples"])
            gram.eps = max(gram.eps, float(tensors[f"{name}.eps"]))


def _dtype(precision: str | torch.dtype | None) -> torch.dtype | None:
    if precision is None:
        return None
    dtype = getattr(torch, precision, None) if isinstance(precision, str) else precision
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"precision must name a floating dtype such as 'float32' or 'bfloat16', got {precision!r}.")
    return dtype


def _features(values: Any, name: str) -> torch.Tensor:
    if isinstance(values, list | tuple) and values and all(isinstance(one, torch.Tensor) for one in values):
        widths = {tuple(one.shape) for one in values}
        if len(widths) > 1:
            raise InputError(f"{name}: rows of different shapes {sorted(widths)}.")
        values = torch.stack(list(values))
    try:
        return check_features(values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def _one_row(values: Any, name: str) -> torch.Tensor:
    row = values if isinstance(values, torch.Tensor) else _features([values], name)[0]
    if row.ndim != 1:
        raise InputError(f"{name}: add takes one row of length d, got {tuple(row.shape)}. Use add_batch for more.")
    return row.unsqueeze(0)


def _tasks(task: str | Sequence[str], count: int) -> list[str]:
    names = [task] * count if isinstance(task, str) else list(task)
    if len(names) != count:
        raise InputError(f"task names {len(names)} rows of {count}. Pass one name for the batch or one for each row.")
    for name in names:
        if name not in TASKS:
            near = difflib.get_close_matches(str(name).lower(), TASKS, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"Unknown task {name!r}.{hint} Tasks are {TASKS[0]!r} and {TASKS[1]!r}.")
    return names
