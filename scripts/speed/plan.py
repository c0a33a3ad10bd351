"""How long ImageNet-1k takes, from figures that were measured."""

from __future__ import annotations

from typing import Any

__all__ = ["plan"]

#: Images that train, and bytes of an activation before ViT-B/16's last block at 224 px (197 tokens of width 768).
IMAGES, ACTIVATION = 1_281_167, 197 * 768 * 4


def plan(kept: dict[str, Any]) -> list[str]:
    """Lines of a page; none where the step of a GPU has not been measured."""
    if not {"gpu-step", "gpu-step-all", "decoding"} <= set(kept):
        return []
    (decoded,) = (row["value"] for row in kept["decoding"]["rows"])
    lines = [
        "",
        "## ImageNet-1k",
        "",
        f"An epoch is {IMAGES:,} primary images, each beside a harmful one; ViT-B/16 at 224 px. Activations before",
        f"the last block would take {IMAGES * ACTIVATION / 1e9:.0f} GB, more than `cache_frozen_gb` allows: the frozen",
        "part runs with every step, which is said. Rows are read as they are asked for, from disk or a stream, and",
        "never held; labels of a data set are read as a column, without a picture, those of a stream as they come.",
        "",
    ]
    for part, trains in (("gpu-step", "the last block"), ("gpu-step-all", "all of it")):
        rate = kept[part]["rows"][1]["value"]
        lines.append(
            f"- {trains[0].upper()}{trains[1:]} trains: {2 * IMAGES / rate / 3600:.2f} hours an epoch on one "
            f"{kept[part]['hardware'].split(',')[0]} in bf16 ({rate:.0f} images a second), for which "
            f"{rate / decoded:.0f} cores must decode ({decoded:.0f} images a second each on "
            f"{kept['decoding']['hardware'].split(',')[0]}): `dataloader_num_workers`."
        )
    return lines
