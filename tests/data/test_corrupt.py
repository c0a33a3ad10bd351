"""Broken pictures are found and named."""

from __future__ import annotations

import pytest
from datasets import Dataset, Image
from pictures import UPRIGHT, processor, stored

from hf_immunize.data.corrupt import drop_corrupt
from hf_immunize.data.decoding import CorruptPictureError
from hf_immunize.data.images import ImageInputs


def test_a_broken_picture_is_named_by_row_and_path(tmp_path):
    whole = stored(UPRIGHT.resize((64, 64)))
    contents = {"whole.png": whole, "cut.png": whole[:-60], "page.png": b"<html>404</html>", "empty.png": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in (*contents, "gone.png")]
    data = Dataset.from_dict({"image": paths, "label": [0, 1, 2, 3, 4]}).cast_column("image", Image())
    inputs = ImageInputs(data, processor(), name="primary")
    assert inputs[0]["pixel_values"].shape == (3, 32, 32)
    for row, name in enumerate(("cut.png", "page.png", "empty.png", "gone.png"), start=1):
        with pytest.raises(CorruptPictureError, match=rf"Row {row} of the primary data: .*{name}"):
            inputs[row]
    kept, dropped = drop_corrupt(data, "image")
    assert len(kept) == 1
    assert [line.split(":")[0] for line in dropped] == ["row 1", "row 2", "row 3", "row 4"]
    skipping = ImageInputs(data, processor(), skip_corrupt=True)
    assert (len(skipping), skipping.labels, len(skipping.dropped)) == (1, [0], 4)
    with pytest.raises(ValueError, match="None of the 1 pictures can be read"):
        drop_corrupt(data.select([2]), "image")


@pytest.mark.parametrize("folder", ["home/alice smith/my data", 'it\'s "mine"', "a. b"])
def test_what_was_left_out_is_told_without_its_folders(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir(parents=True)
    (place / "whole.png").write_bytes(stored(UPRIGHT))
    (place / "page.png").write_bytes(b"<html>404</html>")
    (place / "b.png").mkdir()
    paths = [str(place / name) for name in ("whole.png", "page.png", "gone.png", "b.png")]
    for data in (
        Dataset.from_dict({"image": paths}),
        Dataset.from_dict({"image": paths}).cast_column("image", Image()),
    ):
        _, dropped = drop_corrupt(data, "image")
        assert [line.partition(": ")[0] for line in dropped] == ["row 1", "row 2", "row 3"]
        for line, name in zip(dropped, ("page.png", "gone.png", "b.png"), strict=True):
            assert name in line
            assert not any(part in line for part in (*tmp_path.parts[1:], *folder.split("/")))
