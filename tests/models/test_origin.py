"""A module is called a commit of the Hub where it has its weights, and nowhere else."""

from __future__ import annotations

import pytest
import timm
import torch
from samples import tiny_timm, tiny_vit
from transformers import AutoModelForImageClassification

from hf_immunize.models import origin
from hf_immunize.models.origin import commit_of_weights
from hf_immunize.training.recording import model_facts

COMMIT = "a" * 40


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A folder as the cache holds it."""
    folder = tmp_path / "snapshots" / COMMIT
    monkeypatch.setattr(
        origin, "try_to_load_from_cache", lambda name, file: str(folder / file) if name == "me/base" else None
    )
    return folder


def test_a_module_as_it_was_loaded_is_its_commit_and_one_that_was_trained_is_not(snapshot):
    for part in tiny_vit(("crow", "owl")):
        part.save_pretrained(snapshot)
    model = AutoModelForImageClassification.from_pretrained(snapshot)
    model.config._name_or_path = "me/base"
    numbers = torch.get_rng_state()
    facts = model_facts(model)
    assert (facts["base_model"], facts["base_model_revision"], facts["base_model_kind"]) == ("me/base", COMMIT, "hub")
    assert torch.equal(torch.get_rng_state(), numbers)
    as_loaded = {name: one.clone() for name, one in model.state_dict().items()}
    with torch.no_grad():
        next(model.parameters()).mul_(1.001)
    facts = model_facts(model)
    assert (facts["base_model_revision"], facts["base_model_kind"]) == (None, "local")
    assert facts["base_model"] == "ViTForImageClassification passed as a module"
    # After a training the weights of θ0 are asked for.
    assert model_facts(model, as_loaded)["base_model_revision"] == COMMIT


def test_a_timm_module_likewise(snapshot):
    model = tiny_timm()
    snapshot.mkdir(parents=True)
    timm.models.save_for_hf(model, snapshot, safe_serialization=True)
    assert commit_of_weights(model, "me/base", model.state_dict()) == COMMIT
    model.reset_classifier(7)
    assert commit_of_weights(model, "me/base", model.state_dict()) is None


def test_where_there_is_nothing_to_compare_with_it_is_no_commit(snapshot):
    model, _ = tiny_vit(("crow", "owl"))
    for name in ("me/other", "me/base", "/tmp/no/name", ""):
        assert commit_of_weights(model, name, model.state_dict()) is None
