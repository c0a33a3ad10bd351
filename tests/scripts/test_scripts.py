"""What a person runs: every script shows its help, the sweep runs and goes on, reports render, recipes are defaults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import DatasetDict
from gallery_releases import write_release
from samples import tiny_vit
from tiny import picture_dataset

from hf_immunize import ImmunizationArguments
from hf_immunize.release.released import find_release, published_claims

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
DEEP = ROOT / "model_cards" / "deep"


@pytest.fixture
def scripts(monkeypatch):
    """Imports of a script and of what reproductions share, as a script has them."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_shows_its_help(path, tmp_path):
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, cwd=tmp_path, env=given, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert path.name in shown.stdout
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the reference runs


def test_the_tables_of_the_reference_runs_are_what_the_records_say(scripts):
    import gallery

    folder = ROOT / "model_cards"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert gallery.rewritten(text, gallery.tables(folder)) == text


def test_a_release_among_them_is_whole_but_for_its_weights():
    folders = [path.parent for path in (ROOT / "model_cards").rglob("immunization.json")]
    assert folders == [ROOT / "model_cards" / "quickstart"]
    for folder in folders:
        found = list(published_claims(find_release(folder)))
        missing = [one for one in found if one.status != "holds"]
        assert [(one.status, one.why) for one in missing] == [("cannot be checked", "Not here: model.safetensors.")]
        assert len(found) > 4


def test_a_row_is_of_its_record_and_says_what_was_verified(scripts, tmp_path, monkeypatch, capsys):
    import gallery

    for part in ("deep", "linear"):
        shutil.copytree(ROOT / "model_cards" / part, tmp_path / part)
    write_release(tmp_path / "birds", verified=True)
    (tmp_path / "README.md").write_text(f"Mine.\n{gallery.START}\nStale.\n{gallery.END}\nMine too.\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--folder", str(tmp_path), "--check"])
    assert gallery.main() == 1
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--folder", str(tmp_path)])
    assert gallery.main() == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.startswith("Mine.\n")
    assert text.endswith("\nMine too.\n")
    assert "Stale" not in text
    (row,) = [line for line in text.splitlines() if "[birds]" in line]
    assert row == (
        "| [birds](birds/README.md), ViTForImageClassification | someone/birds, against someone/faces | 1.4 × 10⁵ "
        "| 96.8 % → 96.4 % | 93.0 % → 68.4 % (Adam, best rate) "
        "| 0.51, weakened; uplift 28.4 points over random weights | not tried | – | 4.0 "
        "| holds, RIR 1.4 × 10⁵, primary accuracy 96.4 % |"
    )
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--folder", str(tmp_path), "--check"])
    assert gallery.main() == 0
    (tmp_path / "README.md").write_text("No marks.", encoding="utf-8")
    with pytest.raises(SystemExit, match="no marks"):
        gallery.main()


# ---------------------------------------------------------------- the deep stand-ins


def test_the_recipe_is_the_defaults_of_the_arguments(scripts, tmp_path):
    from paper import deep_runs

    defaults = ImmunizationArguments(str(tmp_path))
    own = deep_runs.arguments("condition", seed=0)
    assert (own.max_steps, own.get_warmup_steps(300)) == (defaults.max_steps, defaults.get_warmup_steps(300))
    # The same rule, step by step and not in one kernel: what the finished runs were made with.
    assert (own.optim, defaults.optim) == ("adamw_torch", "adamw_torch_fused")
    for name in set(deep_runs.OURS) - {"optim"}:
        assert getattr(own, name) == getattr(defaults, name), name
    control = deep_runs.arguments("control", seed=0)
    assert (control.lambda_primary, control.lambda_harmful, control.max_steps) == (0.0, 0.0, 300)


def test_recipes_are_those_of_the_finished_runs(scripts):
    from paper import deep_runs

    rows = json.loads((DEEP / "deep.json").read_text(encoding="utf-8"))["rows"]
    checked = 0
    for key, row in rows.items():
        _, _, name, seed = key.split("/")
        method, _, index = name.partition(":")
        if method in deep_runs.SEARCH and not index:
            # The weights that were found, which these rows have again.
            continue
        assert deep_runs.recipe(method, int(seed), int(index) if index else None) == row["recipe"], key
        checked += 1
    assert checked > 100


def test_the_report_of_the_finished_runs_is_the_one_beside_them(scripts):
    from paper.deep_report import report
    from paper.deep_setups import BACKBONES, TASKS
    from paper.results import Results

    results, attacked = (Results(DEEP / name, "") for name in ("deep.json", "attacks.json"))
    pairs = [(backbone, task) for task in TASKS for backbone in BACKBONES]
    assert report(results, attacked, pairs) + "\n" == (DEEP / "deep.md").read_text(encoding="utf-8")


def test_a_run_is_finished_only_with_the_numbers_asked_for(scripts, tmp_path):
    from paper import deep_runs
    from paper.results import Results

    path = tmp_path / "deep.json"
    results = Results(path, "")
    row = {"recipe": deep_runs.recipe("condition", 0), "rir": {}}
    results.add("vit_tiny/five_five/condition/0", row)
    again = Results(path, "")
    assert again.done("vit_tiny/five_five/condition/0", row["recipe"])
    assert not again.done("vit_tiny/five_five/condition/0", deep_runs.recipe("condition", 0, steps=10))
    again.add("vit_tiny/five_five/condition/0", None)
    assert Results(path, "").values["rows"] == {}


# ---------------------------------------------------------------- the sweep


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for part in tiny_vit(("class 0", "class 1")):
        part.save_pretrained(folder / "vit")
    splits = {"train": picture_dataset(24, seed=1), "test": picture_dataset(16, seed=2)}
    DatasetDict(splits).save_to_disk(folder / "primary")
    picture_dataset(40, seed=3).save_to_disk(folder / "harmful")
    lines = [f"{name}: {folder / kind}" for name, kind in (("model", "vit"), ("primary", "primary"))]
    settings = [
        "use_cpu: true",
        "per_device_train_batch_size: 8",
        "fit_steps: 2",
        "lambda_primary: 7",
        "max_steps: 900",
    ]
    (folder / "run.yaml").write_text("\n".join([*lines, f"harmful: {folder / 'harmful'}", *settings]) + "\n")
    return folder


def sweep(world, folder, *more):
    import sweep as script

    given = ["--config", str(world / "run.yaml"), "--output_dir", str(folder), "--max_steps", "2"]
    return script.main([*given, "--lambda_primary", "1", "--lambda_harmful", "0.1", "0.3", *more])


@pytest.fixture(scope="module")
def swept(world, tmp_path_factory):
    """A sweep that was stopped in its second cell."""
    import_path = str(ROOT / "scripts")
    sys.path.insert(0, import_path)
    folder = tmp_path_factory.mktemp("swept")
    try:
        import sweep as script

        def stops(*given, **options):
            if options["args"].lambda_harmful == 0.3:
                raise KeyboardInterrupt
            return immunize(*given, **options)

        immunize, script.immunize = script.immunize, stops
        assert sweep(world, folder) == 130
        script.immunize = immunize
    finally:
        sys.path.remove(import_path)
    return folder


def test_a_sweep_goes_on_where_it_stopped(scripts, world, swept, tmp_path, capsys):
    folder = tmp_path / "sweep"
    shutil.copytree(swept, folder)
    before = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert list(before["rows"]) == ["control", "1|0.1"]
    assert before["settings"]["training"]["max_steps"] == 2
    capsys.readouterr()
    assert sweep(world, folder) == 0
    out = capsys.readouterr().out
    after = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert list(after["rows"]) == ["control", "1|0.1", "1|0.3"]
    assert {key: after["rows"][key] for key in before["rows"]} == before["rows"]
    # One θ0 for all, and the same when the sweep goes on.
    assert len({row["initial_primary_accuracy"] for row in after["rows"].values()}) == 1
    assert len({json.dumps(row["initial_strongest"]) for row in after["rows"].values()}) == 1
    lines = out.strip().splitlines()
    assert lines[0].startswith("θ0: primary accuracy")
    assert "costs ≤ 1 points" in lines[2]
    assert [line.split("|")[1:3] for line in lines[4:]] == [[" 0 ", " 0 "], [" 1 ", " 0.1 "], [" 1 ", " 0.3 "]]
    assert "ridge regression" in lines[-1]
    # Nothing is left to do: the table alone.
    assert sweep(world, folder) == 0
    assert capsys.readouterr().out == out


def test_a_sweep_does_not_mix_cells_of_other_settings(scripts, world, swept, tmp_path, capsys):
    folder = tmp_path / "sweep"
    shutil.copytree(swept, folder)
    assert sweep(world, folder, "--learning_rate", "0.01") == 1
    assert "training differ" in capsys.readouterr().err
    assert sweep(world, folder, "--harmful", str(world / "primary")) == 1
    assert "harmful differ" in capsys.readouterr().err


def test_a_sweep_refuses_a_wrong_weight_before_it_begins(scripts, world, tmp_path, capsys):
    assert sweep(world, tmp_path / "out", "--lambda_harmful", "0.1", "-1") == 1
    assert "lambda_harmful" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_table_marks_what_costs_little_and_says_what_stopped(scripts):
    import sweep as script

    def row(accuracy):
        ratio = {"mean": 3.0, "bound": "lower"}
        return {"primary_accuracy": accuracy, "initial_primary_accuracy": 0.9, "rir": {"rir": ratio, "rir_ii": ratio}}

    rows = {"control": row(0.9), "1|0.1": row(0.89), "1|1": row(0.88), "2|1": {"stopped": "Step 3: …"}}
    text = script.table(rows, [(1.0, 0.1), (1.0, 1.0), (2.0, 1.0), (4.0, 1.0)], 1.0)
    lines = text.splitlines()[5:]
    assert lines[0] == "| 1 | 0.1 | 89.0 % | -1.0 | ≥ 3 | ≥ 3 | – | – | yes |"
    assert lines[1].endswith("| no |")
    assert "Step 3" in lines[2]
    assert "not run" in lines[3]
    assert {line.count("|") for line in lines} == {10}
