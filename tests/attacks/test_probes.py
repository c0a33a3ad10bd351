"""The probes, each against an independent fit, and on planted features where success or failure is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from hf_immunize.attacks import ATTACKERS
from hf_immunize.attacks.attacker import AttackTask, probe_names
from hf_immunize.attacks.exact import exact_steps
from hf_immunize.attacks.judging import Draw, judge
from hf_immunize.attacks.probes import ADAM_RATES, _whitening
from hf_immunize.attacks.softmax_heads import curvature, softmax_descent, with_bias
from hf_immunize.attacks.subject import Material

STEPS = (10, 100, 300)
RULES = {
    "sgd": lambda one, rate: torch.optim.SGD(one, lr=rate),
    "nesterov": lambda one, rate: torch.optim.SGD(one, lr=rate, momentum=0.9, nesterov=True),
    "adam": lambda one, rate: torch.optim.Adam(one, lr=rate),
}
#: Attackers that condition numbers do not slow, by what was planted.
WHITENING = {"PCA-whitened, gradient descent", "L-BFGS", "ridge regression"}


def planted(n=1200, d=32, n_classes=4, size=0.45, seed=0):
    """Training and test rows: class means plus unit noise, float64."""
    generator = torch.Generator().manual_seed(seed)
    means = size * torch.randn(n_classes, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (2 * n,), generator=generator)
    rows = means[labels] + torch.randn(2 * n, d, generator=generator, dtype=torch.float64)
    return rows[:n], labels[:n], rows[n:], labels[n:]


def accuracy(name, train, labels, test, test_labels, steps=STEPS, seed=0):
    material = Material({"train": train, "test": test})
    draw = Draw.of(material, "features", labels, per_class=None, seed=seed)
    found = judge(ATTACKERS[name], draw, material, test_labels, int(labels.max()) + 1, steps=steps, seed=seed)
    return {step: float(one.correct.double().mean()) for step, one in found.items()}


def one_by_one(rows, labels, n_classes, rule, rate, checkpoints):
    """A head from zero by an optimizer of torch, full batch."""
    head = torch.zeros(rows.shape[1] + 1, n_classes, dtype=rows.dtype, requires_grad=True)
    optimizer = RULES[rule]([head], rate)
    found = {}
    for step in range(1, max(checkpoints) + 1):
        optimizer.zero_grad()
        F.cross_entropy(with_bias(rows) @ head, labels).backward()
        optimizer.step()
        if step in checkpoints:
            found[step] = head.detach().clone()
    return found


@pytest.mark.parametrize("rule", RULES)
def test_a_grid_of_rates_is_each_rate_by_itself_as_torch_takes_it(rule):
    rows, labels, _, _ = planted(150, 9)
    rates = (1e-3, 3e-2, 0.4)
    for step, running, heads in softmax_descent(rows, labels, 4, rates, (1, 7, 30), rule=rule):
        assert running == [0, 1, 2]
        for rate, head in zip(rates, heads, strict=True):
            expected = one_by_one(rows, labels, 4, rule, rate, (step,))[step]
            torch.testing.assert_close(head, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", RULES)
def test_a_rate_that_diverges_disturbs_no_other(rule):
    rows, labels, _, _ = planted(80, 5)
    (_, _, together), (_, _, alone) = (
        list(softmax_descent(rows, labels, 4, rates, (40,), rule=rule, batch_size=16))[-1]
        for rates in ((0.1, math.inf), (0.1,))
    )
    torch.testing.assert_close(together[0], alone[0], rtol=1e-9, atol=1e-12)
    assert not torch.isfinite(together[1]).all()


def test_batches_are_epochs_drawn_by_the_seed():
    rows, labels = torch.eye(8, dtype=torch.float64), torch.arange(8)
    # One epoch of batches of two at the start: each row's own column has moved.
    ((_, _, heads),) = softmax_descent(rows, labels, 8, (1.0,), (4,), batch_size=2, seed=3)
    assert (heads[0][:8].diagonal() > 0).all()
    ((_, _, half),) = softmax_descent(rows, labels, 8, (1.0,), (2,), batch_size=2, seed=3)
    assert (half[0][:8].diagonal() != 0).sum() == 4
    ((_, _, again),) = softmax_descent(rows, labels, 8, (1.0,), (2,), batch_size=2, seed=3)
    ((_, _, other),) = softmax_descent(rows, labels, 8, (1.0,), (2,), batch_size=2, seed=4)
    assert torch.equal(half, again)
    assert not torch.equal(half, other)


def test_only_the_rates_that_fit_best_go_on():
    rows, labels, _, _ = planted(200, 6)
    rates = (1e-6, 1e-4, 0.1, 1e9, 0.3)
    (_, first, _), (_, second, _) = softmax_descent(rows, labels, 4, rates, (5, 20), keep=(5, 2))
    assert first == [0, 1, 2, 3, 4]
    assert second == [2, 4]


@pytest.mark.parametrize("rule", RULES)
def test_a_head_of_fewer_features_is_the_head_fitted_on_those_alone(rule):
    rows, labels, _, _ = planted(150, 9)
    widths = (2, 9, 5)
    ((_, _, heads),) = softmax_descent(rows, labels, 4, (0.1,) * 3, (20,), rule=rule, widths=widths, keep=(10, 3))
    for width, head in zip(widths, heads, strict=True):
        ((_, _, (alone,)),) = softmax_descent(rows[:, :width], labels, 4, (0.1,), (20,), rule=rule)
        torch.testing.assert_close(head[[*range(width), 9]], alone, rtol=1e-9, atol=1e-12)
        assert not head[width:9].any()


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_the_curvature_bounds_the_softmax_hessian(shape):
    rows = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.eigvalsh(rows.T.numpy() @ rows.numpy())[-1] / (2 * shape[0])
    assert curvature(rows) == pytest.approx(expected, rel=1e-10)
    labels = torch.arange(shape[0]) % 2
    hessian = torch.autograd.functional.hessian(
        lambda head: F.cross_entropy(rows @ head.view(-1, 2), labels), torch.zeros(2 * shape[1], dtype=torch.float64)
    )
    # Two classes with equal shares reach the bound.
    assert torch.linalg.eigvalsh(hessian)[-1] == pytest.approx(expected, rel=1e-6)


def test_whitening_gives_unit_covariance_on_the_span():
    rows, _, held, _ = planted(300, 12)
    labels = torch.arange(300) % 2
    whiten, values = _whitening(AttackTask(rows, labels, 2, (1,)))
    torch.testing.assert_close(torch.cov(whiten(rows).mT, correction=0), torch.eye(12).double(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whiten(held)[3:5], whiten(held[3:5]))
    np.testing.assert_allclose(values, np.linalg.svd((rows - rows.mean(0)).numpy(), compute_uv=False), rtol=1e-10)
    # Ten directions in twelve columns, with rounding of float32: the other two are left out and not blown up.
    lost = (rows[:, :10] @ torch.randn(10, 12, dtype=torch.float64)).float()
    whiten, values = _whitening(AttackTask(lost, labels, 2, (1,)))
    assert whiten(lost).shape == (300, 10)
    assert len(values) == 10
    assert _whitening(AttackTask(torch.ones(5, 3), labels[:5], 2, (1,))) is None


def test_whitening_may_leave_out_directions_of_noise():
    """Two strong directions tell the classes apart; eighty weak ones, for a hundred rows, are noise blown up."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 3
    strong = 4 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])[labels]
    rows = torch.randn(2000, 82, generator=generator) * 1e-3
    rows[:, :2] += strong + torch.randn(2000, 2, generator=generator)
    task = AttackTask(rows[:100], labels[:100], 3, (300,))
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


@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_the_exact_steps_are_those_that_gradient_descent_takes(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, shape[1]).double()
    labels = torch.arange(shape[0]) % 3
    y = F.one_hot(labels, 3).double().numpy()
    a = x.numpy()
    best = np.linalg.lstsq(a, y, rcond=None)[0]
    least = np.sum((a @ best - y) ** 2)
    head, rate = np.zeros((shape[1], 3)), 1 / np.linalg.norm(a, 2) ** 2
    whole = np.sum(y**2) - least
    expected, step = {}, 0
    while len(expected) < 3:
        left = (np.sum((a @ head - y) ** 2) - least) / whole
        expected |= {share: step for share in (0.5, 0.1, 0.01) if left <= share and share not in expected}
        head -= rate * a.T @ (a @ head - y)
        step += 1
    assert exact_steps(x, labels, 3) == expected


def test_exact_steps_of_a_direction_that_is_never_fitted():
    x = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64)).repeat(10, 1)
    assert exact_steps(x, torch.arange(20) % 2, 2) == {0.5: 1, 0.1: None, 0.01: None}
    assert set(exact_steps(torch.zeros(4, 2), torch.arange(4) % 2, 2).values()) == {None}
