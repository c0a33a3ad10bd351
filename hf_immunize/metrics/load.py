"""Loading the `evaluate` module of RIR that ships with this package."""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING, Any

from hf_immunize.errors import InputError

if TYPE_CHECKING:
    import evaluate

__all__ = ["load_rir"]


def load_rir(**kwargs: Any) -> evaluate.EvaluationModule:
    """Loads the RIR metric from the installed package; nothing is downloaded.

    Args:
        **kwargs: passed to `evaluate.load`: ``num_process``, ``process_id``, ``experiment_id``, ``cache_dir``,
            ``timeout`` in seconds, and ``precision``, the name of the dtype in which the features were computed where
            that is coarser than the dtype they arrive in.

    Raises:
        InputError: a cache that cannot be written.

    Example:
        >>> rir = load_rir()
        >>> rows = [[2.0, 0.0], [0.0, 1.0]]
        >>> rir.add_batch(immunized=[[4.0, 0.0], [0.0, 1.0]], initial=rows, task="harmful")
        >>> rir.add_batch(immunized=rows, initial=rows, task="primary")
        >>> round(rir.compute()["rir"], 6)
        4.0
    """
    import evaluate

    source = importlib.resources.files("hf_immunize") / "metrics" / "rir" / "rir.py"
    with importlib.resources.as_file(source) as path:
        try:
            return evaluate.load(str(path), **kwargs)
        except OSError as error:
            raise InputError(
                f"The cache of `evaluate` cannot be written ({error}). Set HF_HOME to a folder that can be."
            ) from error
