"""θ0, the weights before the first step: kept beside a run, stored with its checkpoints, put back for a measurement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_immunize.errors import InputError

__all__ = ["THETA_ZERO_NAME", "ThetaZero"]

#: Beside the checkpoints of a run.
THETA_ZERO_NAME = "initial_weights.safetensors"


class ThetaZero:
    """The trainable parameters of a model as they are now, on the CPU; frozen ones and statistics do not move.

    Args:
        model: unwrapped, after its trainable parameters were chosen.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights = {
            name: parameter.detach().clone().cpu()
            for name, parameter in _by_every_name(model)
            if parameter.requires_grad
        }
        self._is_stored = False

    def state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """All weights of θ0, on the CPU: those of the trained ``model`` with the initial ones put back."""
        state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        return state | {name: value.clone() for name, value in self.weights.items()}

    @contextmanager
    def put_back(self, model: nn.Module) -> Iterator[None]:
        """``model`` is θ0 inside the context, and what it was afterwards."""
        parameters = dict(_by_every_name(model))
        current = {name: parameters[name].detach().clone() for name in self.weights}
        try:
            self.load_into(model)
            yield
        finally:
            _copy(current, parameters)

    def load_into(self, model: nn.Module) -> None:
        """Gives the parameters of ``model`` these values."""
        _copy(self.weights, dict(_by_every_name(model)))

    def store(self, folder: Path) -> None:
        """Writes the weights into the folder of a run once; a file of an earlier run there is replaced."""
        target = folder / THETA_ZERO_NAME
        if self._is_stored and target.exists():
            return
        partial = target.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in self.weights.items()}, partial)
        os.replace(partial, target)
        self._is_stored = True

    def restore(self, folder: Path) -> None:
        """Takes the weights that a run stored in its folder.

        Raises:
            InputError: they are of other parameters than those that train now.
        """
        weights = load_file(folder / THETA_ZERO_NAME)
        if weights.keys() != self.weights.keys():
            raise InputError(
                "The checkpoint's run trained other parameters than those chosen now. Resume with the same `trainable`."
            )
        self.weights, self._is_stored = weights, True


def _by_every_name(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    # Weights that two modules share stand in a state dict under both names, and the last one read counts.
    return model.named_parameters(remove_duplicate=False)


def _copy(source: dict[str, torch.Tensor], target: dict[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)
