"""A page around the metric: features go up as one .npz file, and the three ratios come back."""

import html
import zipfile
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
import numpy as np
from evaluate.utils import parse_readme

from hf_immunize.spectra.ratio import SIGN

HERE = Path(__file__).parent
INPUTS = ("immunized", "initial", "task")
#: Bytes that the arrays of a file may hold, whatever they are packed into.
LARGEST = 2**30
MEANINGS = {
    "rir": ("RIR", "(i) / (ii); large is wanted"),
    "rir_i": ("(i)", "how much worse conditioned the harmful task is than before; large is wanted"),
    "rir_ii": ("(ii)", "the same of the primary task; at most about 1 is wanted"),
}
HELP = """# RIR

An `.npz` file of the features of both models goes up, and the relative immunization ratio comes back. It holds the
arrays `immunized` (n, d), `initial` (n, d) and `task` (n names, `primary` or `harmful`):

```python
np.savez("features.npz", immunized=…, initial=…, task=…)
```
"""

metric = evaluate.load(str(HERE / "rir.py"))


def compute(path: str | None) -> tuple[str, dict[str, Any]]:
    """The three ratios with their meaning, and all figures, of the features in the .npz file at ``path``."""
    if path is None:
        raise gr.Error("Upload a file first.")
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(one.file_size for one in packed.infolist())
        if size > LARGEST:
            raise gr.Error(f"The arrays hold {size / 2**20:.0f} MiB; this page takes {LARGEST / 2**20:.0f} at most.")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in INPUTS if name in file.files}
    except (AttributeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise gr.Error("This is not an .npz file of plain arrays. Write it with np.savez.") from error
    missing = [name for name in INPUTS if name not in arrays]
    if missing:
        raise gr.Error(f"The file has no array {missing[0]!r}. It needs {', '.join(INPUTS)}.")
    try:
        found = metric.compute(**arrays)
    except (TypeError, ValueError) as error:
        # A message is shown as HTML, and it may repeat words of the file.
        raise gr.Error(html.escape(str(error))) from error
    return _told(found), found


def _told(found: dict[str, Any]) -> str:
    lines = [
        f"- **{name} {SIGN[found[f'{key}_bound']]}{found[key]:.4g}**: {meaning}"
        for key, (name, meaning) in MEANINGS.items()
    ]
    if any(found[f"{key}_bound"] != "exact" for key in MEANINGS):
        lines += ["", "≥ and ≤ mark bounds, ? a ratio of two: the immunized features have lost a direction."]
    if found["precision_limited"]:
        lines += ["", "The initial spectrum runs into rounding: these figures show the precision and not the model."]
    return "\n".join(lines)


with gr.Blocks(title="RIR") as demo:
    gr.Markdown(HELP)
    upload = gr.File(label="features.npz", file_types=[".npz"], type="filepath")
    button = gr.Button("Compute", variant="primary")
    ratios = gr.Markdown()
    with gr.Accordion("All figures", open=False):
        figures = gr.JSON(show_label=False)
    button.click(compute, upload, [ratios, figures])
    with gr.Accordion("The metric card", open=False):
        gr.Markdown(parse_readme(HERE / "README.md"))

if __name__ == "__main__":
    demo.launch()
