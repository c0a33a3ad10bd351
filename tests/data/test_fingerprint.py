"""One hash of what rows hold: the same on another machine, another one for any other content."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from hf_immunize.data import fingerprint as module
from hf_immunize.data.fingerprint import rows_fingerprint
from hf_immunize.data.packaged import images_dataset

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = [0, 1, 1, 0, 1, 0]


def stored(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def rows(pictures, labels=LABELS, names=("cat", "dog")):
    kind = ClassLabel(names=list(names)) if names else Value("int64")
    return Dataset.from_dict({"image": pictures, "label": labels}, features=Features({"image": Image(), "label": kind}))


def pictures(pixels=PIXELS, kind="PNG", **options):
    return [stored(PILImage.fromarray(one), kind, **options) for one in pixels]


def of(data):
    return rows_fingerprint(data, "image", "label")


def test_it_is_written_down():
    """Another value here would part every published record from its data."""
    assert of(rows(pictures())) == of(images_dataset(PIXELS, LABELS, ["cat", "dog"]))
    small = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    contents = [b"L (2, 2)" + bytes(one) for one in ([0, 1, 2, 3], [4, 5, 6, 7])]
    wanted = hashlib.sha256(b"2 rows" + b"".join(hashlib.sha256(one).digest() for one in contents) + b"a\nb\n")
    assert of(images_dataset(small, [0, 1], ["a", "b"])) == wanted.hexdigest()[:16]


def test_compression_without_loss_changes_nothing(tmp_path):
    wanted = of(rows(pictures()))
    assert of(rows(pictures(compress_level=0))) == wanted
    assert of(rows(pictures(kind="BMP"))) == wanted
    paths = []
    for number, one in enumerate(PIXELS):
        PILImage.fromarray(one).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    assert of(rows(paths)) == wanted
    assert of(rows(pictures()).with_format("torch")) == wanted


def test_a_lossy_file_counts_by_its_bytes(tmp_path):
    jpeg = of(rows(pictures(kind="JPEG")))
    assert jpeg == of(rows(pictures(kind="JPEG")))
    assert jpeg != of(rows(pictures(kind="JPEG", quality=60)))
    assert jpeg != of(rows(pictures()))


@pytest.mark.parametrize(
    "other",
    [
        rows(pictures(), [1, 1, 1, 0, 1, 0]),
        rows(pictures(), names=("cat", "wolf")),
        rows(pictures(PIXELS[::-1])),
        rows(pictures()).select(range(5)),
        rows(pictures(np.where(PIXELS[3, 2, 1, 0] == PIXELS, PIXELS ^ 1, PIXELS))),
    ],
    ids=["label", "name", "order", "number", "pixel"],
)
def test_any_other_content_is_seen(other):
    assert of(other) != of(rows(pictures()))


def test_a_label_counts_by_its_name():
    swapped = rows(pictures(), [1 - label for label in LABELS], names=("dog", "cat"))
    assert of(swapped) == of(rows(pictures()))
    assert rows_fingerprint(rows(pictures(), LABELS[::-1]), "image") == rows_fingerprint(rows(pictures()), "image")


def test_a_palette_counts_by_its_colours():
    grey = PILImage.new("P", (2, 2))
    grey.putpalette([0, 0, 0])
    red = PILImage.new("P", (2, 2))
    red.putpalette([255, 0, 0])
    assert of(rows([stored(grey, "PNG")], [0])) != of(rows([stored(red, "PNG")], [0]))


def test_of_many_rows_a_share_is_read_and_their_number(monkeypatch):
    monkeypatch.setattr(module, "MOST_FINGERPRINTED", 4)
    assert of(rows(pictures())) == of(rows(pictures()))
    assert of(rows(pictures())) != of(rows(pictures()).select(range(5)))


def test_a_file_that_cannot_be_read_has_a_fingerprint_still():
    broken = rows([{"bytes": b"\x89PNG nothing", "path": None}], [0])
    assert len(of(broken)) == 16
