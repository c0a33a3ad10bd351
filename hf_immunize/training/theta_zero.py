"""θ0, the weights before the first step: kept beside a run, stored with its checkpoints, put back for a measurement."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_immunize.data.whole_files import whole_file
from hf_immunize.errors import InputError
from hf_immunize.models.trainable import buffers_behind

__all__ = ["THETA_ZERO_NAME", "ThetaZero"]

#: Beside the checkpoints of a run.
THETA_ZERO_NAME = "initial_weights.safetensors"


class ThetaZero:
    """What of a model moves, as it is now, on the CPU: the trainable parameters, and what a training may move beside.

    Args:
        model: unwrapped, after its trainable parameters were chosen.
        moving: names of modules whose statistics will be others; those of all others stand still.

    Attributes:
        weights: by name.
    """

    def __init__(self, model: nn.Module, moving: Collection[str] = ()) -> None:
        buffers = buffers_behind(model)
        self.weights = {
            name: value.detach().clone().cpu()
            for name, value in _by_every_name(model).items()
            if value.requires_grad
            or (not isinstance(value, nn.Parameter) and (name in buffers or name.rpartition(".")[0] in moving))
        }
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._is_buffer = {name: name not in parameters for name in self.weights}
        self._is_stored = False
        self._there: dict[str, torch.Tensor] = {}

    def take(self, model: nn.Module) -> None:
        """Takes the same parameters and statistics anew, as they are now."""
        named = _by_every_name(model)
        self.weights = {name: named[name].detach().clone().cpu() for name in self.weights}
        self._is_stored, self._there = False, {}

    def on(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The weights on a device, where they stay from the first call on."""
        if not self._there:
            self._there = {name: value.to(device) for name, value in self.weights.items()}
        return self._there

    def state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """All weights of θ0, on the CPU: those of the trained ``model`` with the initial ones put back."""
        state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        return state | {name: value.clone() for name, value in self.weights.items()}

    @contextmanager
    def put_back(self, model: nn.Module) -> Iterator[None]:
        """``model`` is θ0 inside the context, and what it was afterwards."""
        named = _by_every_name(model)
        current = {name: named[name].detach().clone() for name in self.weights}
        try:
            self.load_into(model)
            yield
        finally:
            _copy(current, named)

    def load_into(self, model: nn.Module) -> None:
        """Gives the parameters and statistics of ``model`` these values."""
        _copy(self.weights, _by_every_name(model))

    def store(self, folder: Path) -> None:
        """Writes the weights into the folder of a run once; a file of an earlier run there is replaced."""
        target = folder / THETA_ZERO_NAME
        if self._is_stored and target.exists():
            return
        with whole_file(target) as unfinished:
            save_file({name: value.contiguous() for name, value in self.weights.items()}, unfinished)
        self._is_stored = True

    def restore(self, folder: Path) -> None:
        """Takes the weights that a run stored in its folder.

        Raises:
            InputError: they are of other parameters than those that train now.
        """
        weights = load_file(folder / THETA_ZERO_NAME)
        trained = {name for name, value in self.weights.items() if name in weights or not self._is_buffer[name]}
        if weights.keys() != trained:
            raise InputError(
                "The checkpoint's run trained other parameters than those chosen now. Resume with the same `trainable`."
            )
        # A checkpoint of an earlier version holds no buffers of what trains.
        self.weights, self._is_stored, self._there = self.weights | weights, True, {}


def _by_every_name(model: nn.Module) -> dict[str, torch.Tensor]:
    # Weights that two modules share stand in a state dict under both names, and the last one read counts.
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _copy(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)
