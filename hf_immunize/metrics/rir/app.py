"""A page around the metric: features go up as one .npz file, the figures come back as a table."""

import zipfile
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
import numpy as np
from evaluate.utils import parse_readme

HERE = Path(__file__).parent
INPUTS = ("immunized", "initial", "task")
HELP = (
    "An `.npz` file with the arrays `immunized` (n, d), `initial` (n, d) and `task` (n names, `primary` or `harmful`): "
    '`np.savez("features.npz", immunized=…, initial=…, task=…)`.'
)

metric = evaluate.load(str(HERE / "rir.py"))


def compute(path: str | None) -> dict[str, Any]:
    """The metric's figures for the features in the .npz file at ``path``."""
    if path is None:
        raise gr.Error("Upload a file first.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (AttributeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise gr.Error("This is not an .npz file of plain arrays. Write it with np.savez.") from error
    missing = [name for name in INPUTS if name not in arrays]
    if missing:
        raise gr.Error(f"The file has no array {missing[0]!r}. It holds {sorted(arrays)}.")
    try:
        return metric.compute(**{name: arrays[name] for name in INPUTS})
    except (TypeError, ValueError) as error:
        raise gr.Error(str(error)) from error


with gr.Blocks(title="RIR") as demo:
    gr.Markdown(HELP)
    upload = gr.File(label="features.npz", file_types=[".npz"], type="filepath")
    result = gr.JSON(label="RIR")
    gr.Button("Compute").click(compute, upload, result)
    gr.Markdown(parse_readme(HERE / "README.md"))

if __name__ == "__main__":
    demo.launch()
