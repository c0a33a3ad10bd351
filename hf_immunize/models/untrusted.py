"""Files that strangers wrote, read without trust: JSON of a bounded size, and the shapes that weights declare."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hf_immunize.errors import InputError

__all__ = ["WEIGHTS_INDEX_NAME", "WEIGHTS_NAME", "Shapes", "read_json", "read_shapes", "shards_of"]

WEIGHTS_NAME = "model.safetensors"
WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
#: Bytes: the longest configuration, of some ten thousand classes, has one.
MOST_JSON = 32 * 2**20
_PLAIN = re.compile(r"[\w][\w.-]*\.safetensors")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        InputError: another kind of file, too long, too deep, or no mapping.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MOST_JSON:
        raise InputError(f"{path} has {size:,} bytes; JSON of at most {MOST_JSON:,} is read.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        # A JSON error and a UnicodeDecodeError are both ValueErrors.
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{path} is not valid JSON ({reason}). Write it again, or take it from the Hub.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(values).__name__}.")
    return values


def shards_of(index: str | os.PathLike[str]) -> list[str]:
    """The names of the shards in a ``model.safetensors.index.json``, sorted.

    Raises:
        InputError: a shard that is no plain name in safetensors: a path may lead out of the folder, and any other
            file may run code when it is loaded.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} names no shards (weight_map).")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise InputError(
                f"{index} puts {tensor!r} into {str(name)[:80]!r}. A shard is a plain name that ends in .safetensors, "
                "in the same folder."
            )
    return sorted(set(weight_map.values()))


@dataclass(frozen=True)
class Shapes:
    """Tensor → shape, of all the weights of a model."""

    by_name: dict[str, tuple[int, ...]]

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.by_name.values())


def read_shapes(files: Sequence[Path]) -> Shapes:
    """What the headers of safetensors files declare; a file that is cut off or of another kind is refused.

    Raises:
        InputError: with the name of the file.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as opened:
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{path} is no whole safetensors file ({str(error).splitlines()[0]}). Fetch or save it again."
            ) from error
    if not found:
        raise InputError(f"{', '.join(str(path) for path in files)} holds no tensors. Fetch or save it again.")
    return Shapes(found)
