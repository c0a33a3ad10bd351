"""Heads under given names: whose classes they are, and weights drawn anew for the head alone."""

from __future__ import annotations

import pytest
import torch
from samples import tiny_vit
from transformers import ResNetConfig, ResNetForImageClassification, ViTForImageClassification

from hf_immunize.models.new_heads import draw_head, names_to_keep, parameters_of_head


@pytest.mark.parametrize(
    ("own", "given", "kept", "told"),
    [
        (["cat", "dog"], ["cat", "dog"], ["cat", "dog"], ""),
        (["cat", "dog"], ["dog", "cat"], ["cat", "dog"], "another order"),
        (["cat", "guinea_pig"], ["Guinea pig", "Cat"], ["Cat", "Guinea pig"], "another order"),
        (["cat", "dog"], ["cat", "hen"], None, "of others (cat, dog): a new head is drawn for cat, hen"),
        (["cat", "dog"], ["0", "1"], None, "of others"),
        (None, ["cat", "dog"], ["cat", "dog"], "without names"),
        # As ImageNet's cranes.
        (["crane", "crane"], ["crane", "crane"], ["crane", "crane"], ""),
    ],
)
def test_a_head_is_kept_for_its_own_classes(own, given, kept, told, caplog):
    assert names_to_keep(own, given, "me/model") == kept
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)


def test_the_head_alone_is_drawn():
    vit, _ = tiny_vit()
    assert parameters_of_head(ViTForImageClassification, vit.config) == ["classifier.weight", "classifier.bias"]
    before = {name: one.clone() for name, one in vit.state_dict().items()}
    draw_head(vit, ViTForImageClassification, vit.config)
    changed = {name for name, one in vit.state_dict().items() if not torch.equal(one, before[name])}
    assert changed == {"classifier.weight"}  # its bias begins at zero
    assert vit.config.num_labels == 3
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=2)
    assert parameters_of_head(ResNetForImageClassification, config) == ["classifier.1.weight", "classifier.1.bias"]
