"""Images as users name them: folders, parquet, splits, columns, labels, channels."""

from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from samples import tiny_vit
from tiny import Images, picture_dataset

from hf_immunize.data.columns import choose_columns
from hf_immunize.data.images import ImageInputs, as_inputs, collate_images
from hf_immunize.data.labels import check_labels
from hf_immunize.data.sources import load_images
from hf_immunize.data.splits import training_split
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


def pixels(data):
    return [row["image"].tobytes() for row in data]


@pytest.fixture
def pictures():
    return picture_dataset(12, n_classes=3)


def write_folder(folder, splits):
    for split, n in splits.items():
        data = picture_dataset(n, seed=len(split))
        for index, row in enumerate(data):
            target = folder / split / f"kind{row['label']}" / f"{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(target)


def test_a_folder_of_save_to_disk(tmp_path, pictures):
    pictures.save_to_disk(tmp_path / "one")
    assert pixels(load_images(str(tmp_path / "one"))) == pixels(pictures)
    other = picture_dataset(5, seed=9)
    DatasetDict({"train": pictures, "test": other}).save_to_disk(tmp_path / "two")
    assert pixels(load_images(str(tmp_path / "two"))) == pixels(pictures)
    assert pixels(load_images(str(tmp_path / "two"), "test")) == pixels(other)


def test_a_parquet_file_and_a_folder_of_them(tmp_path, pictures):
    (tmp_path / "data").mkdir()
    pictures.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    picture_dataset(5, seed=9).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    one = load_images(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    assert pixels(one) == pixels(pictures)
    assert one.features == pictures.features
    assert len(load_images(str(tmp_path), "train")) == 12
    assert len(load_images(str(tmp_path), "test")) == 5


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


def test_splits_that_cannot_be_say_which_there_are(tmp_path):
    DatasetDict({"left": picture_dataset(4), "right": picture_dataset(4)}).save_to_disk(tmp_path / "named")
    with pytest.raises(ValueError, match="the splits left, right; none was named"):
        load_images(str(tmp_path / "named"))
    with pytest.raises(ValueError, match="the splits left, right; not 'train'"):
        load_images(str(tmp_path / "named"), "train")
    with pytest.raises(ValueError, match="Split 'train' of 'a/b' is empty"):
        training_split(DatasetDict({"train": picture_dataset(4).select([])}), None, "a/b")
    picture_dataset(4).select([]).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="holds an empty split"):
        load_images(str(tmp_path / "empty.parquet"))
    DatasetDict({"train": picture_dataset(4), "test": picture_dataset(4).select([])}).save_to_disk(tmp_path / "empty")
    with pytest.raises(ValueError, match="holds an empty split"):
        load_images(str(tmp_path / "empty"))


def test_a_data_set_without_splits_is_a_training_split(tmp_path):
    picture_dataset(4).save_to_disk(tmp_path / "one")
    assert len(load_images(str(tmp_path / "one"))) == len(load_images(str(tmp_path / "one"), "train")) == 4
    with pytest.raises(ValueError, match="has the splits train; not 'tset'"):
        load_images(str(tmp_path / "one"), "tset")


def test_places_that_cannot_be_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="There is no data set at"):
        load_images(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"There is no data set at './here'"):
        load_images("./here")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"a file of type '.csv'; a parquet file or a folder was expected"):
        load_images(str(tmp_path / "table.csv"))
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ValueError, match="No images were found in"):
        load_images(str(tmp_path / "hollow"))


def test_without_a_network_the_error_is_about_the_network():
    with pytest.raises(ConnectionError, match="could not be reached for the data set 'someone/nothing'"):
        load_images("someone/nothing")


def columns(data, *named, **options):
    found = choose_columns(data, *named, **options)
    return found.image, found.label


def test_columns_are_found_by_type_and_then_by_name(pictures):
    assert columns(pictures) == ("image", "label")
    renamed = pictures.rename_columns({"image": "photo", "label": "species"})
    assert columns(renamed) == ("photo", "species")
    # A column that only sounds right does not win over one of the right type.
    assert columns(renamed.add_column("label", ["x"] * 12)) == ("photo", "species")
    plain = pictures.cast_column("label", Value("int64")).rename_column("label", "fine_label")
    assert columns(plain) == ("image", "fine_label")
    assert columns(pictures.remove_columns("label"), labels="optional") == ("image", None)
    two = pictures.add_column("coarse", [0] * 12, feature=ClassLabel(names=["all"]))
    assert columns(two, label_column="coarse") == ("image", "coarse")


def test_columns_that_cannot_be_found_say_what_there_is(pictures):
    with pytest.raises(ValueError, match=r"no column 'lable'; the columns are image, label. Did you mean 'label'\?"):
        columns(pictures, label_column="lable")
    with pytest.raises(ValueError, match="no column of images; its columns are text, label"):
        columns(Dataset.from_dict({"text": ["a"], "label": [0]}))
    with pytest.raises(ValueError, match="no column of labels; its columns are image"):
        columns(pictures.remove_columns("label"))


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


def test_raw_data_sets_are_wrapped_and_others_stay(pictures):
    assert isinstance(as_inputs(pictures, Processor()), ImageInputs)
    ready = Images(4)
    assert as_inputs(ready, None) is ready
    transformed = pictures.with_transform(lambda batch: {"pixel_values": batch["image"]})
    assert as_inputs(transformed, None) is transformed
    computed = Dataset.from_dict({"pixel_values": [[[[0.0]]]], "labels": [0]}).with_format("torch")
    assert as_inputs(computed, None) is computed
    with pytest.raises(ValueError, match=r"with the splits train, test was given. Choose one"):
        as_inputs(DatasetDict({"train": pictures, "test": pictures}), Processor())


def test_samples_of_every_form_are_stacked():
    image = torch.randn(3, 4, 4)
    for sample in ({"pixel_values": image, "labels": 2}, (image, 2), {"pixel_values": image, "label": torch.tensor(2)}):
        batch = collate_images([sample, sample])
        assert torch.equal(batch["pixel_values"], torch.stack([image, image]))
        assert batch["labels"].tolist() == [2, 2]
        assert batch["labels"].dtype == torch.int64
    mask = torch.ones(5)
    assert collate_images([{"pixel_values": image, "mask": mask}] * 2)["mask"].shape == (2, 5)
    with pytest.raises(ValueError, match=r"Images of different shapes in one batch.*Resize"):
        collate_images([(image, 0), (torch.randn(1, 4, 4), 0)])
    with pytest.raises(ValueError, match=r"got image, label.*processing_class=image_processor"):
        collate_images([{"image": image, "label": 0}])


def test_labels_must_lie_inside_the_head():
    check_labels([0, 2, 1], 3, "primary")
    with pytest.raises(ValueError, match=r"primary labels run from 0 to 3, but .* 3 classes \(0 to 2\).*num_labels=4"):
        check_labels([0, 3], 3, "primary")
    with pytest.raises(ValueError, match="run from -1 to 1"):
        check_labels(torch.tensor([-1, 1]), 3, "primary")
    with pytest.raises(ValueError, match="must be whole numbers"):
        check_labels([0.0, 0.5], 3, "primary")
    with pytest.raises(ValueError, match=r"labels of the primary data must be whole numbers.*got 'cat'.*class_encode"):
        check_labels(["cat", "dog"], 3, "primary")
    with pytest.raises(ValueError, match="must be whole numbers, one an image, got None"):
        check_labels([0, None], 3, "primary")
