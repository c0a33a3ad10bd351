"""The rows of a task: which splits are taken, what is said of them, and where they came from."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import datasets
import pytest
from datasets import ClassLabel, DatasetDict, Image, Value, load_dataset
from huggingface_hub.errors import RepositoryNotFoundError
from tiny import picture_dataset

from hf_immunize.data import sources
from hf_immunize.data.task import load_evaluation, load_task
from hf_immunize.errors import HubConnectionError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pixels(data):
    return [row["image"].tobytes() for row in data]


def unlabelled(n=8):
    data = picture_dataset(n, seed=3)
    kind = data.features["label"]
    return data.remove_columns("label").add_column("label", [-1] * n, feature=kind)


def splits(**sizes):
    return DatasetDict({name: picture_dataset(n, seed=len(name)) for name, n in sizes.items()})


def test_a_task_by_the_name_of_a_folder(tmp_path):
    splits(train=12, test=4).save_to_disk(tmp_path / "pets")
    task = load_task(tmp_path / "pets")
    assert (task.name, task.revision, task.config) == ("pets", None, None)
    assert (len(task.train), len(task.evaluation)) == (12, 4)
    assert (task.split, task.eval_split) == ("train", "test")
    assert (task.image_column, task.label_column) == ("image", "label")
    assert task.classes == ["class 0", "class 1"]
    assert any("'test' to measure on" in note for note in task.notes)


def test_a_split_without_labels_is_not_measured_on():
    data = splits(train=12, validation=6)
    data["test"] = unlabelled()
    for load in (load_task, load_evaluation):
        task = load(data)
        assert task.eval_split == "validation"
        assert any("'validation' to measure on, since 'test' has no labels" in note for note in task.notes)
    assert load_task(data, labels="unused").eval_split == "test"
    assert load_task(data, labels="optional").eval_split == "validation"
    del data["validation"]
    assert "a fifth of train" in load_task(data, seed=1).eval_split
    assert load_task(data, labels="optional").eval_split == "test"
    with pytest.raises(ValueError, match=r"split 'test' of .* has no labels .all of them are −1 or empty"):
        load_task(data, eval_split="test")
    data["test"] = data["test"].remove_columns("label")
    with pytest.raises(ValueError, match=r"'test' of .* has no column of labels"):
        load_task(data, eval_split="test")


def test_evaluation_rows_alone_follow_the_same_rule():
    assert load_evaluation(splits(train=12, validation=6)).eval_split == "validation"
    assert load_evaluation(splits(train=12, validation=6, test=4)).eval_split == "test"
    task = load_evaluation(splits(train=12))
    assert task.split == task.eval_split == "train"
    assert task.train is task.evaluation
    assert any("'train' to measure on" in note for note in task.notes)
    assert len(load_evaluation(splits(train=12, test=4), split="train").evaluation) == 12
    assert len(load_evaluation((picture_dataset(12), picture_dataset(4))).evaluation) == 4
    task = load_evaluation(picture_dataset(12), max_samples=5)
    assert len(task.evaluation) == 5
    assert task.train is task.evaluation
    with pytest.raises(ValueError, match="has no labels"):
        load_evaluation(unlabelled(), labels="needed")


def test_a_fifth_of_one_data_set_is_held_out_and_said():
    data = picture_dataset(40)
    task = load_task(data, seed=3)
    assert (len(task.train), len(task.evaluation)) == (32, 8)
    assert sorted(pixels(task.train) + pixels(task.evaluation)) == sorted(pixels(data))
    assert task.eval_split == "a fifth of train, drawn by seed 3"
    assert task.name == "data passed as an object"
    assert any("held out a fifth of train, drawn by seed 3" in note for note in task.notes)
    assert pixels(load_task(data, seed=4).evaluation) != pixels(task.evaluation)


def test_a_pair_is_taken_as_it_is():
    train, evaluation = picture_dataset(12), picture_dataset(6, seed=4)
    task = load_task((train, evaluation))
    assert pixels(task.train) == pixels(train)
    assert pixels(task.evaluation) == pixels(evaluation)
    with pytest.raises(ValueError, match="no splits or configurations"):
        load_task((train, evaluation), split="train")
    with pytest.raises(TypeError, match=r"A pair of data sets .* got \(Dataset\)"):
        load_task((train,))


def test_the_same_rows_never_serve_both():
    data = splits(train=20, test=6)
    for one, two in (("test", "test"), ("train", "train[:50%]"), ("train+test", "test")):
        with pytest.raises(ValueError, match="both to train on and to evaluate on"):
            load_task(data, split=one, eval_split=two)
    task = load_task(data, split="train[:80%]", eval_split="train[80%:]")
    assert (len(task.train), len(task.evaluation)) == (16, 4)
    assert (task.split, task.eval_split) == ("train[:80%]", "train[80%:]")
    assert "a fifth of train+test" in load_task(data, split="train+test").eval_split


def test_slices_and_sums_of_splits():
    data = splits(train=20, validation=10)
    assert pixels(load_task(data, split="train[:50%]").train) == pixels(data["train"])[:10]
    both = load_task(data, split="train+validation").train.num_rows + 6
    assert both == 30
    with pytest.raises(ValueError, match=r"has the splits train, validation; not 'tran\[:5\]'.*a slice of one"):
        load_task(data, split="tran[:5]")
    with pytest.raises(ValueError, match="is empty"):
        load_task(data, split="train[:0]")


def test_samples_are_drawn_by_the_seed():
    data = splits(train=30, test=20)
    task = load_task(data, max_train_samples=10, max_eval_samples=5, seed=1)
    assert (len(task.train), len(task.evaluation)) == (10, 5)
    assert pixels(task.train) == pixels(load_task(data, max_train_samples=10, seed=1).train)
    assert pixels(task.train) != pixels(load_task(data, max_train_samples=10, seed=2).train)
    assert pixels(task.train) != pixels(data["train"])[:10]
    with pytest.raises(ValueError, match="At least one row"):
        load_task(data, max_train_samples=0)


def test_several_columns_that_could_be_the_labels():
    data = picture_dataset(20).rename_column("label", "kind")
    data = data.add_column("domain", [0] * 20, feature=ClassLabel(names=["photo"])).rename_column("kind", "label")
    data = data.select_columns(["image", "domain", "label"])
    task = load_task(data)
    assert task.label_column == "label"
    assert any("'label' for the labels; 'domain' could be meant too" in note for note in task.notes)
    assert load_task(data, label_column="domain").classes == ["photo"]
    assert load_task(data, labels="unused").label_column is None


def test_numbers_under_a_usual_name_are_labels_as_well_as_any():
    data = picture_dataset(20).cast_column("label", Value("int64"))
    data = data.add_column("domain", [0] * 20, feature=ClassLabel(names=["photo"]))
    data = data.add_column("depth", [{"bytes": None, "path": "none.png"}] * 20, feature=Image())
    task = load_task(data)
    assert (task.image_column, task.label_column, task.classes) == ("image", "label", None)
    assert any("'image' for the pictures; 'depth' could be meant too (image_column)" in note for note in task.notes)
    assert any("'label' for the labels; 'domain' could be meant too (label_column)" in note for note in task.notes)


def test_a_path_that_reads_like_an_id_is_said_to_be_a_path(tmp_path, monkeypatch):
    splits(train=12, test=4).save_to_disk(tmp_path / "me" / "pets")
    monkeypatch.chdir(tmp_path)
    assert any("'me/pets' is a path here" in note for note in load_task("me/pets").notes)
    assert not any("is a path here" in note for note in load_task("./me/pets").notes)


def test_what_is_no_data_set_says_so():
    with pytest.raises(TypeError, match=r"A stream .IterableDataset. has no length"):
        load_task(picture_dataset(12).to_iterable_dataset())
    with pytest.raises(TypeError, match="A data set was expected"):
        load_task(3)
    with pytest.raises(ValueError, match="The configuration 'fine' was named for data that are loaded already"):
        load_task(picture_dataset(12), config="fine")


class _Hub:
    """Stands in for the Hub: what commit it names, and what was loaded."""

    def __init__(self, monkeypatch, sha):
        self.sha, self.loaded = sha, []
        monkeypatch.setattr(sources, "HfApi", lambda: self)
        monkeypatch.setattr(sources, "load_dataset", self.load_dataset)

    def dataset_info(self, repo, revision, token):
        if self.sha is None:
            raise ConnectionError("no network")
        return SimpleNamespace(sha=self.sha)

    def load_dataset(self, repo, config, revision, token):
        self.loaded.append((repo, revision))
        return splits(train=12, test=4)


def test_the_commit_is_resolved_before_loading(monkeypatch):
    hub = _Hub(monkeypatch, COMMIT)
    task = load_task("me/pets")
    assert (task.name, task.revision) == ("me/pets", COMMIT)
    load_task("me/pets@v2")
    assert hub.loaded == [("me/pets", COMMIT)] * 2


def test_offline_the_cache_says_the_commit_or_nothing_does(monkeypatch):
    hub = _Hub(monkeypatch, None)
    task = load_task("me/pets@v2")
    assert task.revision is None
    assert hub.loaded == [("me/pets", "v2")]
    assert any("could not be asked" in note for note in task.notes)
    monkeypatch.setattr(sources, "_commit_in_cache", lambda rows: COMMIT)
    assert load_task("me/pets").revision == COMMIT
    with pytest.raises(ValueError, match=f"the cache holds me/pets at {COMMIT}"):
        load_task("me/pets@" + "f" * 40)


def test_what_was_cached_online_is_read_offline_with_its_commit(tmp_path, monkeypatch):
    # The layout that `datasets` leaves behind after a download: owner___name/config/version/commit.
    picture_dataset(20).to_parquet(tmp_path / "a.parquet")
    load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "made"))
    (made,) = {file.parent for file in (tmp_path / "made").rglob("*.arrow")}
    home = tmp_path / "cache" / "me___pets" / "default" / "0.0.0" / COMMIT
    shutil.copytree(made, home)
    (home / "parquet-train.arrow").rename(home / "pets-train.arrow")
    facts = json.loads((home / "dataset_info.json").read_text())
    (home / "dataset_info.json").write_text(json.dumps({**facts, "config_name": "default", "dataset_name": "pets"}))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    task = load_task("me/pets")
    assert (len(task.train), len(task.evaluation)) == (16, 4)
    assert (task.revision, task.config) == (COMMIT, "default")
    assert any(f"the cache holds commit {COMMIT}" in note for note in task.notes)


class _NotThere(RepositoryNotFoundError):
    def __init__(self):
        pass


def test_what_the_hub_refuses_is_said_before_anything_is_loaded(monkeypatch):
    hub = _Hub(monkeypatch, COMMIT)

    def refuse(repo, revision, token):
        raise _NotThere

    monkeypatch.setattr(hub, "dataset_info", refuse)
    with pytest.raises(ValueError, match="There is no datasets/me/pets on"):
        load_task("me/pets")
    assert not hub.loaded


def test_broken_pictures_are_left_out_where_that_was_asked_for(tmp_path):
    for number in range(24):
        path = tmp_path / f"kind{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture_dataset(1, seed=number)[0]["image"].save(path)
    (tmp_path / "kind0" / "4.png").write_bytes(b"<html>")
    assert len(load_task(tmp_path).train) + len(load_task(tmp_path).evaluation) == 24
    task = load_task(tmp_path, skip_corrupt=True)
    assert len(task.train) + len(task.evaluation) == 23
    assert any("left out 1 of 24 pictures to train on" in note and "4.png" in note for note in task.notes)


def test_a_data_set_that_is_neither_online_nor_cached():
    with pytest.raises(HubConnectionError, match="could not be reached for the data set 'someone/nothing'"):
        load_task("someone/nothing")
