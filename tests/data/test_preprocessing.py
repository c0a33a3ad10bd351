"""One way from a picture to a tensor: every mode, every form in which pictures are stored."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from datasets import Dataset, Features, Image, Value
from pictures import HALVES, UPRIGHT, processor, stored
from PIL import Image as PILImage
from samples import sample_record, tiny_timm
from tiny import picture_dataset
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor

from hf_immunize.data.collate import collate_images
from hf_immunize.data.images import ImageInputs
from hf_immunize.data.inputs import as_inputs
from hf_immunize.data.preprocessing import TimmImageProcessor, channels_of, to_channels
from hf_immunize.models.loading import load_model
from hf_immunize.release.folder import save_immunized

RAMP_16 = (np.arange(64).reshape(8, 8) * 1024).astype(np.uint16)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_every_mode_becomes_the_same_picture(mode, n_channels):
    through = {"La": "LA", "PA": "P", "RGBa": "RGBA"}
    image = UPRIGHT.convert(through.get(mode, mode)) if mode != "LAB" else _lab()
    if mode in ("La", "RGBa", "PA"):
        image = image.convert(mode) if mode != "PA" else UPRIGHT.convert("LA").convert("PA")
    assert image.mode == mode
    plain = to_channels(image, n_channels)
    assert plain.mode == {1: "L", 3: "RGB"}[n_channels]
    expected = HALVES if n_channels == 3 else HALVES[:, :, 0]
    np.testing.assert_allclose(np.asarray(plain).astype(int), expected, atol=3)


def _lab():
    from PIL import ImageCms

    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return ImageCms.applyTransform(UPRIGHT, to_lab)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_upper_eight(kind):
    image = PILImage.fromarray(RAMP_16)
    expected = (RAMP_16 >> 8).astype(np.uint8)
    for one in (image, stored(image, kind), {"bytes": stored(image, kind), "path": None}, RAMP_16):
        np.testing.assert_array_equal(np.asarray(to_channels(one, 1)), expected)
        np.testing.assert_array_equal(np.asarray(to_channels(one))[:, :, 2], expected)
    data = Dataset.from_dict({"image": [image] * 2}, features=Features(image=Image()))
    wanted = processor()(to_channels(image), return_tensors="pt")["pixel_values"][0]
    for formatted in (data, data.with_format("torch"), data.with_format("numpy")):
        assert torch.equal(ImageInputs(formatted, processor(), labels="unused")[1]["pixel_values"], wanted)


def test_numbers_without_a_range_are_refused():
    for one in (PILImage.new("I", (4, 4)), PILImage.new("F", (4, 4))):
        with pytest.raises(ValueError, match="has no fixed range"):
            to_channels(one)
    with pytest.raises(ValueError, match=r"Pixels must be 8-bit integers .* got float32 from 0 to 1"):
        to_channels(np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3))
    with pytest.raises(ValueError, match="got int64 from 0 to 4000"):
        to_channels(torch.tensor([[0, 4000]]))


def test_pictures_are_turned_upright(tmp_path):
    exif = UPRIGHT.getexif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    UPRIGHT.save(path, exif=exif)
    expected = np.rot90(HALVES, -1)
    for form in (path, path.read_bytes(), {"bytes": None, "path": str(path)}, PILImage.open(path)):
        np.testing.assert_array_equal(np.asarray(to_channels(form)), expected)
    data = Dataset.from_dict({"image": [str(path)]})
    wanted = processor()(PILImage.fromarray(expected), return_tensors="pt")["pixel_values"][0]
    for one in (data, data.cast_column("image", Image()), data.cast_column("image", Image(decode=False))):
        assert torch.equal(ImageInputs(one, processor(), labels="unused")[0]["pixel_values"], wanted)


def test_grey_pictures_among_coloured_ones_go_through_a_plain_processor():
    mixed = [UPRIGHT, UPRIGHT.convert("L"), UPRIGHT.convert("RGBA")]
    data = Dataset.from_dict(
        {"image": mixed, "label": [0, 1, 0]}, features=Features(image=Image(), label=Value("int64"))
    )
    batch = collate_images(ImageInputs(data, processor()).__getitems__([0, 1, 2]))["pixel_values"]
    assert batch.shape == (3, 3, 32, 32)
    assert torch.equal(batch[0], batch[1])


def test_the_processor_says_how_many_channels():
    from transformers import ViTImageProcessor

    grey = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    assert channels_of(grey) == 1
    assert channels_of(processor()) == channels_of(lambda images: images) == 3
    assert ImageInputs(picture_dataset(4), grey)[0]["pixel_values"].shape == (1, 8, 8)
    assert ImageInputs(picture_dataset(4), processor(), n_channels=1).n_channels == 1


def test_a_struct_of_bytes_without_a_declared_type():
    data = Dataset.from_dict({"image": [{"bytes": stored(UPRIGHT), "path": "a.png"}] * 2, "label": [0, 1]})
    wanted = ImageInputs(
        Dataset.from_dict({"image": [UPRIGHT]}, features=Features(image=Image())), processor(), labels="unused"
    )
    assert torch.equal(as_inputs(data, processor())[1]["pixel_values"], wanted[0]["pixel_values"])
    renamed = data.rename_column("image", "photo")
    assert ImageInputs(renamed, processor()).image_column == "photo"


def test_a_transform_that_leaves_pictures_runs_before_the_processor():
    flipped = picture_dataset(6)
    flipped.set_transform(lambda rows: {**rows, "image": [one.rotate(180) for one in rows["image"]]})
    inputs = as_inputs(flipped, processor())
    assert not inputs.is_deterministic
    wanted = ImageInputs(picture_dataset(6), processor())
    assert wanted.is_deterministic
    assert inputs.labels == wanted.labels
    torch.testing.assert_close(inputs[2]["pixel_values"], wanted[2]["pixel_values"].flip(1, 2))
    assert inputs[2]["labels"] == wanted[2]["labels"]
    with pytest.raises(ValueError, match="cache=True"):
        ImageInputs(flipped, processor(), cache=True)
    odd = picture_dataset(4).with_transform(lambda rows: {"picture": rows["image"]})
    with pytest.raises(ValueError, match="The transform of the data set gives picture: neither 'pixel_values' nor"):
        as_inputs(odd, processor())[0]


@pytest.mark.parametrize("kind", [int, np.int64, torch.tensor, float, lambda label: np.array(label)])
def test_what_a_transform_makes_of_a_label_counts_whatever_wraps_the_number(kind):
    data = picture_dataset(8, n_classes=3)
    moved = data.with_transform(lambda rows: {**rows, "label": [kind(2 - int(one)) for one in rows["label"]]})
    inputs = ImageInputs(moved, processor())
    wanted = [2 - label for label in data["label"]]
    assert [inputs[k]["labels"] for k in range(8)] == wanted
    # A number that no row has is taken where labels are taken as they stand.
    more = data.with_transform(lambda rows: {**rows, "label": [kind(int(one) + 5) for one in rows["label"]]})
    assert [ImageInputs(more, processor())[k]["labels"] for k in range(8)] == [5 + one for one in data["label"]]


def test_labels_behind_a_transform_are_numbered_in_the_order_of_other_classes():
    """What the transform gives is numbered as the rows are: classes in another order move it too."""
    data = picture_dataset(8, n_classes=3)
    same, moved = (
        ImageInputs(
            data.with_transform(lambda rows, add=add: {**rows, "label": [(one + add) % 3 for one in rows["label"]]}),
            processor(),
        ).with_classes(["class 2", "class 0", "class 1"])
        for add in (0, 1)
    )
    assert [same[k]["labels"] for k in range(8)] == same.labels == [(one + 1) % 3 for one in data["label"]]
    assert [moved[k]["labels"] for k in range(8)] == [(one + 2) % 3 for one in data["label"]]
    unknown = data.with_transform(lambda rows: {**rows, "label": [7 for _ in rows["label"]]})
    with pytest.raises(ValueError, match="gives the label 7 for row 1, which no row of column 'label' holds"):
        ImageInputs(unknown, processor()).with_classes(["class 2", "class 0", "class 1"])[1]


def test_labels_that_a_transform_blends_are_refused():
    data = picture_dataset(4)
    for blended in (0.5, torch.tensor([0.9, 0.1])):
        soft = data.with_transform(lambda rows, one=blended: {**rows, "label": [one for _ in rows["label"]]})
        with pytest.raises(ValueError, match="one class a picture"):
            ImageInputs(soft, processor())[0]


def test_words_behind_a_transform_keep_their_numbers():
    words = picture_dataset(6).cast_column("label", Value("int64"))
    words = words.map(lambda row: {"label": ["dog", "cat"][row["label"]]}, features=None)
    inputs = ImageInputs(words.with_transform(lambda rows: rows), processor())
    assert inputs.classes == ["cat", "dog"]
    assert [inputs[k]["labels"] for k in range(6)] == inputs.labels
    swapped = words.with_transform(
        lambda rows: {**rows, "label": ["cat" if one == "dog" else "dog" for one in rows["label"]]}
    )
    assert [ImageInputs(swapped, processor())[k]["labels"] for k in range(6)] == [1 - one for one in inputs.labels]


def test_a_transform_draws_anew_for_each_place_of_a_row():
    count = iter(range(100))
    data = picture_dataset(4)
    data.set_transform(
        lambda rows: {**rows, "image": [PILImage.new("RGB", (8, 8), (next(count),) * 3) for _ in rows["image"]]}
    )
    first, second = ImageInputs(data, processor()).__getitems__([1, 1])
    assert not torch.equal(first["pixel_values"], second["pixel_values"])


def test_inputs_reach_workers_that_are_spawned():
    data = picture_dataset(4)
    for inputs in (ImageInputs(data, processor(), cache=True), ImageInputs(data, processor())):
        loader = DataLoader(inputs, 2, num_workers=1, collate_fn=collate_images, multiprocessing_context="spawn")
        assert torch.equal(next(iter(loader))["pixel_values"][1], inputs[1]["pixel_values"])


def test_raw_samples_say_what_to_do():
    with pytest.raises(ValueError, match="holds a picture where numbers were expected"):
        collate_images([(UPRIGHT, 0)])
    with pytest.raises(ValueError, match="A label must be one whole number, got 'cat'"):
        collate_images([(torch.zeros(3, 2, 2), "cat")])


def test_timm_pixels_equal_timms_own_transform_and_the_wrapper(tmp_path):
    model = tiny_timm()
    processor = TimmImageProcessor.from_model(model, 64)
    image = PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    folder = save_immunized(tmp_path / "out", model, sample_record(library="timm"), processor, figures=False)
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}", pretrained=True))
    wanted = timm.data.create_transform(**config, is_training=False)(image)
    assert wanted.shape == (3, 64, 64)
    for one in (processor, load_model(folder).image_processor, AutoImageProcessor.from_pretrained(folder)):
        torch.testing.assert_close(one(image, return_tensors="pt")["pixel_values"][0], wanted, rtol=0, atol=0)


def test_timm_processor_survives_its_file(tmp_path):
    processor = TimmImageProcessor.from_model(tiny_timm(), (48, 64))
    processor.save_pretrained(tmp_path)
    again = TimmImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert again.size == {"height": 48, "width": 64}
    with pytest.raises(ValueError, match="neither preprocessor_config"):
        TimmImageProcessor.from_pretrained(tmp_path.parent / "absent")
    with pytest.raises(ValueError, match="return_tensors"):
        processor(PILImage.new("RGB", (8, 8)), return_tensors="np")
    with pytest.raises(ValueError, match="No images"):
        processor([])


def test_every_kind_of_image_gets_the_models_channels():
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8)
    grey = PILImage.fromarray(ramp)
    colour = np.stack([ramp, ramp, ramp], axis=2)
    same = [ramp, ramp[:, :, None], colour, torch.from_numpy(ramp), torch.from_numpy(colour).permute(2, 0, 1)]
    for image in [grey, *same, PILImage.fromarray(ramp.astype(np.uint16) * 256 + 7), grey.convert("RGBA")]:
        np.testing.assert_array_equal(np.asarray(to_channels(image, 3)), colour)
        np.testing.assert_array_equal(np.asarray(to_channels(image, 1)), ramp)
    assert to_channels(grey.convert("1")).mode == "RGB"


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (object(), TypeError, "got object"),
        (np.zeros((8, 8)), ValueError, "8-bit integers"),
        (np.zeros((8,), dtype=np.uint8), ValueError, "must have shape"),
        (np.zeros((8, 8, 2), dtype=np.uint8), ValueError, "must have shape"),
        (PILImage.new("F", (8, 8)), ValueError, "no fixed range"),
    ],
)
def test_what_is_no_image_says_so(image, error, message):
    with pytest.raises(error, match=message):
        to_channels(image)


def test_five_channels_are_refused():
    with pytest.raises(ValueError, match="the model wants 5"):
        to_channels(PILImage.new("RGB", (8, 8)), 5)


def test_a_timm_model_of_one_channel_has_a_processor_of_one(tmp_path):
    model = timm.create_model("resnet10t", num_classes=3, in_chans=1)
    processor = TimmImageProcessor.from_model(model, 32)
    assert processor.n_channels == 1
    pixels = processor(PILImage.new("RGB", (40, 50), (255, 0, 0)))["pixel_values"]
    assert pixels.shape == (1, 1, 32, 32)
    folder = save_immunized(tmp_path / "out", model, sample_record(library="timm"), processor, figures=False)
    loaded = load_model(folder)
    assert loaded.n_channels == 1
    torch.testing.assert_close(loaded.preprocess(PILImage.new("RGB", (40, 50), (255, 0, 0))), pixels)
    torch.testing.assert_close(loaded.model(pixels), model.eval()(pixels))


def test_a_timm_model_without_a_first_convolution_is_read_from_a_file_too():
    """In memory it is ``()``, and a file of JSON gives an empty list."""
    model = tiny_timm()
    wanted = TimmImageProcessor.from_model(model).data_config
    for nothing in ((), [], None):
        model.pretrained_cfg["first_conv"] = nothing
        assert TimmImageProcessor.from_model(model).data_config == wanted
