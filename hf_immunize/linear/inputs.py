"""Data matrices of the linear case: checked, in float64, with the columns that make K = XᵀX singular named."""

from __future__ import annotations

import warnings

import torch
from numpy.typing import ArrayLike

from hf_immunize.errors import InputError, InputTypeError
from hf_immunize.spectra.eigen import rank_floor

__all__ = ["as_matrix", "check_same_columns", "dependent_columns", "warn_about_columns"]

#: Column names in a message before it says "and N more".
SHOWN = 8


def as_matrix(x: ArrayLike, name: str) -> tuple[torch.Tensor, list[str]]:
    """A float64 tensor of shape (n, D) and the names of its columns (those of a data frame, else 0..D−1).

    Raises:
        TypeError: not a table of numbers.
        ValueError: wrong shape, fewer than two rows, NaN or infinite cells (their columns are named), or all zero.
    """
    columns = [str(column) for column in x.columns] if hasattr(x, "columns") else None
    if hasattr(x, "to_numpy"):
        x = x.to_numpy(copy=True)
    try:
        matrix = torch.as_tensor(x).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{name} must be a table of real numbers, got {type(x).__name__}. Encode text columns as numbers first."
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] < 2 or matrix.shape[1] < 1:
        raise InputError(f"{name} must have shape (n, D) with n ≥ 2 and D ≥ 1, got {tuple(matrix.shape)}.")
    columns = columns or [str(index) for index in range(matrix.shape[1])]
    bad = (~torch.isfinite(matrix)).sum(dim=0)
    if bad.any():
        cells = [f"{columns[i]} ({int(bad[i])})" for i in bad.nonzero().flatten().tolist()]
        raise InputError(
            f"{name} has NaN or infinite cells in {len(cells)} column(s), with their number: {_listed(cells)}. "
            "Fill or drop them."
        )
    if not matrix.any():
        raise InputError(f"{name} is all zero. Pass features that are not.")
    return matrix, columns


def check_same_columns(x_primary: torch.Tensor, x_harmful: torch.Tensor) -> None:
    """Raises ValueError unless the two matrices have the same width."""
    if x_primary.shape[1] != x_harmful.shape[1]:
        raise InputError(
            f"x_primary has {x_primary.shape[1]} columns and x_harmful {x_harmful.shape[1]}: one extractor reads both, "
            "so they must have the same columns in the same order."
        )


def dependent_columns(x: torch.Tensor) -> dict[str, list[int]]:
    """Indices of columns that add no direction: ``constant``, ``duplicate``, ``combination`` of columns before them.

    Args:
        x: shape (n, D). With D ≥ n some combination is unavoidable and none is named.

    A column counts as dependent where its part outside the earlier ones is below max(n, D)·eps64·s_1, the floor of the
    numerical rank. Constant non-zero columns are named although one of them alone leaves K non-singular: as features
    they carry nothing.
    """
    n, d = x.shape
    floor = rank_floor(n, d)
    constant = (x == x[0]).all(dim=0)
    found: dict[str, list[int]] = {
        "constant": constant.nonzero().flatten().tolist(),
        "duplicate": [],
        "combination": [],
    }
    seen: set[bytes] = set()
    for index in (~constant).nonzero().flatten().tolist():
        key = x[:, index].contiguous().numpy().tobytes()
        if key in seen:
            found["duplicate"].append(index)
        seen.add(key)
    if d >= n:
        return found
    # An unpivoted QR would let rounding of one dependent column hide the next, so the basis is built column by column.
    basis = x.new_zeros(n, d)
    rank, limit = 0, floor * float(torch.linalg.matrix_norm(x, 2))
    known = set(found["duplicate"])
    for index in range(d):
        column, kept = x[:, index], basis[:, :rank]
        for _ in range(2):
            column = column - kept @ (kept.mT @ column)
        length = float(column.norm())
        if length > limit:
            basis[:, rank] = column / length
            rank += 1
        elif index not in known and not constant[index]:
            found["combination"].append(index)
    return found


def warn_about_columns(x: torch.Tensor, name: str, columns: list[str]) -> None:
    """Warns with the names of constant and dependent columns; K is singular there and the work is on its span."""
    parts = [
        f"{kind}: {_listed([columns[i] for i in indices])}" for kind, indices in dependent_columns(x).items() if indices
    ]
    if parts:
        warnings.warn(
            f"{name} ({x.shape[0]} rows, {x.shape[1]} columns) has columns that add no direction ({'; '.join(parts)}). "
            "Where K is singular its pseudo-inverse on the span is used; drop these columns to avoid that.",
            UserWarning,
            stacklevel=3,
        )


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
