"""Names from anywhere stay text on a card."""

import ast

import pytest
from cards import card_of
from markdown_it import MarkdownIt
from samples import sample_record

from hf_immunize.release.card import create_model_card
from hf_immunize.release.markup import cell, code, fenced, python_string
from hf_immunize.release.record import DatasetRecord

ALIVE = (
    "![p](https://x.y/p.png)",
    "[l](https://x.y)",
    "<https://x.y>",
    "https://x.y/z",
    "**b**",
    "_e_",
    "`c`",
    "~~s~~",
    "# h",
    "a | b",
    "<img src=x>",
    "<!-- hf-immunize: end -->",
    "&lt;b&gt;",
    "1. x",
    "- x",
    "> q",
    "\\*x\\*",
    "$x$",
    "a\u202eb",
    "line\n\n# two",
    "www.x.y",
    "me@x.y",
    "[r]: https://x.y",
)
SAME = ("a_b", "R&D", "10 %", "0.5", "-0.5", "n/a", "C++", "lambda_harmful", "(x)", "a - b")


def shown(text):
    """Text as a viewer shows it, and the kinds of markup that came alive."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    flat = [child for token in tokens for child in (token.children or [token])]
    words = "".join(one.content for one in flat if one.type in ("text", "text_special", "code_inline"))
    return words, {one.type for one in flat} - {"text", "text_special", "paragraph_open", "paragraph_close"}


@pytest.mark.parametrize("text", ALIVE)
def test_nothing_comes_alive_in_a_cell(text):
    words, alive = shown(f"- x {cell(text)}")
    assert alive <= {"list_item_open", "list_item_close", "bullet_list_open", "bullet_list_close", "html_inline"}
    assert words.removeprefix("x ") == " ".join(text.replace("\u202e", "").split()).replace("<!-- hf", "<! -- hf")
    assert "|" not in cell(text).replace("\\|", "")
    # What viewers link by themselves is broken up where nobody sees it.
    assert not any(one in cell(text) for one in ("https://", "www.x", "e@x"))
    row, _ = shown(f"| a |\n|---|\n| {cell(text)} |\n")
    assert row == "a" + words.removeprefix("x ")


@pytest.mark.parametrize("text", SAME)
def test_plain_names_stay_as_they_are(text):
    assert cell(text) == text


@pytest.mark.parametrize("text", ALIVE)
def test_code_stays_code(text):
    words, alive = shown(code(text).replace("\\|", "|"))
    assert alive == {"code_inline"}
    assert words == " ".join(text.replace("\u202e", "").split()).replace("<!-- hf", "<! -- hf")


@pytest.mark.parametrize("text", ["x ``` y\n# z", "````\nx", "~~~", "<!-- hf-immunize: end -->"])
def test_no_text_ends_its_block(text):
    tokens = MarkdownIt().parse(fenced(text, "bash"))
    assert [one.type for one in tokens] == ["fence"]
    assert "hf-immunize: end -->" not in text or "<!-- hf" not in fenced(text, "bash")


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a'b", "é", "a\nb", "{{ x }}"])
def test_a_folder_of_any_name_is_loaded_by_the_example(text):
    assert ast.literal_eval(python_string(text)) == text.replace("\n", "") or "\n" in text
    card = create_model_card(sample_record(library="timm"), f"me {text}").text
    example = card.split("```python\n")[1].split("```")[0]
    ast.parse(example)


def test_names_cannot_break_out_of_a_table():
    text = card_of(primary=DatasetRecord("a | b\n# c <script>", classes=["x|y"])).text
    assert "<script>" not in text
    assert "\n# c" not in text
    assert "a \\| b # c &lt;script>" in text


def test_no_field_of_a_record_comes_alive():
    evil = "![p](https://evil.y/p.png) [l](https://evil.y) **b** <img src=x> `c` | <!-- hf-immunize: end -->"
    data = DatasetRecord(evil, "v1", evil, evil, evil, None, 5, 5, [evil, evil])
    changes = {"primary": data, "harmful": data, "benign": data, "base_model": evil, "architecture": evil}
    changes |= {"command": evil, "seeds": {evil: evil}, "versions": {evil: evil}, "training": {evil: [evil]}}
    changes |= {"objective": {"name": evil, evil: evil}, "trainable": {"selection": evil, "n_parameters": 5}}
    for kind in ("hub", "local"):
        body = card_of(**changes, base_model_kind=kind).text
        assert body.count("<!-- hf-immunize: end -->") == 1
        inner = body.split("marks) -->\n")[1].split("<!-- hf-immunize: end -->")[0]
        tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(inner)
        flat = [child for token in tokens for child in (token.children or [token])]
        links = {one.attrs["href"] for one in flat if one.type == "link_open"}
        assert all("evil" not in link for link in links)
        assert [one.attrs["src"] for one in flat if one.type == "image"] == [
            "figures/attacks.png",
            "figures/spectra.png",
        ]
        assert {one.content for one in flat if one.type == "html_inline"} == {"<!-- -->"}
