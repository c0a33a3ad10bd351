"""What is installed: the public names, the wheel's data, a quick import."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import hf_immunize

ROOT = Path(__file__).parent.parent
PROMISED = {
    "spectrum",
    "Spectrum",
    "FeatureGram",
    "condition_number",
    "r_ill",
    "r_well",
    "features_r_ill",
    "features_r_well",
    "relative_immunization_ratio",
    "RIR",
    "load_rir",
    "immunize_linear",
    "LinearImmunization",
    "optimal_linear_extractor",
    "ImmunizationArguments",
    "ImmunizationTrainer",
    "features_and_logits",
    "evaluate_immunization",
    "run_attacks",
    "AttackReport",
    "push_to_hub",
    "immunize",
    "Immunization",
    "load_task",
    "ImageTask",
}


def test_every_public_name_is_there():
    assert set(hf_immunize.__all__) >= PROMISED
    for name in hf_immunize.__all__:
        assert callable(getattr(hf_immunize, name)), name
        assert name in dir(hf_immunize)


def test_the_spectrum_is_a_function_whatever_modules_are_imported():
    importlib.import_module("hf_immunize.spectra.spectrum")
    assert hf_immunize.spectrum(torch.eye(3)).rank == 3


#: Imported where an extra of that package is asked for, and named there if it is missing.
OF_EXTRAS = {"mlxtend", "peft", "gradio"}
INSTALLED_AS = {"PIL": "pillow", "yaml": "pyyaml"}


def test_what_is_imported_is_asked_for():
    """Not left to what other packages happen to bring."""
    imported = set()
    for path in (ROOT / "hf_immunize").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml itself")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {re.split(r"[^\w-]", one)[0] for one in project["dependencies"]}
    imported -= {"hf_immunize", *sys.stdlib_module_names, *OF_EXTRAS}
    assert {INSTALLED_AS.get(one, one) for one in imported} <= asked
    assert asked <= {INSTALLED_AS.get(one, one) for one in imported} | {"torchvision"}


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(hf_immunize, "imunize")


def test_the_import_alone_loads_no_heavy_library():
    code = (
        "import sys, hf_immunize; print([one for one in ('torch', 'transformers', 'datasets') if one in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_wheel_holds_the_package_and_its_data(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("hf_immunize-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {str(path.relative_to(ROOT)) for path in (ROOT / "hf_immunize").rglob("*.py")}
    inside |= {
        "hf_immunize/py.typed",
        "hf_immunize/release/templates/model_card.md.jinja",
        *(f"hf_immunize/release/templates/gallery.{end}" for end in ("html.jinja", "css", "js")),
        "hf_immunize/metrics/rir/README.md",
        "hf_immunize/metrics/rir/requirements.txt",
    }
    assert inside <= set(names)
    assert not [name for name in names if name.startswith(("tests", "scripts", "model_cards"))]
    entry_points = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("entry_points.txt")))
    assert b"hf-immunize = hf_immunize.cli.main:main" in entry_points
