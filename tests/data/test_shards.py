"""WebDataset shards of pictures with several suffixes."""

from __future__ import annotations

import io
import tarfile

import pytest
from datasets import Dataset, Features, Image, Value
from pictures import processor
from PIL import Image as PILImage

from hf_immunize.data.shards import one_picture_column
from hf_immunize.data.task import load_task


def shard(path, rows, suffix):
    with tarfile.open(path, "w") as archive:
        for number in rows:
            buffer = io.BytesIO()
            PILImage.new("RGB", (8, 8), (number * 10, 0, 0)).save(buffer, "PNG" if suffix == "png" else "JPEG")
            for name, content in ((f"{number}.{suffix}", buffer.getvalue()), (f"{number}.cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("streaming", [False, True])
def test_every_picture_is_read_whatever_its_suffix(tmp_path, streaming):
    shard(tmp_path / "train-0.tar", range(6), "jpg")
    shard(tmp_path / "train-1.tar", range(6, 12), "png")
    shard(tmp_path / "test-0.tar", range(4), "jpg")
    task = load_task(tmp_path, streaming=streaming)
    assert task.image_column == ("image" if "image" in task.train.features else "jpg")
    inputs = list(task.inputs(processor())[0])
    assert len(inputs) == 12
    assert sorted(one["labels"] for one in inputs) == [0] * 6 + [1] * 6


def test_rows_with_two_pictures_are_left_as_they_are():
    picture = PILImage.new("RGB", (4, 4))
    features = Features({"jpg": Image(), "png": Image(), "cls": Value("int64")})
    both = Dataset.from_dict({"jpg": [picture] * 2, "png": [picture] * 2, "cls": [0, 1]}, features=features)
    assert one_picture_column({"train": both}) == ({"train": both}, ())
    turns = Dataset.from_dict({"jpg": [picture, None], "png": [None, picture], "cls": [0, 1]}, features=features)
    found, (note,) = one_picture_column({"train": turns})
    assert sorted(found["train"].column_names) == ["cls", "image"]
    assert found["train"][1]["image"].size == (4, 4)
    assert "stand in the columns jpg, png: read as one" in note
