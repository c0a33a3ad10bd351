"""Writes the tables of model_cards/README.md from the records beside it.

    python scripts/gallery.py            # rewrites what stands between the marks
    python scripts/gallery.py --check    # exit status 1 where the file is another

Every release below the folder gets a row (its ``immunization.json``, and ``verification.json`` where there is one), and
so does the method of this project on every deep stand-in (deep/deep.json, deep/attacks.json) and every linear
experiment (linear/house_price.json, linear/mnist.json). The page for a browser is ``hf-immunize gallery``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_immunize.release.markup import cell
from hf_immunize.release.record import RECORD_NAME, ImmunizationRecord
from hf_immunize.release.standing import Measured, Standing, Strongest, ratio_text, standing, verification_of
from hf_immunize.release.summary import percent

START, END = "<!-- scripts/gallery.py: start -->", "<!-- scripts/gallery.py: end -->"
HEADS = (
    "run",
    "primary and harmful task",
    "RIR, claimed",
    "primary accuracy, θ0 → immunized",
    "strongest head, control → immunized",
    "recovery by heads",
    "strongest fine-tuning, control → immunized",
    "recovery by fine-tuning",
    "points lost on a benign task",
    "measured again",
)
#: What the deep stand-ins keep and make slow, by the names of their records.
DEEP_TASKS = {
    "fashion_mnist": "Fashion-MNIST, against MNIST",
    "five_five": "five classes of Fashion-MNIST, against five",
}
METHOD, SEED = "condition", "0"


def main() -> int:
    """Rewrites or checks the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "model_cards")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where the file is another")
    options = parser.parse_args()
    path = options.folder / "README.md"
    before = path.read_text(encoding="utf-8")
    after = rewritten(before, tables(options.folder))
    if options.check:
        print(f"{path} is {'what its records say' if before == after else 'another: run scripts/gallery.py'}")
        return int(before != after)
    partial = path.with_suffix(".partial")
    partial.write_text(after, encoding="utf-8")
    os.replace(partial, path)
    print(path)
    return 0


def rewritten(text: str, between: str) -> str:
    """The text with other words between the marks."""
    found = re.fullmatch(rf"(.*{re.escape(START)}\n).*(\n{re.escape(END)}.*)", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"The text has no marks: put {START} and {END} on lines of their own where the tables go.")
    return f"{found[1]}\n{between}\n{found[2]}"


def tables(folder: Path) -> str:
    """Both tables as Markdown."""
    models = [*releases(folder), *deep(folder / "deep")]
    printed = ("run", "RIR here", "RIR printed in the paper")
    return f"{_table(HEADS, models)}\n\n{_table(printed, list(linear(folder / 'linear')))}"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def releases(folder: Path) -> Iterator[tuple[str, ...]]:
    """A row for each record of a release."""
    for path in sorted(folder.rglob(RECORD_NAME)):
        record = ImmunizationRecord.load(path)
        name = path.parent.relative_to(folder).as_posix()
        found = verification_of(path.parent.name, None, record, path.parent)
        tasks = f"{cell(record.title('primary'))}, against {cell(record.title('harmful'))}"
        run = f"[{name}]({name}/README.md), {cell(record.architecture)}"
        yield _row(run, tasks, standing(record.results), "not verified" if found is None else _again(found))


def deep(folder: Path) -> Iterator[tuple[str, ...]]:
    """A row for the method of this project on each stand-in, of the seed that was attacked."""
    runs, attacked = (_read(folder / name)["rows"] for name in ("deep.json", "attacks.json"))
    for pair, by_method in attacked.items():
        backbone, task = pair.split("/")
        row = runs[f"{pair}/{METHOD}/{SEED}"]
        accuracy = {"initial": row["initial_primary_accuracy"], "immunized": row["primary_accuracy"]}
        results = {"primary_accuracy": accuracy, "rir": {"immunized": row["rir"]}, "attacks": by_method[METHOD]}
        yield _row(f"[deep](deep/README.md), {backbone}", DEEP_TASKS[task], standing(results), "no weights kept")


def linear(folder: Path) -> Iterator[tuple[str, ...]]:
    """A row for each linear experiment."""
    house = _read(folder / "house_price.json")
    here, printed = house["splits"]["paper_200_rows_79_columns"][METHOD], house["printed"][METHOD]
    link = "[linear](linear/README.md)"
    yield f"{link}, House Price", ratio_text(here["rir"], here["bound"]), f"{printed['rir'][0]:g}"
    pairs = _read(folder / "mnist.json")["summary"]
    above = f"above 1 in {pairs['pairs_with_positive_log_rir']} of {pairs['pairs']} pairs"
    median = f"median {ratio_text(pairs['median_rir'])}, {above}"
    yield f"{link}, MNIST, ordered pairs of digits", median, "a figure alone"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _row(run: str, tasks: str, found: Standing, measured: str) -> tuple[str, ...]:
    heads, tuned = found.strongest.get("probe"), found.strongest.get("fine-tuning")
    return (
        run,
        tasks,
        ratio_text(found.rir, found.bound),
        f"{percent(found.accuracy.get('initial'))} → {percent(found.accuracy.get('immunized'))}",
        _attacked(heads),
        _recovered(heads),
        _attacked(tuned),
        _recovered(tuned),
        "–" if found.benign_cost is None else f"{100 * found.benign_cost:.1f}",
        measured,
    )


def _again(found: Measured) -> str:
    accuracy = found.accuracy.get("immunized")
    ratio = f", RIR {found.rir}" if found.rir else ""
    return f"{found.status}{ratio}" + ("" if accuracy is None else f", primary accuracy {percent(accuracy)}")


def _attacked(one: Strongest | None) -> str:
    return "not tried" if one is None else f"{percent(one.control)} → {percent(one.immunized)} ({cell(one.attacker)})"


def _recovered(one: Strongest | None) -> str:
    if one is None:
        return "–"
    uplift = "" if one.uplift is None else f"; uplift {100 * one.uplift:.1f} points over {one.beyond}".replace("-", "−")
    return (one.outcome if one.recovery is None else f"{one.recovery:.2f}, {one.outcome}") + uplift


if __name__ == "__main__":
    sys.exit(main())
