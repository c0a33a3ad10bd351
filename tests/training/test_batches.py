"""Two streams' batches as one forward pass."""

from __future__ import annotations

import pytest
import torch

from hf_immunize.training.batches import joined, over_processes


def test_both_batches_are_one_and_labels_stay_out():
    primary = {"pixel_values": torch.zeros(3, 1, 2, 2), "labels": torch.tensor([0, 1, 2]), "extra": torch.ones(3)}
    harmful = {"pixel_values": torch.ones(2, 1, 2, 2)}
    both = joined(primary, harmful)
    assert both.keys() == {"pixel_values"}
    assert both["pixel_values"][:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1]


def test_activations_are_joined_likewise():
    both = joined({"activations": torch.zeros(2, 5), "labels": torch.zeros(2)}, {"activations": torch.ones(1, 5)})
    assert both["activations"].sum(1).tolist() == [0, 0, 5]


def test_images_of_different_shapes_say_what_to_do():
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\), harmful ones \(1, 8, 8\).*one image processor for both"):
        joined({"pixel_values": torch.zeros(2, 3, 8, 8)}, {"pixel_values": torch.zeros(2, 1, 8, 8)})


def test_one_process_has_all_rows_already():
    rows = torch.randn(4, 3, requires_grad=True)
    assert over_processes(rows) is rows
