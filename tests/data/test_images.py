"""Model inputs from data sets of pictures: labels, channels, a cache."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, DatasetDict, Features, Image, List, Value
from pictures import pixels
from PIL import Image as PILImage
from samples import tiny_timm, tiny_vit
from tiny import picture_dataset
from transformers import ConvNextImageProcessor

from hf_immunize.data.collate import collate_images
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.data.sources import load_images
from hf_immunize.data.streams import StreamedInputs
from hf_immunize.data.task import load_task


class Processor:
    """Pixels as they are; remembers how many images it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images, return_tensors):
        self.seen += len(images)
        rows = [torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8) for one in images]
        channels = [len(one.getbands()) for one in images]
        shaped = [row.reshape(8, 8, n).permute(2, 0, 1) for row, n in zip(rows, channels, strict=True)]
        return {"pixel_values": torch.stack(shaped).float()}


def write_folder(folder, splits):
    for split, n in splits.items():
        data = picture_dataset(n, seed=len(split))
        for index, row in enumerate(data):
            target = folder / split / f"kind{row['label']}" / f"{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(target)


def test_a_folder_of_images_by_class(tmp_path):
    write_folder(tmp_path, {"train": 10, "test": 4})
    train = load_images(str(tmp_path))
    assert len(train) == 10
    assert train.features["label"].names == ["kind0", "kind1"]
    assert len(load_images(str(tmp_path), "test")) == 4
    by_brightness = {row["label"] for row in train if sum(row["image"].getpixel((4, 4))) > 360}
    assert by_brightness == {1}


def test_training_and_evaluation_rows(tmp_path):
    write_folder(tmp_path / "both", {"train": 10, "test": 4})
    task = load_task(tmp_path / "both")
    assert (len(task.train), len(task.evaluation), task.eval_split) == (10, 4, "test")
    task = load_task(tmp_path / "both", split="test", eval_split="train")
    assert (len(task.train), len(task.evaluation), task.eval_split) == (4, 10, "train")

    picture_dataset(40).save_to_disk(tmp_path / "one")
    task = load_task(tmp_path / "one", seed=3)
    assert (len(task.train), len(task.evaluation)) == (32, 8)
    assert "a fifth of train" in task.eval_split
    assert "seed 3" in task.eval_split
    assert sorted(pixels(task.train) + pixels(task.evaluation)) == sorted(pixels(picture_dataset(40)))
    assert pixels(load_task(tmp_path / "one", seed=3).evaluation) == pixels(task.evaluation)
    assert pixels(load_task(tmp_path / "one", seed=4).evaluation) != pixels(task.evaluation)

    picture_dataset(9).save_to_disk(tmp_path / "few")
    with pytest.raises(ValueError, match=r"has 9 rows and no split to evaluate on.*eval_split"):
        load_task(tmp_path / "few")


def test_one_split_is_never_both_to_train_on_and_to_judge_by(tmp_path):
    DatasetDict({"test": picture_dataset(20)}).save_to_disk(tmp_path / "only")
    task = load_task(tmp_path / "only")
    assert not set(pixels(task.train)) & set(pixels(task.evaluation))
    assert (len(task.train), len(task.evaluation)) == (16, 4)
    assert "test" in task.eval_split
    with pytest.raises(ValueError, match="both to train on and to evaluate on"):
        load_task(tmp_path / "only", split="test", eval_split="test")


def test_types_of_the_columns_are_not_copied_for_each_picture(pictures, monkeypatch):
    inputs = ImageInputs(pictures, Processor())
    copies = []
    whole = Features.copy
    monkeypatch.setattr(Features, "copy", lambda self: copies.append(1) or whole(self))
    inputs.__getitems__([0, 1, 2])
    few = len(copies)
    inputs.__getitems__(range(12))
    assert len(copies) - few == few <= 2


def test_image_inputs_are_the_processors_pixels_in_any_order(pictures):
    inputs = ImageInputs(pictures, Processor())
    assert len(inputs) == 12
    assert inputs.labels == pictures["label"][:]
    assert inputs.column_names == ["pixel_values", "labels"]
    many = inputs.__getitems__([7, 0, 7])
    for item, index in zip(many, (7, 0, 7), strict=True):
        expected = torch.tensor(list(pixels(pictures)[index])).reshape(8, 8, 3).permute(2, 0, 1).float()
        assert torch.equal(item["pixel_values"], expected)
        assert torch.equal(inputs[index]["pixel_values"], expected)
        assert item["labels"] == pictures[index]["label"]
    unlabelled = ImageInputs(pictures.remove_columns("label"), Processor(), labels_needed=False)
    assert set(unlabelled[0]) == {"pixel_values"}
    with pytest.raises(ValueError, match="need an image processor"):
        ImageInputs(pictures, None)


def test_cached_images_are_processed_once(pictures):
    counted, plain = Processor(), Processor()
    cached, fresh = ImageInputs(pictures, counted, cache=True), ImageInputs(pictures, plain)
    for _ in range(2):
        for index in (3, 5):
            assert torch.equal(cached[index]["pixel_values"], fresh[index]["pixel_values"])
    assert torch.equal(cached.__getitems__([5, 1])[0]["pixel_values"], fresh[5]["pixel_values"])
    assert counted.seen == 3
    assert plain.seen == 5


def test_raw_images_of_any_mode_reach_a_processor_of_transformers():
    _, processor = tiny_vit()
    colour = PILImage.new("RGB", (8, 8), (10, 20, 30))
    modes = [colour.convert("RGBA"), colour.quantize(2)]
    data = Dataset.from_dict({"image": modes, "label": [0, 1]}, features=Features(image=Image(), label=Value("int64")))
    batch = collate_images(ImageInputs(data, processor).__getitems__([0, 1]))
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    torch.testing.assert_close(batch["pixel_values"][0], batch["pixel_values"][1])


def as_columns(data):
    """The same rows as a data set, as a stream, and behind a transform that changes nothing."""
    yield ImageInputs(data, Processor())
    yield StreamedInputs(data.to_iterable_dataset(), Processor())
    yield ImageInputs(data.with_transform(lambda batch: batch), Processor())


@pytest.mark.parametrize("mode", ["L", "1", "RGB", None])
def test_a_column_of_pictures_that_is_cast_to_a_mode_is_read_in_it(mode):
    """``datasets`` decodes so, and whoever casts wants it."""
    red = PILImage.new("RGB", (8, 8), (255, 0, 0))
    data = Dataset.from_dict(
        {"image": [red] * 2, "label": [0, 1]}, features=Features(image=Image(mode=mode), label=Value("int64"))
    )
    wanted = torch.from_numpy(np.array(data[0]["image"].convert("RGB"))).permute(2, 0, 1).float()
    for inputs in as_columns(data):
        assert torch.equal(next(iter(inputs))["pixel_values"], wanted)
    # Wider numbers are no other picture.
    wide = ImageInputs(data.cast_column("image", Image(mode="I")), Processor())
    assert torch.equal(wide[0]["pixel_values"][:, 0, 0], torch.tensor([255.0, 0.0, 0.0]))


@pytest.mark.parametrize("kind", [Array2D((8, 8), "uint16"), List(List(Value("uint16")))], ids=["array", "lists"])
@pytest.mark.parametrize("largest", [65_535, 255])
def test_a_column_of_16_bits_is_read_as_an_array_of_16_bits(kind, largest):
    picture = np.linspace(0, largest, 64).astype(np.uint16).reshape(8, 8)
    data = Dataset.from_dict(
        {"image": [picture] * 2, "label": [0, 1]}, features=Features(image=kind, label=Value("int64"))
    )
    wanted = torch.from_numpy(picture.astype(np.int64) >> 8).expand(3, 8, 8).float()
    for inputs in as_columns(data):
        assert torch.equal(next(iter(inputs))["pixel_values"], wanted)


def test_greyscale_pictures_become_what_the_model_reads(tmp_path):
    from hf_immunize.models.loading import load_model

    model, processor = tiny_vit()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    grey = picture_dataset(4, mode="L")
    inputs = ImageInputs(grey, lambda images, return_tensors: {"pixel_values": loaded.preprocess(images)})
    image = inputs[0]["pixel_values"]
    assert image.shape == (3, 32, 32)
    assert torch.equal(image[0], image[2])


def test_a_strip_that_would_fill_the_memory_is_refused():
    strip = PILImage.new("RGB", (2, 20_000))
    rows = Dataset.from_dict({"image": [strip]}, features=Features({"image": Image()}))
    for processor in (
        ConvNextImageProcessor(size={"shortest_edge": 224}),
        TimmImageProcessor.from_model(tiny_timm(), 224),
    ):
        with pytest.raises(ValueError, match=r"Row 0: A picture of 2 × 20000 would be enlarged to .* pixels"):
            ImageInputs(rows, processor, labels="unused")[0]
    # Where both edges are brought to a length of their own nothing grows.
    assert ImageInputs(rows, tiny_vit()[1], labels="unused")[0]["pixel_values"].shape == (3, 32, 32)


MEMORY = """
import resource, sys
import torch
from datasets import ClassLabel, Dataset, Features, Image
from samples import tiny_vit
from hf_immunize import ImmunizationArguments, ImmunizationTrainer
from hf_immunize.data.images import ImageInputs
from hf_immunize.models.extraction import extract_features

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def used(side):
    folder, features = sys.argv[1], Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    file = {"bytes": open(f"{folder}/{side}.png", "rb").read(), "path": None}
    data = Dataset.from_dict({"image": [file] * n, "label": [0, 1] * (n // 2)}, features=features)
    model, processor = tiny_vit(("a", "b"))
    assert extract_features(model, ImageInputs(data, processor), batch_size=len(data)).features.shape == (len(data), 32)
    how = dict(max_steps=1, save_strategy="no", use_cpu=True, report_to="none")
    how |= dict(per_device_train_batch_size=len(data), per_device_harmful_batch_size=len(data))
    args = ImmunizationArguments(f"{folder}/{side}", **how)
    given = dict(train_dataset=data, harmful_dataset=data, processing_class=processor)
    ImmunizationTrainer(model, args, **given).train()

torch.set_num_threads(1)
n, side = map(int, sys.argv[2:])
used(8)
before = peak()
used(side)
print((peak() - before) / 2**20)
"""


@pytest.mark.parametrize(("n", "side", "most"), [(12, 2500, 250), pytest.param(32, 5000, 600, marks=pytest.mark.slow)])
def test_pictures_are_decoded_and_shrunk_one_at_a_time(tmp_path, n, side, most):
    """Mebibytes above the peak of small pictures, with features and a training; decoded, each has 4 · side² bytes."""
    for pixels_a_side in (8, side):
        size = (pixels_a_side, pixels_a_side)
        PILImage.new("RGB", size, (9, 90, 200)).save(tmp_path / f"{pixels_a_side}.png")
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(n), str(side)],
        capture_output=True,
        text=True,
        timeout=1800,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert float(ran.stdout.splitlines()[-1]) < most


def test_what_a_processor_of_ones_own_gives_is_read_or_named():
    def numpy_pixels(images, return_tensors=None):
        return {"pixel_values": np.ones((len(images), 3, 4, 4), np.float32)}

    def one_for_all(images, return_tensors=None):
        return {"pixel_values": torch.ones(1, 3, 4, 4)}

    assert torch.equal(ImageInputs(picture_dataset(3), numpy_pixels)[0]["pixel_values"], torch.ones(3, 4, 4))
    with pytest.raises(ValueError, match=r"\(function\) made 1 of 2 pictures"):
        ImageInputs(picture_dataset(3), one_for_all).__getitems__([0, 1])
