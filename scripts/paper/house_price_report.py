"""Table and figure of the House Price experiment, from its record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["EXCESS_STEPS", "PRINTED", "draw", "print_table"]

#: (i), (ii), RIR with their spread: the House Price table of arXiv 2505.23760 as printed on its slides.
PRINTED = {
    "r_ill_only": {"rir_i": (90.02, 3.773), "rir_ii": (72.415, 3.545), "rir": (1.244, 0.021)},
    "imma": {"rir_i": (7.053, 1.662), "rir_ii": (3.545, 0.880), "rir": (2.001, 0.187)},
    "opt_kappa": {"rir_i": (1.518, 0.027), "rir_ii": (0.016, 0.001), "rir": (92.58, 4.492)},
    "condition": {"rir_i": (18.92, 2.056), "rir_ii": (0.053, 0.002), "rir": (356.20, 5.491)},
}
#: Steps after which the excess loss is told.
EXCESS_STEPS = 20


def draw(record: dict[str, Any], methods: Sequence[str], path: Path) -> None:
    """Norm-ratio curves on both tasks, and RIR over the steps beside the ceiling."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paper, regular = record["splits"]["paper_200_rows_79_columns"], record["splits"]["200_rows_73_columns"]
    colours = {name: f"C{index}" for index, name in enumerate(methods)} | {"raw_features": "black"}
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for panel, task, title in zip(
        axes, ("primary", "harmful"), ("primary (LotArea)", "harmful (SalePrice)"), strict=False
    ):
        for name in ("raw_features", *methods):
            colour = colours[name]
            curve = np.maximum(paper[name]["norm_ratio"][task], 1e-8)
            panel.plot(
                curve, label=name, color=colour, linestyle="--" if name == "raw_features" else "-", linewidth=1.8
            )
        panel.set(
            yscale="log" if task == "primary" else "linear",
            xlabel="gradient-descent step at 1/L",
            title=f"{title}, 79 columns, 200 rows",
        )
        panel.set_ylabel("‖w_t − w*‖² / ‖w_0 − w*‖²")
    axes[0].set_ylim(5e-9, 2)
    for name in methods:
        values = regular[name]["rir_every_10_steps"]
        axes[2].plot(10 * np.arange(len(values)), values, color=colours[name], label=name, linewidth=1.5)
    axes[2].axhline(regular["closed_form"]["ceiling"], color="black", linestyle=":", label="ceiling")
    axes[2].axhline(PRINTED["condition"]["rir"][0], color="grey", linestyle="-.", label="printed: 356.2")
    axes[2].set(
        yscale="log", xlabel="step of immunization", ylabel="RIR", ylim=(1e-4, 1e7), title="73 columns, 200 rows"
    )
    for panel in axes:
        panel.grid(alpha=0.3)
    drawn = [dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True)) for panel in (axes[0], axes[2])]
    lines = drawn[0] | drawn[1]
    figure.legend(lines.values(), lines, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def print_table(record: dict[str, Any], methods: Sequence[str]) -> None:
    """The table of the record, one line for each method and split."""
    for key, rows in record["splits"].items():
        form, raw = rows["closed_form"], rows["raw_features"]
        print(f"\n{key}: ceiling {form['ceiling']:.5g}{'' if form['bounded'] else ' of the shared directions'}, "
              f"attained to {form['relative_distance']:.1e}; raw features: excess loss left after {EXCESS_STEPS} steps "
              f"harmful {raw['excess_loss_harmful']:.3g}, primary {raw['excess_loss_primary']:.3g}")  # fmt: skip
        print(f"{'method':<20}{'(i)':>11}{'(ii)':>11}{'RIR':>11}{'printed':>9}{'of ceiling':>12}{'loss, head':>11}"
              f"{'refitted':>9}{'excess H':>10}{'excess P':>10}{'s':>7}"
              f"{'published rule: (i)':>21}{'(ii)':>10}{'RIR':>10}")  # fmt: skip
        for name in methods:
            one = rows[name]
            printed = f"{PRINTED[name]['rir'][0]:g}" if name in PRINTED else ""
            print(f"{name:<20}{one['rir_i']:>11.4g}{one['rir_ii']:>11.4g}{one['rir']:>11.4g}{printed:>9}"
                  f"{one['share_of_ceiling']:>12.4g}{one['primary_loss_over_raw_head_as_trained']:>11.4f}"
                  f"{one['primary_loss_over_raw_head_refitted']:>9.5f}{one['excess_loss_harmful']:>10.3g}"
                  f"{one['excess_loss_primary']:>10.3g}{one['processor_seconds']:>7.2f}"
                  f"{one['published_rule']['rir_i']:>21.4g}{one['published_rule']['rir_ii']:>10.4g}"
                  f"{one['published_rule']['rir']:>10.4g}")  # fmt: skip
    for name, kinds in record["over_seeds"].items():
        for kind, figures in kinds.items():
            keys = [key for key in ("rir_i", "rir_ii", "rir") if figures[key]]
            shown = ", ".join(f"{key} {figures[key][0]:.4g} ± {figures[key][1]:.2g}" for key in keys)
            print(f"{name} over {len(figures['seeds'])} seeds ({kind}): {shown}")
