"""Tokens and places on a machine stay where they are."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from hf_immunize.release.privacy import base_names, holds_token, places_in, without_paths, without_places

TOKEN = "hf_" + "A1b2" * 8
OWN = "a-word-of-my-own-0123456789"


def png(path, key="note", value="", **options):
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, value, **options) if options else info.add_text(key, value)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path, pnginfo=info)
    return path


def compressed(path, text):
    png(path)
    data = b"note\0\0" + zlib.compress(text.encode())
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + chunk + whole[33:])
    return path


@pytest.mark.parametrize("secret", [TOKEN, OWN])
@pytest.mark.parametrize("place", ["html", "rst", "utf-16", "weights", "png", "png, compressed", "late", "between"])
def test_a_token_is_found_wherever_it_stands(tmp_path, secret, place):
    path = tmp_path / {"html": "LICENSE.html", "rst": "NOTICE.rst", "weights": "model.safetensors"}.get(place, "x.png")
    if place in ("html", "rst"):
        path.write_text(f"<p>{secret}</p>")
    elif place == "utf-16":
        path.write_text(secret, encoding="utf-16")
    elif place == "weights":
        save_file({"w": torch.zeros(9)}, path, metadata={"note": secret})
    elif place == "png":
        png(path, value=secret)
    elif place == "png, compressed":
        compressed(path, secret)
        assert secret.encode() not in path.read_bytes()
    else:
        at = 3 * 2**20 if place == "late" else 2**20 - 10
        path.write_bytes(b"\xff" * at + secret.encode() + b"\xff")
    assert holds_token(path, OWN)


def test_what_is_no_token_passes(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"hf_layer": torch.randn(1000), "hf_head.weight": torch.zeros(3)}, path)
    assert not holds_token(path, OWN)
    assert not holds_token(compressed(tmp_path / "x.png", "hf_hub is a name"), OWN)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("hf-immunize train --primary /home/me/client/birds", "hf-immunize train --primary birds"),
        ("hf-immunize train --primary=/home/me/client/birds/", "hf-immunize train --primary=birds"),
        ("hf-immunize train --output_dir '~/my runs/x y'", "hf-immunize train --output_dir 'x y'"),
        ("hf-immunize train --config ../../client/run.yaml", "hf-immunize train --config run.yaml"),
        ("hf-immunize train --primary data/client/birds", "hf-immunize train --primary birds"),
        ("C:\\work\\client\\python.exe x", "C:\\work\\client\\python.exe x"),
        ("hf-immunize train --primary 'C:\\work\\birds'", "hf-immunize train --primary birds"),
        ("hf-immunize train --model me/vit@v1 --primary_split train[:10%]", None),
        (f"HF_TOKEN={TOKEN} python /srv/run.py", "'HF_TOKEN=<token>' python run.py"),
        ("an 'unclosed /home/me/x", "an 'unclosed x"),
    ],
)
def test_a_command_names_no_place(command, wanted):
    if command.startswith("C:"):
        # As a shell reads it, the backslashes are gone.
        assert "\\" not in base_names(command) or base_names(command) == wanted
        return
    assert base_names(command) == (command if wanted is None else wanted)


def test_a_subfolder_on_the_hub_is_no_path_of_this_machine():
    command = "hf-immunize train --model me/zoo/vision/small@v1 --base_model=me/zoo/vision/small --primary a/b/c"
    assert base_names(command, ("me/zoo/vision/small",)) == command.replace("a/b/c", "c")


def test_notes_lose_paths_and_nothing_else():
    told = {"notes": ["left out /home/me/a/b.png, and 'c:/d'", "1/2 of https://x.y/z/w", "and/or"], "rate": 0.5}
    assert without_paths(told) == {
        "notes": ["left out b.png, and 'c:/d'", "1/2 of https://x.y/z/w", "and/or"],
        "rate": 0.5,
    }


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("row 3: '/home/alice smith/my data/a b.png' cannot be read", "row 3: 'a b.png' cannot be read"),
        ("took \"/home/al o'neil/x y/b.png\" and 'c'", "took \"b.png\" and 'c'"),
        ("'~/my data/birds/' and '~al/my data/c.png'", "'birds' and 'c.png'"),
        ("'C:\\Users\\Al Smith\\b.png', '\\\\host\\My Share\\c.png'", "'b.png', 'c.png'"),
        ("the classes 'a/b', '/', 'c d' and 'e'", None),
        ("it's at https://x.y/z w and 'https://x.y/z w'", None),
    ],
)
def test_a_path_in_quotes_goes_whole(told, wanted):
    assert without_paths([told]) == [told if wanted is None else wanted]


def test_configurations_name_no_place_but_keep_their_classes():
    values = {
        "_name_or_path": "/home/me/vit",
        "id2label": {"0": "/m/01g317", "1": "a/b/c"},
        "nested": [{"file": "~/w/model.safetensors", "profile": "/x/y"}],
        "name_or_path": "me/vit",
    }
    assert sorted(places_in(values)) == ["_name_or_path", "file"]
    clean = without_places(values)
    assert clean["_name_or_path"] == "vit"
    assert clean["nested"][0]["file"] == "model.safetensors"
    assert clean["id2label"] == values["id2label"]
    assert clean["name_or_path"] == "me/vit"
    assert places_in(clean) == []
