"""Files that strangers wrote, read without trust: JSON of a bounded size, and the shapes that weights declare."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from hf_immunize.errors import InputError

__all__ = [
    "MOST_JSON",
    "WEIGHTS_INDEX_NAME",
    "WEIGHTS_NAME",
    "Shapes",
    "check_config",
    "check_fits",
    "check_processor",
    "one_line",
    "read_json",
    "read_shapes",
    "shards_of",
]

WEIGHTS_NAME = "model.safetensors"
WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
#: Bytes: the longest configuration, of some ten thousand classes, has one.
MOST_JSON = 32 * 2**20
#: Pixels that an image processor may make of a picture: 1,024 a side, beyond every published classifier.
MOST_PIXELS = 1024 * 1024
#: Parameters that a model may have beyond twice those of its weights, for heads that are new.
MOST_NEW = 50_000_000
_COUNTS = re.compile(r"(?:layer|depth|block|stage|repeat)s?$")
#: Keys that choose code to run, from the Hub where the value has a slash.
_CODE = re.compile(r"(?:attn|attention|experts|kernel|kernels)(?:_implementation|_config|s)?$")
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


def check_config(config: dict[str, Any], shapes: Shapes, name: str) -> None:
    """Refuses a configuration of a model that its weights cannot be of, before anything is built.

    Raises:
        InputError: code of its own from the Hub, more layers than there are tensors, lists without end.
    """
    tensors = max(len(shapes.by_name), 16)
    for key, value in _leaves(config):
        last = key.rsplit(".", 1)[-1]
        if _CODE.search(last) and isinstance(value, str) and "/" in value:
            raise InputError(f"{name} asks for code from the Hub ({key}: {value[:80]!r}), which is not run.")
        if _COUNTS.search(last):
            numbers = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, (int, float))]
            if sum(numbers) > tensors or min(numbers, default=0) < 0:
                raise InputError(
                    f"{name}: {key} is {str(value)[:60]} in config.json, and its weights have {len(shapes.by_name)} "
                    "tensors. They do not belong together."
                )
        if isinstance(value, list) and len(value) > max(tensors, 100_000):
            raise InputError(f"{name}: {key} has {len(value):,} entries in config.json, more than any model has.")


def _leaves(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key → value, of everything that is no mapping; class names are left out."""
    for name, value in values.items():
        inner = f"{key}.{name}" if key else str(name)
        if isinstance(value, dict):
            if name not in ("id2label", "label2id"):
                yield from _leaves(value, inner)
        else:
            yield inner, value


def check_fits(build: Callable[[], nn.Module], shapes: Shapes, name: str) -> None:
    """Refuses a model that is far larger than its weights, by building it without any memory for its numbers.

    Raises:
        InputError: with both counts.
    """
    with torch.device("meta"):
        model = build()
    count = sum(one.numel() for one in (*model.parameters(), *model.buffers()))
    if count > 2 * shapes.n_parameters + MOST_NEW:
        raise InputError(
            f"{name}: config.json describes a model of {count:,} numbers, and its weights have "
            f"{shapes.n_parameters:,}. They do not belong together."
        )


def check_processor(processor: Any, name: str) -> None:
    """Refuses an image processor that makes pictures larger than any classifier reads.

    Raises:
        InputError: with the size.
    """
    for kind in ("size", "crop_size", "pad_size"):
        asked: Any = getattr(processor, kind, None) or {}
        sides = [one for one in dict(asked).values() if isinstance(one, (int, float))]
        # A crop of a small share of the picture makes a large picture first.
        share = getattr(processor, "data_config", getattr(processor, "__dict__", {})).get("crop_pct") or 1
        largest = max(sides, default=0) / max(share, 1e-9)
        if largest * largest > MOST_PIXELS or min(sides, default=1) < 1:
            raise InputError(
                f"{name}: its image processor asks for {kind} {str(dict(asked))[:80]}; pictures of 1 to "
                f"{MOST_PIXELS:,} pixels are made. Pass an image processor of your own."
            )


def one_line(error: BaseException) -> str:
    """The first line of what an error says, with its kind where that is all there is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0][:300] if lines else "no reason given"
    return said if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {said}"
