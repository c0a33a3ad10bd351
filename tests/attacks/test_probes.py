"""The probes, each against an independent fit, and on planted features where success or failure is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import planted
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from hf_immunize.attacks import ATTACKERS
from hf_immunize.attacks.attacker import AttackTask, probe_names
from hf_immunize.attacks.judging import Draw, judge
from hf_immunize.attacks.probes import ADAM_RATES
from hf_immunize.attacks.subject import Material

STEPS = (10, 100, 300)


#: Attackers that condition numbers do not slow, by what was planted.
WHITENING = {"PCA-whitened, gradient descent", "L-BFGS", "ridge regression"}


def accuracy(name, train, labels, test, test_labels, steps=STEPS, seed=0):
    material = Material({"train": train, "test": test})
    draw = Draw.of(material, "features", labels, per_class=None, seed=seed)
    found = judge(ATTACKERS[name], draw, material, test_labels, int(labels.max()) + 1, steps=steps, seed=seed)
    return {step: float(one.correct.double().mean()) for step, one in found.items()}


def test_whitening_may_leave_out_directions_of_noise():
    """Two strong directions tell the classes apart; eighty weak ones, for a hundred rows, are noise blown up."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 3
    strong = 4 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])[labels]
    rows = torch.randn(2000, 82, generator=generator) * 1e-3
    rows[:, :2] += strong + torch.randn(2000, 2, generator=generator)
    task = AttackTask(rows[:100], labels[:100], 3, (100,))
    accuracies = {
        int(fit.setting.split()[0]): float((fit.scores(rows[100:]).argmax(1) == labels[100:]).double().mean())
        for fit in ATTACKERS["PCA-whitened, gradient descent"](task)
        if "step 2.00e+00" in fit.setting
    }
    assert {2, 82} <= set(accuracies)
    assert accuracies[2] > 0.98
    assert accuracies[82] < 0.9


def test_every_probe_reaches_what_scikit_learn_reaches():
    train, labels, test, test_labels = planted()
    logistic = LogisticRegression(C=1e3, max_iter=2000).fit(train, labels).score(test, test_labels)
    squares = Ridge(1.0).fit(train, F.one_hot(labels).double())
    ridge = float((torch.from_numpy(squares.predict(test)).argmax(1) == test_labels).double().mean())
    assert abs(accuracy("ridge regression", train, labels, test, test_labels)[300] - ridge) <= 0.01
    for name in probe_names():
        if name not in ("ridge regression", "k nearest neighbours", "two-layer head"):
            assert accuracy(name, train, labels, test, test_labels)[300] >= logistic - 0.011, name


def test_neighbours_vote_as_scikit_learn_counts_them():
    train, labels, test, _ = planted(200, 4)
    task = AttackTask(train, labels, 4, (1,))
    for fit in ATTACKERS["k nearest neighbours"](task):
        metric, k = fit.setting.split(", k = ")
        centred = [rows - train.mean(0) for rows in (train, test)]
        model = KNeighborsClassifier(int(k), metric="cosine" if metric == "cosine" else "euclidean", algorithm="brute")
        shares = torch.from_numpy(model.fit(centred[0], labels).predict_proba(centred[1]))
        top = shares.topk(2, dim=1).values
        clear = top[:, 0] > top[:, 1] + 1e-9
        assert clear.double().mean() > 0.5
        agree = (fit.scores(test).argmax(1) == shares.argmax(1))[clear].double().mean()
        assert agree >= 0.99, fit.setting


@pytest.mark.parametrize("kind", ["mixed", "diagonal"])
def test_ill_conditioned_features_stop_gradient_descent_and_not_those_who_rescale(kind):
    train, labels, test, test_labels = planted()
    generator = torch.Generator().manual_seed(5)
    scales = torch.logspace(0, -6, 32, dtype=torch.float64)[torch.randperm(32, generator=generator)]
    turn = [torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=torch.float64))[0] for _ in range(2)]
    onto = torch.diag(scales) if kind == "diagonal" else turn[0] @ torch.diag(scales) @ turn[1]
    assert np.linalg.cond(onto.numpy()) == pytest.approx(1e6)
    recovering = WHITENING | ({"standardised, gradient descent", "two-layer head"} if kind == "diagonal" else set())
    for name in probe_names():
        clean = accuracy(name, train, labels, test, test_labels)[300]
        spoilt = accuracy(name, train @ onto, labels, test @ onto, test_labels)[300]
        if name in recovering:
            assert spoilt >= 0.97 * clean, name
        elif name.startswith("gradient descent"):
            assert spoilt < 0.75 * clean, name


def test_without_a_signal_every_probe_is_at_chance():
    train, labels, test, test_labels = planted(seed=3)
    generator = torch.Generator().manual_seed(1)
    labels, test_labels = (one[torch.randperm(len(one), generator=generator)] for one in (labels, test_labels))
    error = math.sqrt(0.25 * 0.75 / len(test))
    for name in probe_names():
        for step, found in accuracy(name, train, labels, test, test_labels).items():
            assert abs(found - 0.25) < 4 * error, (name, step)


@pytest.mark.parametrize("rows", [torch.zeros(60, 5), torch.ones(60, 5), torch.ones(60, 5) * 1e-30])
def test_features_that_say_nothing_end_at_chance_and_not_in_an_error(rows):
    labels = torch.arange(60) % 3
    for name in probe_names():
        found = accuracy(name, rows, labels, rows, labels, steps=(3, 10))
        assert found[10] == pytest.approx(1 / 3), name


def test_scaling_the_features_changes_no_probe():
    train, labels, test, test_labels = planted(300, 8)
    for name in probe_names():
        before = accuracy(name, train, labels, test, test_labels, steps=(10, 30))
        after = accuracy(name, 1e3 * train, labels, 1e3 * test, test_labels, steps=(10, 30))
        assert after == pytest.approx(before, abs=0.011), name


def test_the_grid_of_adam_holds_the_rates_of_practice():
    assert len(ADAM_RATES) == 13
    assert min(ADAM_RATES) == pytest.approx(1e-4)
    assert max(ADAM_RATES) == 1.0
