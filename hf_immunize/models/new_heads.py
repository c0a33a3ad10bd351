"""A head under the names that a user gives: kept where they are its own classes, drawn anew where they are others."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hf_immunize.data.names import align_labels
from hf_immunize.errors import InputError

__all__ = ["draw_head", "names_to_keep", "parameters_of_head"]

logger = logging.getLogger(__name__)


def names_to_keep(own: Sequence[str] | None, given: Sequence[str], name: str) -> list[str] | None:
    """Names for a head that has as many classes as are named; None where they are other classes than its own.

    Args:
        own: names that the checkpoint gives its classes, None where it only numbers them.
        given: names by the user.
        name: of the checkpoint, for messages.

    Returns:
        the names in the order of the head's logits. It keeps the order of its own classes, which data that name theirs
        are brought into; this is said, and so is a head that is kept without knowing whose classes are its.
    """
    if own is None:
        logger.warning(
            "%s has a head of %d classes without names: it stays, and its classes are called %s now.",
            *(name, len(given), _some(given)),
        )
        return list(given)
    if list(own) == list(given):
        return list(given)
    with contextlib.suppress(InputError):
        ordered = list(given)
        for at, number in enumerate(align_labels(given, own)):
            ordered[number] = given[at]
        if ordered != list(given):
            logger.warning(
                "%s numbers the same classes in another order, which its head keeps: %s.", name, _some(ordered)
            )
        return ordered
    logger.warning(
        "%s has a head of as many classes, but of others (%s): a new head is drawn for %s.",
        *(name, _some(own), _some(given)),
    )
    return None


def parameters_of_head(make: Callable[[Any], nn.Module], config: Any) -> list[str]:
    """Names of the parameters and buffers whose shapes follow the number of classes.

    Args:
        make: a model out of a configuration of transformers.
        config: of the model; it stays as it is.
    """

    def shapes(more: int) -> dict[str, torch.Size]:
        twin = copy.deepcopy(config)
        twin.num_labels = config.num_labels + more
        with torch.device("meta"):
            return {name: one.shape for name, one in make(twin).state_dict().items()}

    fewer, more = shapes(0), shapes(1)
    return [name for name, shape in fewer.items() if more.get(name) != shape]


def draw_head(model: nn.Module, make: Callable[[Any], nn.Module], config: Any) -> None:
    """Puts freshly initialised weights into the head of a model of transformers; all others stay as they are."""
    names = parameters_of_head(make, config)
    fresh, own = make(config).state_dict(), model.state_dict()
    with torch.no_grad():
        for name in names:
            own[name].copy_(fresh[name])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
