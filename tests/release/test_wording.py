"""Two texts of the same figures, in the words of one template or of another."""

from __future__ import annotations

import pytest

from hf_immunize.release.wording import other_figures, verdict_words

RECORD = {"accuracy": 0.5623, "steps": [300, 1000], "ratio": 5.48e22, "outcome": "held", "note": "run 7 of it"}
OWN = """The best of 10 ways gets 56.2 % of the images right. It was trained for 1,000 steps.

Heads: **held back**.

| attacker | steps | θ0 | immunized |
|---|---|---|---|
| Adam | 300 | 96.7 % (95–98) | 56.2 % (52–60) |
| ridge | – | 96.8 % (95–98) | 49.5 % (45–54) |
| **strongest** | | 96.8 % | **56.2 %** |

RIR is ≥ 5.5 × 10²² there.
"""


def differences(given, own=OWN):
    return [(one.given, one.expected) for one in other_figures(given, own, RECORD)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("gets 56.2 % of the images right", "has 56.2 % of the images right"),
        ("It was trained for 1,000 steps.", "Steps: 1000."),
        ("It was trained for 1,000 steps.", "It took 300 steps and then 1,000; run 7."),
        ("The best of 10 ways gets 56.2 % of the images right. ", "Accuracy: 0.562. "),
        ("56.2 % of", "56 % of"),
        ("| Adam | 300 | 96.7 % (95–98) | 56.2 % (52–60) |\n", ""),
        ("| attacker | steps | θ0 | immunized |", "| attack | steps | before | after |"),
        ("5.5 × 10²²", "5.5e+22"),
        ("\n\nRIR", "\n\n> RIR"),
    ],
)
def test_the_same_figures_in_other_words_differ_in_nothing(old, new):
    assert old in OWN
    assert not differences(OWN.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("gets 56.2 %", "gets 56.3 %", ("56.3", "56.2")),
        ("gets 56.2 %", "has 96.8 %", ("96.8", "56.2")),
        ("1,000 steps", "1,001 steps", ("1,001", "1,000")),
        ("56.2 % (52–60)", "49.5 % (52–60)", ("49.5", "56.2")),
        ("(45–54)", "(45–55)", ("55", "54")),
        ("10²²", "10²³", ("5.5 × 10²³", "5.5 × 10²²")),
        ("10²²", "11²²", ("5.5 × 11²²", "5.5 × 10²²")),
        ("held back", "not held back", ("not held back", "held back")),
        ("It was trained for 1,000 steps.", "Steps: 1,007.", ("1,007", None)),
        ("RIR is", "It recovers 12 % at best. RIR is", ("12", None)),
    ],
)
def test_another_figure_is_seen_whatever_the_words(old, new, expected):
    assert old in OWN
    assert differences(OWN.replace(old, new)) == [expected]


def test_a_column_or_a_row_more_moves_no_figure():
    wider = OWN.replace(" θ0 |", " uplift | θ0 |").replace("|---|\n", "|---|---|\n")
    wider = wider.replace("| 300 |", "| 300 | −1.5 (-3 to +1) |").replace("| ridge | – |", "| ridge | – | 0.5 |")
    wider = wider.replace("| **strongest** | |", "| **strongest** | | |")
    assert not differences(OWN, wider)
    assert differences(wider.replace("−1.5", "+1.5"), wider) == [("+1.5", "−1.5")]
    assert differences(OWN.replace("49.5", "49.4"), wider) == [("49.4", "49.5")]


def test_verdicts_are_those_in_bold():
    assert verdict_words("**held back**, not broken; **not held back**; **12**") == ["held back", "not held back"]
