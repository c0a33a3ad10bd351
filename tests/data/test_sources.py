"""Data sets by the names that users give them."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import datasets
import pytest
from datasets import load_dataset
from huggingface_hub.errors import RepositoryNotFoundError
from pictures import splits
from tiny import picture_dataset

from hf_immunize.data import sources
from hf_immunize.data.sources import load_images, load_source
from hf_immunize.data.task import load_task
from hf_immunize.errors import HubConnectionError


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


COMMIT = "0123456789abcdef0123456789abcdef01234567"


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

    def load_dataset(self, repo, config, revision, token, streaming):
        assert not streaming
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


def test_a_data_set_that_is_neither_online_nor_cached():
    with pytest.raises(HubConnectionError, match="could not be reached for the data set 'someone/nothing'"):
        load_task("someone/nothing")


def test_an_empty_name_is_not_the_folder_at_hand():
    with pytest.raises(ValueError, match="name of the data set is empty"):
        load_source("")
