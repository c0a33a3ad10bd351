"""`hf-immunize gallery`: folders in, one page out; what is not shown is said and shows in the exit status."""

from __future__ import annotations

import json
import shutil

from commands import error_of
from gallery_releases import write_release

from hf_immunize.cli.main import main


def test_a_page_of_folders(tmp_path, capsys):
    first, second = write_release(tmp_path / "one", verified=True), write_release(tmp_path / "two")
    page = tmp_path / "out" / "index.html"
    given = ["gallery", str(first), str(second), "--output", str(page), "--title", "My models"]
    assert main(given) == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text(encoding="utf-8")
    assert "<h1>My models</h1>" in text
    assert "2 models" in text
    assert "exists. Name another file" in error_of(capsys, given)
    assert main([*given, "--overwrite", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"page": str(page), "shown": {"one": "holds", "two": "not verified"}, "failed": {}}


def test_what_is_not_shown_is_said(tmp_path, capsys):
    page = tmp_path / "gallery.html"
    assert main(["gallery", str(write_release(tmp_path / "one")), str(tmp_path / "no"), "--output", str(page)]) == 1
    assert "no is not shown: There is no folder" in capsys.readouterr().err
    page.unlink()
    assert "None of these can be shown" in error_of(capsys, ["gallery", str(tmp_path / "no"), "--output", str(page)])
    assert "Name at least one release" in error_of(capsys, ["gallery", "--output", str(page)])
    assert not page.exists()


def test_a_verification_made_elsewhere(tmp_path, capsys):
    folder = write_release(tmp_path / "one", verified=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "verification.json").rename(elsewhere / "verification.json")
    given = ["gallery", str(folder), "--output", str(tmp_path / "page.html"), "--json", "--verified", str(elsewhere)]
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["shown"] == {"one": "holds"}


def test_what_verify_wrote_into_a_release_is_shown(world, released, tmp_path, capsys):
    folder = shutil.copytree(released, tmp_path / "release")
    data = ["--primary", str(world / "primary"), "--harmful", str(world / "harmful")]
    status = main(["verify", str(folder), *data, "--output_dir", str(folder)])
    found = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
    capsys.readouterr()
    assert main(["gallery", str(folder), "--output", str(tmp_path / "page.html"), "--json"]) == 0
    assert (status, found["holds"]) == (0, True)
    assert json.loads(capsys.readouterr().out)["shown"] == {"release": "holds"}


def test_a_page_that_cannot_be_is_refused_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hf_immunize.cli.gallery.gallery", None)
    (tmp_path / "file").write_text("mine")
    given = ["gallery", str(tmp_path), "--output", str(tmp_path / "file" / "page.html")]
    assert "file is a file. Name a folder" in error_of(capsys, given)
