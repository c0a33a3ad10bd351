"""The README does as it says: each snippet runs on tiny stand-ins, each command line is one that the program takes."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from datasets import Dataset
from samples import tiny_vit
from tiny import picture_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

import hf_immunize
from hf_immunize import LoadedModel
from hf_immunize.cli.main import VERBS
from hf_immunize.data import packaged as packaged_images
from hf_immunize.data.task import load_task
from hf_immunize.models import packaged as packaged_weights

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
#: What makes a snippet long, and its short form.
SHORTER = {
    "fit_steps=300": "fit_steps=2",
    'attackers="all"': 'attackers=["ridge", "last-block"]',
    'ImmunizationArguments("run"': 'ImmunizationArguments("run", max_steps=2, batch_size=8, use_cpu=True',
}


def pictures(name: str, split: str | None = None) -> Dataset:
    return picture_dataset(40, n_classes=2, size=32, seed=len(f"{name}{split}"))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Every model is a tiny ViT, every data set a few pictures, and the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    model, processor = tiny_vit(("class 0", "class 1"))

    def loaded(*args, **kwargs):
        network = tiny_vit(("class 0", "class 1"))[0]
        return LoadedModel(network, processor, "tiny", None, "transformers", type(network).__name__)

    def task(classes, seed=0, *, turned=False):
        return load_task((pictures("one", str(classes)), pictures("other", str(classes))))

    monkeypatch.setitem(vars(hf_immunize), "load_images", pictures)
    monkeypatch.setitem(vars(hf_immunize), "load_model", loaded)
    monkeypatch.setattr(packaged_images, "digits", task)
    monkeypatch.setattr(packaged_weights, "loaded_lite0", loaded)
    monkeypatch.setattr(AutoModelForImageClassification, "from_pretrained", lambda name: model)
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda name: processor)
    return tmp_path


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(small, capsys, number):
    code = SNIPPETS[number]
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    code = code.replace("batch_size=8", "per_device_train_batch_size=8")
    exec(compile(code, f"README snippet {number}", "exec"), {})
    if "print(" in code:
        assert capsys.readouterr().out.strip()
    if ".save(" in code:
        assert (small / "immunized-lite0" / "immunization.json").is_file()
        assert (small / "immunized-lite0" / "initial" / "model.safetensors").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_the_program_takes(command):
    words = shlex.split(command)
    if "hf-immunize" in words:
        verb, *given = words[words.index("hf-immunize") + 1 :]
        assert verb in VERBS
        importlib.import_module(f"hf_immunize.cli.{verb}").parser().parse_args(given)
    else:
        assert (ROOT / (words[1] if words[0] == "python" else words[0])).is_file()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_it_is_read_in_three_minutes():
    assert len(TEXT.splitlines()) <= 150
    # The first example is short enough to type.
    assert len(SNIPPETS[0].strip().splitlines()) < 20
