"""A picture in every form in which it is stored, decoded to its last pixel."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from pictures import UPRIGHT
from PIL import Image as PILImage

from hf_immunize.data.decoding import CorruptPictureError, open_picture
from hf_immunize.data.preprocessing import to_channels


def test_every_form_in_which_a_picture_is_stored(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
    image = PILImage.fromarray(array)
    path = tmp_path / "a picture.png"
    image.save(path)
    forms = [
        image,
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": None, "path": str(path)},
        array,
        array.transpose(2, 0, 1),
        torch.tensor(array),
        torch.tensor(array).permute(2, 0, 1),
        torch.tensor(array).permute(2, 0, 1).long(),
        array.tolist(),
    ]
    for form in forms:
        np.testing.assert_array_equal(np.asarray(to_channels(form)), array)
    np.testing.assert_array_equal(np.asarray(to_channels(array[:, :, :1])), np.repeat(array[:, :, :1], 3, 2))
    np.testing.assert_array_equal(np.asarray(to_channels(array[:, :, 0] > 100))[:, :, 0], 255 * (array[:, :, 0] > 100))


def test_what_stands_for_no_picture():
    with pytest.raises(CorruptPictureError, match="No picture was given"):
        open_picture(None)
    with pytest.raises(CorruptPictureError, match="neither bytes nor a path"):
        open_picture({"bytes": None, "path": None})
    with pytest.raises(TypeError, match="A list of 2 pictures was given where one"):
        open_picture([UPRIGHT, UPRIGHT])
    with pytest.raises(TypeError, match="got int"):
        open_picture(3)


def test_a_picture_of_few_of_its_16_bits_is_said(caplog):
    grey = np.tile(np.linspace(0, 1, 8), (8, 1))
    full, few = ((grey * (2**bits - 1)).astype(np.uint16) for bits in (16, 12))
    assert np.asarray(open_picture(full)).max() == 255
    assert np.asarray(open_picture(np.zeros((4, 4), np.uint16))).max() == 0
    assert not caplog.text
    assert np.asarray(open_picture(few)).max() == 15
    assert "no value above 4095" in caplog.text
    assert np.array_equal(to_channels(PILImage.fromarray(few), 1), (few >> 8).astype(np.uint8))


def as_text(size):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("size", [(4, 4), (90, 90)])
@pytest.mark.parametrize("before", ["", "data:image/png;base64,"])
def test_a_picture_as_base64_text_is_named_in_short(before, size):
    text = before + as_text(size)
    for form in (text, {"bytes": None, "path": text}, "\n".join((text[:76], text[76:]))):
        with pytest.raises(
            ValueError, match=r"is a picture as base64 text.* Decode the column first: dataset.map"
        ) as found:
            open_picture(form)
        # All rows are so: none is to be left out as broken.
        assert not isinstance(found.value, CorruptPictureError)
        assert len(str(found.value)) < 600
    # As the message says.
    data = Dataset.from_dict({"image": [text]})
    decoded = data.map(lambda row: {"image": {"bytes": base64.b64decode(row["image"].split(",")[-1])}})
    assert open_picture(decoded.cast_column("image", Image())[0]["image"]).size == size


def test_long_text_in_the_place_of_a_path_is_cut():
    with pytest.raises(CorruptPictureError, match=r"cannot be read as a picture \(File name too long\)") as found:
        open_picture("no picture! " * 2000)
    assert len(str(found.value)) < 400
    # A path of such letters alone is a path.
    with pytest.raises(CorruptPictureError, match="There is no file 'pictures/of/cats'"):
        open_picture("pictures/of/cats")
