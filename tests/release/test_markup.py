"""Names from anywhere stay text on a card."""

from cards import card_of

from hf_immunize.release.record import DatasetRecord


def test_names_cannot_break_out_of_a_table():
    text = card_of(primary=DatasetRecord("a | b\n# c <script>", classes=["x|y"])).text
    assert "<script>" not in text
    assert "\n# c" not in text
    assert "a \\| b # c &lt;script>" in text
