"""Data sets of the commands, from options to model inputs: ``train``, ``evaluate`` and ``attack`` read them alike."""

from __future__ import annotations

import argparse

from datasets import Dataset

from hf_immunize.data.images import ImageInputs
from hf_immunize.data.sources import load_images, load_train_and_eval
from hf_immunize.errors import InputError
from hf_immunize.models.loading import LoadedModel

__all__ = ["check_processor", "evaluation_rows", "load_task", "model_inputs"]


def load_task(options: argparse.Namespace, task: str) -> tuple[Dataset, Dataset, str]:
    """Training and evaluation rows of a task, and what the latter are.

    Raises:
        ValueError: fewer than two rows to evaluate on.
    """
    train, evaluation, described = load_train_and_eval(
        getattr(options, task),
        getattr(options, f"{task}_split"),
        getattr(options, f"{task}_eval_split"),
        config=getattr(options, f"{task}_config"),
        seed=options.seed,
    )
    if len(evaluation) < 2:
        raise InputError(f"The {task} data have {len(evaluation)} row to evaluate on; give two or more, better 100.")
    return train, evaluation, described


def evaluation_rows(options: argparse.Namespace, task: str) -> Dataset:
    """Rows of the split that was named; of ``test`` if there is one, else of ``train``."""
    name, split = getattr(options, task), getattr(options, f"{task}_split")
    if split is None:
        try:
            return load_images(name, "test", config=getattr(options, f"{task}_config"))
        except ValueError as error:
            if "has the splits" not in str(error):
                raise
    return load_images(name, split, config=getattr(options, f"{task}_config"))


def model_inputs(
    loaded: LoadedModel, options: argparse.Namespace, task: str, rows: Dataset, labels_needed: bool = True
) -> ImageInputs:
    """The rows as the model takes them."""
    return ImageInputs(
        rows,
        lambda images, return_tensors: {"pixel_values": loaded.preprocess(images)},
        getattr(options, f"{task}_image_column"),
        getattr(options, f"{task}_label_column"),
        labels_needed=labels_needed,
    )


def check_processor(loaded: LoadedModel) -> None:
    """Raises ValueError where images cannot be prepared for a model."""
    if loaded.image_processor is None:
        raise InputError(
            f"{loaded.name} holds no image processor, so raw images cannot be prepared for it. Save one beside it: "
            "AutoImageProcessor.from_pretrained(…).save_pretrained(folder)."
        )
