"""Pushing again: what an author wrote on either side is kept, and what somebody else did meanwhile too."""

from __future__ import annotations

import pytest
import yaml
from hub_client import ClientError
from pushing import push
from samples import sample_record, tiny_vit

from hf_immunize.release.folder import save_immunized


def test_a_repush_keeps_the_authors_words_and_drops_stale_files(hub, writer, release, tmp_path):
    push(writer, release, "me/again")
    repo = hub.repos["me/again"]
    files = dict(repo.files)
    card = files["README.md"].decode()
    files["README.md"] = card.replace("---\n\n<!--", "---\n\nWords from the web page.\n\n<!--", 1).encode()
    files |= {"model-00001-of-00002.safetensors": b"stale", "LICENSE": b"mine", "notes/a.txt": b"mine"}
    repo.commit("main", files, "edited on the web page")
    local = (release / "README.md").read_text(encoding="utf-8")
    (release / "README.md").write_text(local + "\nWords from the folder.\n", encoding="utf-8")
    (release / "figures" / "mine.png").write_bytes(b"png")
    before = len(hub.commits())
    push(writer, release, "me/again")
    assert len(hub.commits()) == before + 1
    after = repo.files["README.md"].decode()
    assert "Words from the web page." in after
    assert "Words from the folder." in after
    assert after.count("<!-- hf-immunize: start") == 1
    assert "model-00001-of-00002.safetensors" not in repo.files
    assert {"LICENSE", "notes/a.txt", "figures/mine.png"} <= set(repo.files)


def test_an_edit_during_a_push_is_not_written_over(hub, writer, release):
    push(writer, release, "me/race")
    repo = hub.repos["me/race"]
    (release / "LICENSE").write_text("new")
    hub.before_commit = lambda: repo.commit("main", dict(repo.files), "somebody else's")
    with pytest.raises(ClientError, match="changed while this push was being prepared") as caught:
        push(writer, release, "me/race")
    assert "ValueError" in caught.value.bases
    assert repo.messages[-1] == "somebody else's"
    push(writer, release, "me/race")
    assert "LICENSE" in repo.files


def test_words_taken_out_stay_out_and_none_double(hub, writer, release):
    path = release / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\nFirst.\n\nSecond.\n", encoding="utf-8")
    push(writer, release, "me/words")
    repo = hub.repos["me/words"]
    # On the web page one paragraph goes, and another comes.
    web = repo.files["README.md"].decode().replace("First.\n\n", "") + "\nThird.\n"
    repo.commit("main", repo.files | {"README.md": web.encode()}, "on the web page")
    path.write_text(path.read_text(encoding="utf-8").replace("Second.", "Second, better."), encoding="utf-8")
    push(writer, release, "me/words")
    card = repo.files["README.md"].decode()
    assert "First." not in card
    assert [card.count(one) for one in ("Second, better.", "Third.", "Second.")] == [1, 1, 0]
    # The folder has the words of the web page now, and pushing again changes nothing.
    assert "Third." in path.read_text(encoding="utf-8")
    commits = len(repo.messages)
    push(writer, release, "me/words")
    assert len(repo.messages) == commits
    assert ".cache/hf_immunize/pushed.json" not in repo.files


def test_names_that_only_look_like_the_librarys_stay_on_the_hub_and_at_home(hub, writer, release):
    push(writer, release, "me/names")
    repo = hub.repos["me/names"]
    mine = {"model_fp16.safetensors": b"mine", "model-ema.safetensors": b"mine"}
    repo.commit("main", repo.files | mine, "mine")
    (release / "model-backup.safetensors").write_bytes(b"private")
    (release / "LICENSE").write_text("new")
    push(writer, release, "me/names")
    assert {name: repo.files[name] for name in mine} == mine
    assert "model-backup.safetensors" not in repo.files


def test_the_hubs_licence_stands(hub, writer, release):
    push(writer, release, "me/licence")
    repo = hub.repos["me/licence"]
    web = repo.files["README.md"].decode().replace("license: apache-2.0", "license: mit")
    repo.commit("main", repo.files | {"README.md": web.encode()}, "mit")
    (release / "LICENSE").write_text("MIT")
    push(writer, release, "me/licence")
    assert yaml.safe_load(repo.files["README.md"].decode().split("---\n")[1])["license"] == "mit"


def test_what_another_folder_generated_is_no_authors_word(hub, writer, release, tmp_path):
    push(writer, release, "me/other")
    repo = hub.repos["me/other"]
    web = repo.files["README.md"].decode().replace("- model-immunization\n", "- model-immunization\n- my-tag\n")
    repo.commit("main", repo.files | {"README.md": web.encode()}, "a tag")
    model, processor = tiny_vit()
    push(writer, save_immunized(tmp_path / "new", model, sample_record(license="mit"), processor), "me/other")
    data = yaml.safe_load(repo.files["README.md"].decode().split("---\n")[1])
    assert data["license"] == "mit"
    assert "my-tag" in data["tags"]
