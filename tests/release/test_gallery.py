"""A gallery of releases: every figure of the table, text that stays text, pictures, and pages written whole."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from gallery_releases import HOSTILE, write_release
from hub_client import HubClient
from hub_server import HubServer

from hf_immunize.release.gallery import gallery, save_gallery
from hf_immunize.release.record import DatasetRecord


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its table's cells."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        self.inside = tag if tag in ("td", "th") else self.inside
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = None if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def page_of(folders, tmp_path, **options):
    entries, failed = gallery([str(one) for one in folders])
    path = save_gallery(entries, tmp_path / "page" / "gallery.html", failed=failed, **options)
    text = path.read_text(encoding="utf-8")
    return Page(text), text


def test_a_row_has_the_records_figures(tmp_path):
    page, _ = page_of([write_release(tmp_path / "birds")], tmp_path)
    cells = [" ".join(cell.split()) for cell in page.rows[2]]
    assert cells == [
        "birdssomeone/birds, against someone/faces",
        "1.4 × 10⁵",
        "96.8 %",
        "96.4 %",
        "93.0 %",
        "68.4 %",
        "0.51 weakened",
        "–",
        "–",
        "– not tried",
        "4.0",
        "not verified",
    ]


def test_the_uplift_stands_among_the_facts(tmp_path):
    _, text = page_of([write_release(tmp_path / "birds")], tmp_path)
    assert "<dt>Uplift by heads</dt><dd>28.4 points at most beyond random weights</dd>" in text
    assert "Uplift by fine-tuning" not in text


def test_the_least_recovered_comes_first_and_the_unmeasured_last(tmp_path):
    folders = [write_release(tmp_path / name, recovery=value) for name, value in (("b", 0.7), ("c", None), ("a", 0.2))]
    page, _ = page_of(folders, tmp_path)
    assert [row[0][0] for row in page.rows[2:]] == ["a", "b", "c"]


def test_the_page_stands_on_its_own(tmp_path):
    page, text = page_of([write_release(tmp_path / "birds")], tmp_path)
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(one["content"] for tag, one in page.elements if one.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'" in policy
    assert "@import" not in text
    assert "url(" not in text


def test_pictures_are_embedded_with_their_size(tmp_path):
    page, _ = page_of([write_release(tmp_path / "birds", pictures=True)], tmp_path)
    pictures = [one for tag, one in page.elements if tag == "img"]
    assert len(pictures) == 2
    for one in pictures:
        data = base64.b64decode(one["src"].removeprefix("data:image/png;base64,"))
        assert data.startswith(b"\x89PNG")
        assert int(one["width"]) > int(one["height"]) > 100
        assert one["alt"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<svg onload=alert(1)>", "is no PNG"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + b"\xff" * 8 + b"0", "is no PNG"),
        (b"\x89PNG" + b"0" * 2**21, "has more than 2 MiB"),
    ],
)
def test_other_pictures_are_left_out_and_said(tmp_path, data, why):
    folder = write_release(tmp_path / "birds")
    (folder / "figures").mkdir()
    (folder / "figures" / "spectra.png").write_bytes(data)
    page, text = page_of([folder], tmp_path)
    assert not [one for tag, one in page.elements if tag == "img"]
    assert f"figures/spectra.png {why}" in text


@pytest.mark.parametrize("field", ["name", "primary", "harmful", "base_model", "architecture", "license", "title"])
def test_hostile_text_makes_no_element(tmp_path, field):
    safe, _ = page_of([write_release(tmp_path / "safe")], tmp_path)
    title = HOSTILE if field == "title" else "Models"
    changes = {field: DatasetRecord(HOSTILE)} if field in ("primary", "harmful") else {field: HOSTILE}
    folder = tmp_path / (HOSTILE.replace("/", "∕") if field == "name" else "birds")
    write_release(folder, **({} if field in ("name", "title") else changes))
    page, text = page_of([folder], tmp_path, title=title, overwrite=True)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in safe.elements]
    assert "&lt;img" in text


def test_what_cannot_be_shown_is_named_and_the_others_are_shown(tmp_path):
    broken = write_release(tmp_path / "broken")
    values = json.loads((broken / "immunization.json").read_text(encoding="utf-8"))
    values["results"]["primary_accuracy"]["immunized"] = "<b>1</b>"
    (broken / "immunization.json").write_text(json.dumps(values), encoding="utf-8")
    given = [write_release(tmp_path / "birds"), broken, tmp_path / "nowhere"]
    entries, failed = gallery([str(one) for one in given])
    assert [one.name for one in entries] == ["birds"]
    assert set(failed) == {str(broken), str(tmp_path / "nowhere")}
    path = save_gallery(entries, tmp_path / "gallery.html", failed=failed)
    assert "There is no folder" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="None of these can be shown"):
        gallery([str(broken)])
    with pytest.raises(ValueError, match="Name at least one release"):
        gallery([])


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    entries, _ = gallery([str(write_release(tmp_path / "birds"))])
    path = save_gallery(entries, tmp_path / "gallery.html")
    with pytest.raises(FileExistsError, match="--overwrite"):
        save_gallery(entries, path)
    with pytest.raises(FileExistsError, match="is a folder"):
        save_gallery(entries, tmp_path, overwrite=True)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_gallery(entries, path, title="Another", overwrite=True)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["birds", "gallery.html"]


def test_a_verification_given_must_be_of_one_of_them(tmp_path):
    folder = write_release(tmp_path / "birds", verified=True)
    entries, _ = gallery([str(folder)])
    assert entries[0].measured.status == "holds"
    other = write_release(tmp_path / "far" / "other", verified=True)
    with pytest.raises(ValueError, match="is of other, which is none of the releases given"):
        gallery([str(folder)], verified=[other])


def test_of_a_repository_the_record_and_the_figures_are_fetched_and_no_weights(tmp_path):
    folder = write_release(tmp_path / "immune", pictures=True, verified=True)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub = HubServer()
    client = HubClient(hub.url, tmp_path / "home")
    try:
        commit = hub.create("me/immune", files | {"model.safetensors": b"no weights"}).branches["main"]
        name, link, status, pictures, failed = client.run(
            "from hf_immunize.release.gallery import gallery\n"
            "entries, failed = gallery(['me/immune', 'me/gone'])\n"
            "one = entries[0]\n"
            "result = [one.name, one.link, one.measured, len(one.figures), failed]"
        )
    finally:
        client.close()
        hub.close()
    assert (name, link, pictures) == ("me/immune", f"{hub.url}/me/immune/tree/{commit}", 2)
    # What its authors put beside their own record is no verification.
    assert status is None
    assert "me/gone" in failed["me/gone"]
    fetched = {line.rsplit(f"/{commit}/", 1)[1] for line in hub.log if f"/resolve/{commit}/" in line}
    assert fetched == {"immunization.json", "figures/spectra.png", "figures/attacks.png"}
