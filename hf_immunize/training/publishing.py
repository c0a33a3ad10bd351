"""`push_to_hub` of a Trainer: what was trained is measured beside its θ0, recorded, and goes up in one commit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer
from transformers.utils import logging

from hf_immunize.data.class_order import names_of
from hf_immunize.errors import InputError, did_you_mean
from hf_immunize.models.class_names import name_classes
from hf_immunize.models.extraction import MapStyle
from hf_immunize.models.rebuilding import check_rebuilds
from hf_immunize.release.hub import check_can_push, push_to_hub
from hf_immunize.release.measure import measure
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.training.given import measurable
from hf_immunize.training.recording import (
    data_facts,
    input_shape,
    model_facts,
    own_parts,
    steps_made,
    training_facts,
)
from hf_immunize.training.trainer_part import TrainerPart
from hf_immunize.training.what_trains import check_immunizes

__all__ = ["Publishing"]

logger = logging.get_logger(__name__)

#: What `transformers.Trainer.push_to_hub` takes for its card; this one is written from the record.
_OF_THE_RECORD = {"model_name", "finetuned_from", "tasks", "dataset_tags", "dataset", "dataset_args"}


class Publishing(TrainerPart):
    """The part of a Trainer that publishes."""

    def acting_parts(self) -> tuple[torch.optim.Optimizer | None, Any]:
        """The optimizer and the schedule that are not the arguments': given, by a class, or made by a subclass."""
        optimizer, scheduler = self._given
        if self.optimizer_cls_and_kwargs is not None or type(self).create_optimizer is not Trainer.create_optimizer:
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return optimizer, scheduler

    def push_to_hub(
        self,
        commit_message: str | None = "Add immunized model",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **known: Any,
    ) -> Any:
        """Measures the model beside θ0 and uploads weights, record, figures and card in one commit.

        Args:
            commit_message: first line of the commit.
            blocking: must be true: there is one upload, and it is short.
            token: of the Hub; ``args.hub_token`` or the one that is logged in unless given.
            revision: a branch; ``args.hub_revision`` or main unless given.
            private: create the repository private; ``args.hub_private_repo`` unless given.
            known: fields of :class:`hf_immunize.ImmunizationRecord` that the trainer cannot know (``license``, …), and
                ``language`` and ``tags`` of the card. What example scripts of `transformers` say of base model, task
                and data sets follows from the record, and is told to be left aside.

        Returns:
            the commit on the main process, None on the others.

        Raises:
            ValueError: nothing to measure with, a name that is no field, no token, no write access; before anything is
                measured.
        """
        if not blocking:
            raise InputError("push_to_hub(blocking=False) is not supported: the release goes up in one short commit.")
        metadata: dict[str, Any] = {name: known.pop(name) for name in ("language", "tags") if name in known}
        _check_fields(known)
        check_immunizes(self.objective)
        check_rebuilds(self.model, self.processing_class)
        data = self._measurable()
        if not self.is_world_process_zero():
            return None
        repo_id, token = self._repo_id, token or self.args.hub_token
        check_can_push(repo_id, token=token)
        model = self._network
        results = measure(
            {"initial": self.initial_model(), "immunized": model},
            measurable(data, self.args),
            protocol=self.args.protocol,
            batch_size=self.args.per_device_eval_batch_size,
            activations=self._activations,
        )
        classes = names_of(self.train_dataset)
        name_classes(model, classes)
        made: dict[str, Any] = steps_made(self.args, self.state)
        facts = training_facts(self.args, self.selection, **made, notes=self.notes)
        facts["training"] = own_parts(*self.acting_parts(), self.own_task_loss, facts["training"])
        values = {task: data_facts(pair) for task, pair in data.items()}
        if classes is not None:
            values["primary"].classes = list(classes)
        measured = {"results": results, "input_shape": input_shape(data["primary"][1])}
        origin = model_facts(model, self.initial_state_dict())
        record = ImmunizationRecord(**(origin | values | facts | measured | known))
        return push_to_hub(
            model,
            repo_id,
            record=record,
            image_processor=cast(Any, self.processing_class),
            beside={} if record.on_the_hub("initial") else {"initial": self.initial_model()},
            private=private if private is not None else self.args.hub_private_repo,
            token=token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            metadata=metadata,
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """With ``push_to_hub=True``: whether the token may write. The repository is made when the release goes up."""
        if self.is_world_process_zero():
            _, owned = check_can_push(self._repo_id, token=token or self.args.hub_token)
            self.hub_model_id = cast(Any, owned)

    @property
    def _repo_id(self) -> str:
        return self.args.hub_model_id or Path(cast(str, self.args.output_dir)).absolute().name

    def _measurable(self) -> dict[str, tuple[MapStyle | None, MapStyle]]:
        """Training and evaluation data of both tasks; refused where attackers would be judged on what they saw."""
        missing = [name for name in ("eval_dataset", "harmful_eval_dataset") if getattr(self, name) is None]
        if missing:
            raise InputError(
                "A card reports what was measured, on rows that no training saw: the trainer needs "
                f"{' and '.join(missing)}."
            )
        if isinstance(self.eval_dataset, dict):
            raise InputError(
                f"eval_dataset holds {', '.join(self.eval_dataset)}; a card reports one. Make a trainer with the one "
                "to report."
            )
        return {
            "primary": (self.train_dataset, cast(MapStyle, self.eval_dataset)),
            "harmful": (self.harmful_dataset, cast(MapStyle, self.harmful_eval_dataset)),
        }

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # A checkpoint has no measured card, and its training arguments would carry the token.
        logger.warning_once("Checkpoints are not pushed. Call trainer.push_to_hub() for the release.")


def _check_fields(known: dict[str, Any]) -> None:
    """Takes out what follows from the record, and says so; InputError for names that are no field of it."""
    aside = sorted(_OF_THE_RECORD & set(known))
    if aside:
        logger.warning(f"push_to_hub leaves {', '.join(aside)} aside: the card says what the record holds.")
    for name in aside:
        del known[name]
    fields = [one.name for one in dataclasses.fields(ImmunizationRecord)]
    for name in set(known) - set(fields):
        hint = did_you_mean(name, fields)
        raise InputError(f"push_to_hub has no argument {name!r}, nor has a record such a field.{hint}")
