"""What a push would send is known without the network."""

import json

import pytest
from releases import save

from hf_immunize.cli.main import main
from hf_immunize.release.plan import plan_push


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("saved") / "release", figures=True)
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "LICENSE").write_text("mine")
    return folder


def test_every_file_is_listed_with_its_size_and_the_card_is_rendered(release, capsys):
    plan = plan_push(release, "me/immune")
    assert plan.left_out == ("optimizer.pt",)
    assert plan.files["model.safetensors"] == (release / "model.safetensors").stat().st_size
    assert plan.files["README.md"] == len(plan.card.encode())
    assert 'model="me/immune"' in plan.card
    assert main(["push", str(release), "--repo_id", "me/immune", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert all(f"{size:,} bytes" in out for size in plan.files.values())
    assert plan.card.strip() in out
    assert main(["push", str(release), "--repo_id", "me/immune", "--dry_run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == plan.files


def test_metadata_of_the_author_are_on_the_card(release):
    card = plan_push(release, "me/immune", metadata={"language": "en", "tags": ["birds"], "license": None}).card
    front = card.split("---\n")[1]
    assert "language: en" in front
    assert "- birds\n" in front
    assert "- hf-immunize\n" in front
    assert card.count("<!-- hf-immunize: start") == 1


def test_what_cannot_go_up_is_said(release, capsys):
    with pytest.raises(ValueError, match="not a valid Hub id"):
        plan_push(release, "not a/valid/id")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        plan_push(release / "absent", "me/immune")
    assert main(["push", str(release / "absent"), "--repo_id", "me/immune", "--dry_run"]) == 1
    assert "There is no folder" in capsys.readouterr().err
