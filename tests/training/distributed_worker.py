"""What `test_distributed.py` runs in two processes: extraction, a training run, and the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tiny import Images, TinyNet
from torch.utils.data import IterableDataset, Subset
from transformers import TrainerCallback

from hf_immunize import ImmunizationArguments, ImmunizationTrainer
from hf_immunize.cli.main import main
from hf_immunize.models.extraction import extract_features

SETTINGS = {
    "max_steps": 4,
    "warmup_steps": 0,
    "per_device_train_batch_size": 8,
    "per_device_harmful_batch_size": 6,
    "learning_rate": 1e-2,
    "optim": "sgd",
    "lambda_primary": 0.7,
    "lambda_harmful": 0.3,
    "max_grad_norm": 0.0,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "eval_strategy": "steps",
    "eval_steps": 2,
    "logging_steps": 2,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "rir_groups": 3,
    "rir_group_size": 10,
}
SIZES = (7, 8)


def model_and_data():
    torch.manual_seed(0)
    return TinyNet(dropout=0.0), Images(96, seed=1), Images(41, n_classes=4, seed=2, labels=False)


class Stream(IterableDataset):
    """A data set as torch streams it."""

    def __init__(self, data) -> None:
        self.data = data

    def __iter__(self):
        return (self.data[index] for index in range(len(self.data)))


def streamed(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a training on streams."""
    model, primary, harmful = model_and_data()
    args = ImmunizationArguments(output_dir=str(folder / "streamed"), **(SETTINGS | {"eval_strategy": "no"}))
    trainer = ImmunizationTrainer(model, args, train_dataset=Stream(primary), harmful_dataset=Stream(harmful))
    trainer.train()
    return {name: value.clone() for name, value in model.state_dict().items()}


def budgeted(folder: Path) -> dict[str, Any]:
    """A training with a budget that its λ would overspend: the facts of the budget, and the weights."""
    torch.manual_seed(0)
    model, harmful = TinyNet(), Images(41, n_classes=4, seed=2, labels=False)
    changes = {"max_steps": 20, "lambda_harmful": 30.0, "eval_strategy": "no", "max_accuracy_drop": 1.0}
    args = ImmunizationArguments(output_dir=str(folder / "budgeted"), **(SETTINGS | changes))
    trainer = ImmunizationTrainer(model, args, train_dataset=Images(201, seed=1), harmful_dataset=harmful)
    trainer.train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return {"facts": trainer.budget.facts, "weights": weights, "rows": trainer._held_out.indices}


def purged(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a training of two phases that begins elsewhere, over however many processes."""
    model, primary, harmful = model_and_data()
    world = Accelerator(cpu=True).num_processes
    sizes = {"per_device_train_batch_size": 16 // world, "per_device_harmful_batch_size": 12 // world}
    changes = {"objective": "purge", "trainable": ["all"], "eval_strategy": "no", **sizes}
    args = ImmunizationArguments(output_dir=str(folder / "purged"), **(SETTINGS | changes))
    ImmunizationTrainer(model, args, train_dataset=primary, harmful_dataset=harmful).train()
    return {name: value.clone() for name, value in model.state_dict().items()}


class Stop(TrainerCallback):
    """Ends every process in the middle of a training, or kills the first with no word."""

    def __init__(self, step: int, kill: bool) -> None:
        self.step, self.kill = step, kill

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step and not self.kill:
            raise KeyboardInterrupt
        if state.global_step == self.step and state.is_world_process_zero:
            os.kill(os.getpid(), signal.SIGKILL)


def saved(folder: Path, *, stop: Stop | None = None, resume: bool = False) -> dict[str, torch.Tensor]:
    """Weights of a training with dropout and two checkpoints."""
    torch.manual_seed(0)
    model, harmful = TinyNet(dropout=0.3), Images(41, n_classes=4, seed=2, labels=False)
    changes = {"max_steps": 6, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 2, "seed": 7}
    args = ImmunizationArguments(output_dir=str(folder), **(SETTINGS | changes))
    trainer = ImmunizationTrainer(model, args, train_dataset=Images(96, seed=1), harmful_dataset=harmful)
    if stop is not None:
        trainer.add_callback(stop)
    with contextlib.suppress(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=resume)
    assert trainer.state.global_step == (stop.step if stop else 6)
    return {name: value.clone() for name, value in model.state_dict().items()}


def run(folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model, primary, harmful = model_and_data()
    found = {
        "processes": accelerator.num_processes,
        "extracted": {
            n: extract_features(model, Subset(primary, range(n)), batch_size=3, accelerator=accelerator) for n in SIZES
        },
    }
    trainer = ImmunizationTrainer(
        model,
        ImmunizationArguments(output_dir=str(folder / "work"), **SETTINGS),
        train_dataset=primary,
        harmful_dataset=harmful,
        eval_dataset=primary,
    )
    trainer.train()
    found |= {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "history": trainer.state.log_history,
        "wrapped": type(trainer.model_wrapped).__name__,
    }
    found["streamed"] = streamed(folder)
    found["budgeted"] = budgeted(folder)
    found["purged"] = purged(folder)
    found["whole"] = saved(folder / "whole")
    saved(folder / "stopped", stop=Stop(3, kill=False))
    found["resumed"] = saved(folder / "stopped", resume=True)
    found["status"] = main((folder / "command.txt").read_text().split("\n"))
    torch.save(found, folder / f"rank{accelerator.process_index}.pt")


def run_killed(folder: Path) -> None:
    """Killed the first time, gone on with the second."""
    resume = folder.exists()
    weights = saved(folder, stop=None if resume else Stop(5, kill=True), resume=resume)
    torch.save(weights, f"{folder}-rank{Accelerator(cpu=True).process_index}.pt")


if __name__ == "__main__":
    {"all": run, "killed": run_killed}[sys.argv[1]](Path(sys.argv[2]))
