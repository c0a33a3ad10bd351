"""Names of a model's classes, and data whose labels are numbered in their order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers.utils import logging

from hf_immunize.data.class_order import in_one_spelling, is_labelled, names_of, numbered_as, numbers_for_names
from hf_immunize.data.names import are_numbers
from hf_immunize.errors import InputError
from hf_immunize.models.forward import unwrap

__all__ = ["given_names", "in_order_of", "model_class_names", "name_classes", "named_in", "why_unmatched"]

logger = logging.get_logger(__name__)

#: What libraries write where nobody named the classes.
_NUMBERED = re.compile(r"(LABEL_)?\d+")


def model_class_names(model: nn.Module) -> list[str] | None:
    """Names of the classes in the order of the logits; None where the model only numbers them.

    Raises:
        InputError: the two mappings of a config, id2label and label2id, contradict each other, or numbers are missing.
    """
    names = _written_names(model)
    return None if all(_NUMBERED.fullmatch(name) for name in names) else names


def named_in(config: Any, timm_config: Any = None) -> list[str] | None:
    """Names of the classes in configurations alone, before there is a model; None where classes are only numbered.

    Raises:
        InputError: as :func:`model_class_names`.
    """
    names = _names_in(config, timm_config)
    return None if all(_NUMBERED.fullmatch(name) for name in names) else names


def _written_names(model: nn.Module) -> list[str]:
    model = unwrap(model)
    return _names_in(getattr(model, "config", None), getattr(model, "pretrained_cfg", None))


def _names_in(config: Any, timm_config: Any) -> list[str]:
    named: Any = getattr(config, "id2label", None) or {}
    # Tutorials write the numbers as words, whose order is another one: 0, 1, 10, 2.
    ordered = sorted(named, key=int)
    if [int(index) for index in ordered] != list(range(len(ordered))):
        raise InputError(
            f"The model's config numbers its {len(ordered)} classes {', '.join(map(str, ordered[:5]))}… in id2label. "
            f"They are numbered 0 to {len(ordered) - 1}, as its logits are: correct id2label and label2id."
        )
    names: list[Any] = [named[index] for index in ordered]
    numbers = getattr(config, "label2id", None) or {}
    for index, name in enumerate(names):
        # ImageNet has two classes called crane, of which label2id keeps one.
        if names.count(name) == 1 and str(numbers.get(name, index)) != str(index):
            raise InputError(
                f"The model's config calls class {index} {name!r} in id2label, and gives {name!r} the number "
                f"{numbers[name]} in label2id. Correct the one that is wrong: both are published with the model."
            )
    if not names:
        given = (timm_config.get("label_names") if isinstance(timm_config, dict) else None) or ()
        # timm takes a mapping where some numbers have no name, and JSON makes words of numbers.
        names = list(given) if not isinstance(given, Mapping) else [given[index] for index in sorted(given, key=int)]
    return [str(name) for name in names]


def in_order_of(
    model: nn.Module, data: Any, what: str, like: Any = None, say: Callable[[str], Any] = logger.warning_once
) -> Any:
    """The same data with the labels numbered as the model numbers classes of the same names.

    Where the model only numbers its classes, they are those of the data that it is trained on. Data that name no
    classes are left as they are, which is said where the model names its own; beside training data that name theirs
    they are refused, or what cannot name them is said. Names that are numbers (folders 0 to 11 in the order 0, 1, 10,
    11, 2, …) are names where the other side has all of them.

    Args:
        model: the classifier that is trained or measured on the data.
        data: model inputs of any kind that :func:`hf_immunize.data.class_order.names_of` knows.
        what: the data, for messages.
        like: what the model is trained on; ``data`` themselves if not given.
        say: what is done with a sentence about numbers that were taken for names.

    Raises:
        InputError: the data name a class that the other side does not have, or are numbered otherwise and cannot be
            brought into its order; see also :func:`hf_immunize.data.class_order.numbers_for_names`.
    """
    like = data if like is None else like
    told = numbers_for_names(data, like, what=what, other="the training data")
    own, of_model = names_of(data), model_class_names(model)
    if told is None and like is data:
        why = why_unmatched(model, data, what)
        told = None if why is None or own is None else f"{why}: took 0 for {own[0]!r} and so on"
    if own is None and told is None and of_model and is_labelled(data):
        told = f"{what} have numbers where the model names its classes: took 0 for {of_model[0]!r} and so on"
    if told is not None:
        say(told)
    if own is None:
        return data
    by_number = all(_NUMBERED.fullmatch(name) for name in own)
    of_model = _written_names(model) if by_number else of_model
    for names, other in ((of_model, "the model"), (names_of(like), "the training data")):
        if names and (not by_number or set(own) <= set(names)):
            data = numbered_as(data, names, what=what, other=other)
            break
    return in_one_spelling(data, like, what=what, other="the training data")


def why_unmatched(model: nn.Module, data: Any, what: str, n_classes: int | None = None) -> str | None:
    """A sentence where data name so many classes and a model only numbers another number: no number is a match then.

    Args:
        model: the classifier.
        data: model inputs of any kind.
        what: the data, for the sentence.
        n_classes: of the model; as it says itself if not given, and None is returned where it does not.
    """
    names, inner = names_of(data), unwrap(model)
    written = _written_names(model)
    n_classes = n_classes or len(written) or getattr(inner, "num_classes", None)
    if names is None or n_classes in (None, len(names)) or not all(map(_NUMBERED.fullmatch, written)):
        return None
    # 0 to 3 of ten digits are numbers whatever the rest.
    if are_numbers(names) or set(names) <= set(written):
        return None
    shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
    return (
        f"{what} name {len(names)} classes ({shown}) and the model has {n_classes} without names, so that nothing says "
        "which is which"
    )


def name_classes(model: nn.Module, names: Sequence[str] | None) -> None:
    """Gives a model that only numbers its classes the names of the data that it was trained on."""
    model = unwrap(model)
    if not names or model_class_names(model) is not None:
        return
    config: Any = getattr(model, "config", None)
    if config is not None and getattr(config, "num_labels", None) == len(names):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
    timm_config = getattr(model, "pretrained_cfg", None)
    if isinstance(timm_config, dict) and getattr(model, "num_classes", None) == len(names):
        timm_config["label_names"] = list(names)


def given_names(labels: Sequence[str] | Mapping[int, str] | None) -> list[str] | None:
    """Names of classes as a user gives them, in the order of the labels.

    Raises:
        InputError: none, one string, or a mapping of other numbers than 0, 1, ….
    """
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        by_index = {int(index): str(name) for index, name in labels.items()}
        if sorted(by_index) != list(range(len(by_index))):
            raise InputError(f"labels must name the classes 0 to {len(by_index) - 1}, got {sorted(by_index)}.")
        names = [by_index[index] for index in range(len(by_index))]
    elif isinstance(labels, str):
        raise InputError(f"labels must be a list of names, got the string {labels!r}.")
    else:
        names = [str(name) for name in labels]
    if not names:
        raise InputError("labels is empty. Name at least one class.")
    return names
