"""Files of strangers are read, never trusted."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hf_immunize.models.untrusted import read_json, read_shapes, shards_of


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{\x00}\x00", "not valid JSON"),
        (b"[1]", "must hold a JSON object, got list"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_name(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        read_json(path)


def test_json_without_end_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="bytes; JSON of at most"):
        read_json(path)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "pytorch_model.bin",
        "x.safetensors/..",
        "",
        ".",
        5,
        None,
    ],
)
def test_shards_are_plain_names_in_safetensors(tmp_path, name):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors", "v": name}}))
    with pytest.raises(ValueError, match="A shard is a plain name that ends in"):
        shards_of(path)


@pytest.mark.parametrize("values", [{}, {"weight_map": {}}, {"weight_map": ["x"]}, {"weight_map": None}])
def test_an_index_names_shards(tmp_path, values):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="names no shards"):
        shards_of(path)
    path.write_text(json.dumps({"weight_map": {"w": "b.safetensors", "v": "a.safetensors", "u": "a.safetensors"}}))
    assert shards_of(path) == ["a.safetensors", "b.safetensors"]


def test_shapes_come_from_the_headers(tmp_path):
    save_file({"w": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "a.safetensors")
    save_file({"c": torch.zeros(2)}, tmp_path / "b.safetensors")
    shapes = read_shapes([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert shapes.by_name == {"w": (3, 4), "b": (5,), "c": (2,)}
    assert shapes.n_parameters == 19


@pytest.mark.parametrize("kind", ["cut", "empty", "pickle", "garbage", "absent", "no tensors"])
def test_weights_that_are_not_whole_are_named(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(3, 4)} if kind != "no tensors" else {}, path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "absent":
        path.unlink()
    elif kind == "pickle":
        torch.save({"w": torch.zeros(1)}, path)
    elif kind != "no tensors":
        path.write_bytes(b"" if kind == "empty" else b"\xff" * 100)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        read_shapes([path])
