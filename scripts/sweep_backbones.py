"""Which backbones this library takes: a small member of every kind, each through one whole run.

    python scripts/sweep_backbones.py
    python scripts/sweep_backbones.py --only regnet vgg ViTForImageClassification

For every class that transformers has for image classification, and for one member of every module of timm: the head
maps the features to the logits; what trains unless something else is named (``trainable="last"``) holds the head and is
neither nothing nor everything; one step of `immunize` changes that part alone; RIR of the result against itself is
exactly 1; and what was saved loads with the same logits. Weights are random and images are noise, so that no network is
needed.

The table is written to README.md in --output_dir, its rows to backbones.json, one by one: after Ctrl-C the same command
goes on where it stopped. A backbone that takes longer than --seconds is given up.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from paper.backbones import N_CLASSES, Backbone, timm_backbones, transformers_backbones
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import ViTImageProcessor
from transformers.utils import logging

from hf_immunize import ImmunizationArguments, evaluate_immunization, features_and_logits, immunize
from hf_immunize.errors import InputError, UserError
from hf_immunize.metrics.report import Protocol
from hf_immunize.models.head import find_head
from hf_immunize.models.loading import load_model
from hf_immunize.models.trainable import select_trainable
from hf_immunize.release.record import library_versions

INTRODUCTION = """`python scripts/sweep_backbones.py`, torch {torch}, transformers {transformers}, timm {timm}.

A small member of every kind, with random weights and three classes, through one whole run: the head maps the features
(of width d) to the logits; what trains unless something else is named holds the head and is neither nothing nor
everything; one step changes that part alone; RIR against itself is exactly 1; what was saved loads with the same
logits. Seconds are those of one busy CPU core. A quarter runs in the tests, all of it with `pytest -m slow`.

How the head is found, and what the features are for each kind of it (several heads, auxiliary outputs, MLP heads,
convolutions, dropout), stands in `hf_immunize/models/head.py`; how the last stage is found in
`hf_immunize/models/last_stage.py`. Base models and image towers without a head get one on their pooled output:
`hf_immunize/models/pooled.py`."""
HEADER = (
    "| backbone | parameters | image | head | d | what trains | seconds | result |\n|---|---|---|---|---|---|---|---|"
)
ROOT = Path(__file__).resolve().parents[1]
N_SAMPLES, BATCH = 4, 2


class Refusal(Exception):
    """The library says that it does not take a backbone."""


class Noise(Dataset):
    """Images without structure, and labels in turn."""

    def __init__(self, shape: tuple[int, int, int], seed: int) -> None:
        self.pixels = torch.randn(N_SAMPLES, *shape, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": index % N_CLASSES}


def check(backbone: Backbone, folder: Path) -> dict[str, Any]:
    """Puts a backbone through a whole run.

    Args:
        backbone: which.
        folder: an empty one to save into.

    Returns:
        number of parameters, side of the images in pixels, names of the heads, width of the features, what trains.

    Raises:
        AssertionError: something is not as it must be.
        Refusal: the library does not take the backbone, with the reason.
        ImportError: it needs a package that is not installed.
    """
    model, shape = backbone.build()
    found = {"parameters": sum(one.numel() for one in model.parameters()), "image_size": shape[-1]}
    primary, harmful = Noise(shape, 1), Noise(shape, 2)
    try:
        found |= check_features(model, primary.pixels[:BATCH])
    except UserError as error:
        raise Refusal(error) from error
    start, twin = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    selection = select_trainable(twin, "last", primary.pixels[:BATCH])
    chosen = {name for name, one in twin.named_parameters(remove_duplicate=False) if one.requires_grad}
    assert 0 < selection.n_parameters < selection.n_total, f"{selection} train"
    args = ImmunizationArguments(
        str(folder / "run"),
        max_steps=1,
        warmup_steps=0,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    processor = None
    if backbone.library == "transformers":
        processor = ViTImageProcessor(size={"height": shape[1], "width": shape[2]})
    tasks = (primary, Noise(shape, 3)), (harmful, Noise(shape, 4))
    run = immunize(model, *tasks, args, image_processor=processor, control=False, attackers=None)
    assert run is not None
    end = run.model.state_dict()
    changed = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert changed <= chosen, f"{sorted(changed - chosen)[:3]} changed, which do not train"
    for part in (*found["heads"], selection.modules[0]):
        assert any(name.startswith(f"{part}.") for name in changed), f"{part} did not change"
    protocol = Protocol(groups=2, group_size=3)
    report = evaluate_immunization(
        run.model, copy.deepcopy(run.model), primary, harmful, protocol=protocol, float64=False
    )
    assert report.rir == 1 == report.all_samples.rir, f"RIR against itself is {report.rir}, {report.all_samples.rir}"
    saved = run.save(folder / "saved", keep=[])
    _, expected = features_and_logits(run.model.eval(), primary.pixels[:BATCH])
    _, logits = features_and_logits(load_model(saved).model, primary.pixels[:BATCH])
    torch.testing.assert_close(logits, expected)
    share = 100 * selection.n_parameters / selection.n_total
    return found | {"trains": list(selection.modules), "share": round(share, 1)}


def check_features(model: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """Names of the heads and width of the features; more weight in the heads is more of the features in the logits."""
    head = find_head(model, images)
    features, logits = features_and_logits(model, images)
    assert features.shape == (len(images), head.n_features), f"features of shape {tuple(features.shape)}"
    assert logits.shape == (len(images), N_CLASSES), f"logits of shape {tuple(logits.shape)}"
    assert features.isfinite().all(), "features are not finite"
    assert features.std() > 1e-6, "features are constant"
    widths = [model.get_submodule(name).weight[0].numel() for name in head.names]
    for name, part in zip(head.names, features.split(widths, dim=1), strict=True):
        twin = copy.deepcopy(model)
        layer: Any = twin.get_submodule(name)
        more = torch.randn_like(layer.weight)
        with torch.no_grad():
            layer.weight += more
            moved = features_and_logits(twin, images)[1] - logits
        expected = part @ more.flatten(1).T
        # A head's share of the logits: 1 alone, 1/2 of two that are averaged.
        share = (moved * expected).sum() / (expected * expected).sum()
        assert 0 < share < 1.001, f"{name} has a share of {share}"
        torch.testing.assert_close(moved, share * expected, rtol=1e-2, atol=1e-3 * moved.abs().max().item())
    with torch.no_grad():
        # A loss that is nothing already, as of large random logits, moves nothing.
        for name in head.names:
            model.get_submodule(name).weight /= max(1.0, logits.abs().max().item())
    return {"heads": list(head.names), "n_features": head.n_features}


class Rows:
    """Finished rows in one JSON file beside the table; both are written whole each time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, {}
        self.path = folder / "backbones.json"
        self.versions = {name: library_versions()[name] for name in ("torch", "transformers", "timm")}
        if self.path.exists():
            earlier = json.loads(self.path.read_text(encoding="utf-8"))
            if earlier["versions"] != self.versions:
                raise InputError(
                    f"{self.path} has rows of {earlier['versions']}. Remove it, or give another --output_dir."
                )
            self.rows = earlier["rows"]

    def holds(self, backbone: Backbone) -> bool:
        """Whether it ran already, and was not a failure."""
        row = self.rows.get(f"{backbone.library}/{backbone.group}")
        return row is not None and not row["result"].startswith("FAILED")

    def add(self, backbone: Backbone, row: dict[str, Any]) -> None:
        """Keeps a finished row."""
        self.rows[f"{backbone.library}/{backbone.group}"] = row
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {"versions": self.versions, "rows": dict(sorted(self.rows.items()))}
        texts = {
            "backbones.json": json.dumps(values, indent=1) + "\n",
            "README.md": page(values["rows"], self.versions),
        }
        for path, text in ((self.folder / name, text) for name, text in texts.items()):
            partial = path.with_suffix(".partial")
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)


def page(rows: dict[str, dict[str, Any]], versions: dict[str, str]) -> str:
    """The page with the table."""
    lines = ["# Backbones", "", INTRODUCTION.format(**versions)]
    for library, title in (("transformers", "Classes of transformers"), ("timm", "Modules of timm")):
        own = {key.partition("/")[2]: row for key, row in rows.items() if key.startswith(f"{library}/")}
        works = sum(row["result"] == "works" for row in own.values())
        lines += ["", f"## {title}: {works} of {len(own)} work", "", HEADER]
        lines += [_line(group, row) for group, row in sorted(own.items(), key=lambda item: item[0].lower())]
    return "\n".join(lines) + "\n"


def _line(group: str, row: dict[str, Any]) -> str:
    name = group if row["name"] == group else f"{group} (`{row['name']}`)"
    cells = [name, "", "", "", "", "", f"{row['seconds']:g}", row["result"].replace("|", "/")]
    if "trains" in row:
        cells[1:3] = f"{row['parameters'] / 1e6:.2f} M", f"{row['image_size']} px"
        cells[3:5] = ", ".join(f"`{one}`" for one in row["heads"]), str(row["n_features"])
        cells[5] = f"{', '.join(f'`{one}`' for one in row['trains'])} ({row['share']:g} %)"
    return f"| {' | '.join(cells)} |"


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what takes longer."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def row_of(backbone: Backbone, seconds: int) -> dict[str, Any]:
    """The row of a backbone, whatever becomes of it."""
    started = time.perf_counter()
    row: dict[str, Any] = {"name": backbone.name}
    try:
        with at_most(seconds), tempfile.TemporaryDirectory() as folder:
            row |= check(backbone, Path(folder)) | {"result": "works"}
    except Refusal as error:
        row["result"] = f"refused: {error}"
    except ImportError as error:
        row["result"] = f"not built: {' '.join(str(error).split())[:120]}"
    except Exception as error:
        row["result"] = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Parses the options and runs what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="classes and modules; all if not given")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "model_cards" / "backbones")
    parser.add_argument("--seconds", type=int, default=300, help="after which a backbone is given up (300)")
    options = parser.parse_args()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    rows = Rows(options.output_dir)
    backbones = transformers_backbones() + timm_backbones()
    if options.only:
        backbones = [one for one in backbones if one.group in options.only]
        rows.rows = {key: row for key, row in rows.rows.items() if key.partition("/")[2] not in options.only}
    for backbone in tqdm([one for one in backbones if not rows.holds(one)]):
        row = row_of(backbone, options.seconds)
        rows.add(backbone, row)
        tqdm.write(f"{backbone.group}: {row['result']} ({row['seconds']} s)")


if __name__ == "__main__":
    main()
