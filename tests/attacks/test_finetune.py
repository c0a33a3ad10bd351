"""Fine-tuning attackers: settings, backbones and data of every kind."""

from __future__ import annotations

import copy

import pytest
import torch
from planted import FINETUNING, fits_of
from samples import tiny_timm, tiny_vit
from tiny import Images, Skips, TinyNet

from hf_immunize import run_attacks
from hf_immunize.attacks import Budgets
from hf_immunize.attacks.report import largest


def test_fine_tuning_goes_on_with_the_settings_of_the_best_validation_accuracy():
    first = fits_of("last block")
    assert [steps for _, steps in first] == [1] * 6 + [2] * 3 + [3]
    names = [name for name, _ in first[:6]]
    assert len(set(names)) == 6
    found = fits_of("last block", answers=(0.1, 0.7, 0.2, 0.8, 0.3, 0.2, 0.5, 0.9, 0.6))
    assert found[6:] == [(names[3], 2), (names[1], 2), (names[4], 2), (names[1], 3)]


def test_with_further_seeds_only_what_was_chosen_runs_each_to_its_last_budget():
    names = [name for name, _ in fits_of("last block")[:6]]
    found = fits_of("last block", settings={names[0]: 1, names[4]: 3})
    assert found == [(names[0], 1), (names[4], 1), (names[4], 2), (names[4], 3)]


@pytest.mark.parametrize("name", FINETUNING)
@pytest.mark.parametrize("family", ["tiny", "timm", "vit"])
def test_fine_tuning_works_on_backbones_of_each_kind(name, family):
    torch.manual_seed(0)
    model = {"tiny": TinyNet, "timm": tiny_timm, "vit": lambda: tiny_vit()[0]}[family]()
    data = Images(60, n_classes=2, seed=0)
    if family == "vit":
        data.x = torch.nn.functional.interpolate(data.x, size=32)
    report = run_attacks(
        copy.deepcopy(model),
        model,
        data,
        copy.copy(data),
        public=model,
        primary=data,
        attackers=name,
        budgets=Budgets((None,), (5,), (None,), (4, 48), seeds=(0,)),
        scratch=False,
    )
    found = report.attackers[name]["accuracy"]
    assert found["initial"] == found["immunized"]
    assert largest(found["initial"])["mean"] > report.chance + 0.1


class Views(TinyNet):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        stem = self.blocks(self.stem(pixel_values))
        stem = stem.view(stem.shape[0], -1).view(stem.shape)
        return self.score(torch.relu(self.widen(stem)).mean((2, 3)))


@pytest.mark.parametrize("case", ["bfloat16", "float64 images", "skips", "views", "frozen", "pairs", "training"])
def test_models_and_data_of_every_form_are_attacked_and_left_as_they_were(case):
    torch.manual_seed(0)
    model = {"skips": Skips, "views": Views}.get(case, TinyNet)().eval()
    data = Images(40, n_classes=2)
    if case == "bfloat16":
        model = model.bfloat16()
    if case == "float64 images":
        data.x = data.x.double()
    if case == "frozen":
        model.requires_grad_(False)
    if case == "training":
        model.train()
    if case == "pairs":
        data = [(data[index]["pixel_values"], int(data[index]["labels"])) for index in range(40)]
    base = copy.deepcopy(model)
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    # The long search where the form of the model or of its images may matter.
    names = FINETUNING if case in ("bfloat16", "float64 images", "views", "frozen") else ["last block", "all weights"]
    report = run_attacks(
        model,
        base,
        data,
        copy.copy(data),
        public=base,
        primary=data,
        attackers=["ridge regression", *names],
        budgets=Budgets((None,), (5,), (None,), (1, 2), seeds=(0,)),
    )
    assert list(report.attackers) == ["ridge regression", *names]
    assert torch.equal(torch.get_rng_state(), state)
    assert [one.training for one in model.modules()] == [one.training for one in before.modules()]
    for (name, one), other in zip(model.named_parameters(), before.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad, name
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name
