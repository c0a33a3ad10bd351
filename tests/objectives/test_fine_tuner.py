"""Simulated fine-tuners: their steps and their gradient, against copies of the network that an optimizer trains."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from fine_tuning import STEP, batch, network, view
from torch.nn import functional

from hf_immunize.objectives.fine_tuner import FineTuner, Traits, rows_of

PLAIN = Traits("AdamW", 1e-2, last_block=False, redrawn=False, adapters=False, still=False, life=60, seed=3)


def traits(**changes):
    return Traits(**{**PLAIN.__dict__, **changes})


class Copied:
    """The same fine-tuning by a copy of the network with batch statistics, its head and an optimizer of torch."""

    def __init__(self, model, tuner):
        self.model = copy.deepcopy(model)
        self.head = [one.detach().clone().requires_grad_() for one in tuner.head]
        own = dict(self.model.named_parameters())
        trained = [own[name] for name in tuner.own]
        one = tuner.traits
        leaves = [*trained, *self.head]
        self.leaves = leaves
        self.optimizer = (
            torch.optim.AdamW(leaves, lr=one.rate, weight_decay=0.0)
            if one.optimizer == "AdamW"
            else torch.optim.SGD(leaves, lr=one.rate, momentum=0.9, nesterov=True)
        )
        self.model.eval()
        norm = self.model.norm.train(not one.still and "norm.weight" in tuner.own)
        # What batches say of the statistics does not stay.
        norm.momentum = 0.0

    def logits(self, images):
        features = self.model.body(images)
        centred = features - features.mean(0)
        normed = centred / (centred.square().mean(0) + 1e-5).sqrt()
        return normed @ self.head[0].mT + self.head[1]

    def step(self, images, labels):
        self.optimizer.zero_grad()
        functional.cross_entropy(self.logits(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(self.leaves, 1.0)
        self.optimizer.step()


@pytest.mark.parametrize("changes", [{}, {"optimizer": "SGD", "rate": 0.05}, {"still": True}, {"last_block": True}])
def test_its_steps_are_those_of_a_copy_that_an_optimizer_trains(changes):
    model = network()
    tuner = FineTuner(traits(**changes), view(model), 3)
    copied = Copied(model, tuner)
    images = batch(2, n=16)
    tuner.fine_tune(view(model), images, 5)
    # All sixteen are one batch: its order does not matter to a mean.
    for _ in range(5):
        copied.step(images["pixel_values"], images["labels"])
    theirs = dict(copied.model.named_parameters())
    assert tuner.age == 5
    assert set(tuner.own) == (
        {name for name in theirs if name.startswith(("last", "score"))} if "last_block" in changes else set(theirs)
    )
    for name, one in tuner.own.items():
        # AdamW makes steps of what rounding leaves where a batch normalisation takes a bias out again.
        torch.testing.assert_close(one, theirs[name], rtol=1e-6, atol=1e-7)
    assert not torch.equal(tuner.own["last.weight"], model.last.weight)
    torch.testing.assert_close(tuner.head[0], copied.head[0], rtol=1e-6, atol=1e-7)


def test_the_models_own_weights_and_statistics_do_not_move():
    model = network()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    tuner = FineTuner(PLAIN, view(model), 3)
    tuner.fine_tune(view(model), batch(2, n=16), 3)
    tuner.ignorance(view(model), batch(4))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())
    assert not any(one.training for one in model.modules() if isinstance(one, torch.nn.BatchNorm1d))


def test_ignorance_is_the_divergence_from_uniform_and_its_gradient_stands_at_its_own_weights():
    model = network()
    tuner = FineTuner(traits(rate=0.05), view(model), 3)
    tuner.fine_tune(view(model), batch(2, n=16), 4)
    value, slopes = tuner.ignorance(view(model), batch(4))
    copied = Copied(model, tuner)
    with torch.no_grad():
        for name, one in copied.model.named_parameters():
            one.copy_(tuner.own[name])
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)

    def divergence():
        logs = copied.logits(batch(4)["pixel_values"]).log_softmax(1)
        return functional.kl_div(logs, uniform.expand_as(logs), reduction="batchmean")

    assert value.item() == pytest.approx(divergence().item(), rel=1e-10)
    for name, one in copied.model.named_parameters():
        if name not in slopes:
            assert name.startswith("score")
            continue
        index = tuple(0 for _ in one.shape)
        found = []
        for sign in (1, -1):
            with torch.no_grad():
                one[index] += sign * STEP
                found.append(divergence().item())
                one[index] -= sign * STEP
        assert slopes[name][index].item() == pytest.approx((found[0] - found[1]) / (2 * STEP), rel=1e-4, abs=1e-8)


def test_it_follows_the_model_and_keeps_its_own_change():
    model = network()
    tuner = FineTuner(PLAIN, view(model), 3)
    tuner.fine_tune(view(model), batch(2, n=16), 3)
    change = {name: one.detach() - model.get_parameter(name) for name, one in tuner.own.items()}
    with torch.no_grad():
        for one in model.parameters():
            one.add_(torch.randn_like(one))
    tuner.follow(view(model))
    for name, one in tuner.own.items():
        torch.testing.assert_close(one - model.get_parameter(name), change[name])


def test_what_it_drew_anew_is_its_own_and_gives_the_model_no_gradient():
    model = network()
    tuner = FineTuner(traits(redrawn=True, last_block=True), view(model), 3)
    fresh = {name for name in tuner.own if not torch.equal(tuner.own[name], model.get_parameter(name))}
    assert fresh == {"last.weight", "last.bias"}
    kept = {name: tuner.own[name].clone() for name in fresh}
    with torch.no_grad():
        for one in model.parameters():
            one.add_(1.0)
    tuner.follow(view(model))
    assert all(torch.equal(tuner.own[name], one) for name, one in kept.items())
    _, slopes = tuner.ignorance(view(model), batch(4))
    assert "last.weight" not in slopes
    assert "body.0.weight" in slopes or "first.weight" in slopes


def test_adapters_change_matrices_by_a_low_rank_and_leave_statistics_still():
    model = network()
    tuner = FineTuner(traits(adapters=True, rate=0.05), view(model), 3)
    assert not tuner.own
    start = tuner.weights(view(model))
    assert all(torch.equal(one, model.get_parameter(name)) for name, one in start.items())
    tuner.fine_tune(view(model), batch(2, n=16), 4)
    moved = tuner.weights(view(model))
    changed = {name for name, one in moved.items() if not torch.equal(one, model.get_parameter(name))}
    assert changed
    assert all(moved[name].ndim > 1 for name in changed)


def test_a_state_goes_on_as_if_it_had_never_stopped(tmp_path):
    for changes in ({}, {"redrawn": True, "last_block": True}, {"adapters": True}, {"optimizer": "SGD", "rate": 0.05}):
        model = network()
        tuner = FineTuner(traits(**changes), view(model), 3)
        tuner.fine_tune(view(model), batch(2, n=16), 3)
        torch.save(tuner.state_dict(), tmp_path / "state.pt")
        again = FineTuner.of_state(torch.load(tmp_path / "state.pt", weights_only=True), view(model))
        for one in (tuner, again):
            one.follow(view(model, seed=5))
            one.fine_tune(view(model, seed=5), batch(6, n=16), 3)
        assert again.age == 6
        for mine, theirs in zip(again._leaves(), tuner._leaves(), strict=True):
            assert torch.equal(mine, theirs)


def test_traits_belong_to_their_seed_and_cover_every_kind():
    found = [Traits.drawn(seed, (60, 120)) for seed in range(200)]
    assert found[7] == Traits.drawn(7, (60, 120))
    assert {one.optimizer for one in found} == {"AdamW", "SGD"}
    for name in ("last_block", "redrawn", "adapters", "still"):
        assert 10 < sum(getattr(one, name) for one in found) < 190
    assert not any(one.adapters and one.last_block for one in found)
    assert {one.life for one in found} == {60, 120}
    for one in found:
        low, high = (6e-4, 3e-3) if one.optimizer == "AdamW" else (0.02, 0.12)
        assert low <= one.rate <= high
    assert math.isfinite(sum(one.rate for one in found))


def test_rows_keep_every_input_of_the_model():
    for layout in (torch.contiguous_format, torch.channels_last):
        images = torch.randn(6, 3, 4, 4).contiguous(memory_format=layout)
        for rows in (torch.tensor([4, 1]), slice(2, 4)):
            found = rows_of({"pixel_values": images, "labels": torch.arange(6)}, rows)
            assert torch.equal(found["pixel_values"], images[rows])
            assert found["pixel_values"].is_contiguous(memory_format=layout)
            assert found["labels"].tolist() == torch.arange(6)[rows].tolist()
