"""What breaks a good file of a release or a picture, or makes it ill meant; each gives a change of a folder."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[Path], Any]
WEIGHTS, CONFIG, PROCESSOR, INDEX = (
    "model.safetensors",
    "config.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
)


class Bomb:
    """Pickled, it leaves a file where it is read."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.mark, "w"))


def mark(folder: Path) -> str:
    return str(folder.parent / "executed")


def wrote(name: str, content: bytes | str) -> Change:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, share: float) -> Change:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)] if share >= 0 else data[:-1])

    return change


def put(name: str, **values: Any) -> Change:
    """Other values in a JSON file; a value may be made from the folder."""

    def change(folder: Path) -> None:
        old = json.loads((folder / name).read_text(encoding="utf-8"))
        new = {key: one(folder) if callable(one) else one for key, one in values.items()}
        (folder / name).write_text(json.dumps(old | new), encoding="utf-8")

    return change


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def pickled(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Bomb(mark(folder))))


def gone(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def header(values: Any, body: bytes = b"\0" * 64, length: int | None = None) -> Change:
    """A safetensors file with a header of one's own."""

    def change(folder: Path) -> None:
        text = values if isinstance(values, bytes) else json.dumps(values).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)

    return change


def tensors(**changes: Any) -> Change:
    """Other tensors: a function of the old one, None for none."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(folder / WEIGHTS)
        for name, make in changes.items():
            key = next(one for one in held if one.endswith(name.replace("__", ".")))
            held[key] = make(held[key]) if make else None
        save_file({key: one for key, one in held.items() if one is not None}, folder / WEIGHTS, {"format": "pt"})

    return change


def sharded(weight_map: Any) -> Change:
    """The weights behind an index."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark(folder))))
        (folder.parent / "outside.safetensors").write_bytes(b"x")

    return change


def code_of_its_own(name: str, key: str) -> Change:
    def change(folder: Path) -> None:
        (folder / "own.py").write_text(f"open({mark(folder)!r}, 'w')\nclass Own: pass\n")
        put(name, auto_map={key: "own.Own"}, model_type="own", image_processor_type="Own")(folder)

    return change


def entry(dtype: str = "F32", shape: Any = (4, 4), offsets: Any = (0, 64)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def png(width: int, height: int, body: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = b"".join(chunk(*one) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + rest + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
