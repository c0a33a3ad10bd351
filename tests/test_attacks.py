"""Every attacker against an independent fit of the same kind, and the report's strongest."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Images, TinyNet, picture_dataset
from samples import tiny_vit

from hf_immunize import run_attacks
from hf_immunize.attacks import PROBES, Standardizer, fit_probe, probe_report
from hf_immunize.attacks.probes import ADAM_RATES, RIDGE_PENALTIES
from hf_immunize.evaluation import Extracted, extract_features

STEPS = (1, 3, 10, 40)


def task(n=150, d=12, n_classes=4, noise=2.0, decades=2.0, seed=0):
    """Rows to fit on and to judge by: class means plus noise in directions of very different scale, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(n_classes, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (2 * n,), generator=generator)
    rows = means[labels] + noise * torch.randn(2 * n, d, generator=generator, dtype=torch.float64)
    rows = 3 + rows * torch.logspace(0, -decades, d, dtype=torch.float64)
    return rows[:n], labels[:n], rows[n:], labels[n:]


def share(logits, labels):
    return (logits.argmax(1) == labels).double().mean().item()


def descended(train, labels, test, n_classes, optimizer_of, steps):
    """A linear head from zero by an optimizer of torch, full batch, and its test logits after each of the steps."""
    head = torch.nn.Linear(train.shape[1], n_classes, dtype=train.dtype)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = optimizer_of(head.parameters())
    found = {}
    for step in range(1, max(steps) + 1):
        optimizer.zero_grad()
        F.cross_entropy(head(train), labels).backward()
        optimizer.step()
        if step in steps:
            found[step] = head(test).detach()
    return found


def lipschitz(rows):
    """Of the softmax loss with a bias, by eigenvalues of the Gram."""
    padded = np.concatenate([rows.numpy(), np.ones((len(rows), 1))], axis=1)
    return np.linalg.eigvalsh(padded.T @ padded)[-1] / (2 * len(rows))


@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_descent_takes_the_constant_step_one_over_l(seed):
    train, labels, test, test_labels = task(seed=seed)
    rate = 1 / lipschitz(train)
    logits = descended(train, labels, test, 4, lambda parameters: torch.optim.SGD(parameters, lr=rate), STEPS)
    expected = {step: share(one, test_labels) for step, one in logits.items()}
    assert len(set(expected.values())) > 1
    assert fit_probe("gradient descent", train, labels, test, test_labels, steps=STEPS) == pytest.approx(expected)


def test_with_one_over_l_the_loss_never_rises():
    train, labels, _, _ = task(noise=0.5)
    for shift in (0.0, 30.0):
        rate = 1 / lipschitz(train + shift)
        values = [
            F.cross_entropy(one, labels).item()
            for one in descended(
                train + shift, labels, train + shift, 4, lambda p, rate=rate: torch.optim.SGD(p, lr=rate), range(1, 60)
            ).values()
        ]
        assert all(later <= earlier for earlier, later in pairwise(values))


def test_whitening_gives_unit_covariance_on_the_span():
    train, _, test, _ = task()
    whiten = Standardizer(train, torch.finfo(torch.float64).eps)
    covariance = torch.cov(whiten(train).mT, correction=0)
    torch.testing.assert_close(covariance, torch.eye(12, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whiten(train).mean(0), torch.zeros(12, dtype=torch.float64), rtol=0, atol=1e-9)
    # The test rows go through the map of the training rows: affine, the same for each row.
    torch.testing.assert_close(whiten(test)[3:5], whiten(test[3:5]))
    # Ten directions in twelve columns, with rounding of float32: those two are left out and not blown up.
    lost = (train[:, :10] @ torch.randn(10, 12, dtype=torch.float64)).float().double()
    whitened = Standardizer(lost, torch.finfo(torch.float32).eps)(lost)
    assert whitened.shape == (150, 10)
    torch.testing.assert_close(torch.cov(whitened.mT, correction=0), torch.eye(10).double(), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="nothing to whiten"):
        Standardizer(torch.ones(5, 3, dtype=torch.float64), 1e-16)


def test_the_whitened_attacker_is_gradient_descent_on_whitened_rows():
    train, labels, test, test_labels = task(decades=3)
    mean, covariance = train.mean(0), np.cov(train.numpy().T, bias=True)
    values, directions = np.linalg.eigh(covariance)
    by = torch.from_numpy(directions / np.sqrt(values))
    plain = fit_probe("gradient descent", (train - mean) @ by, labels, (test - mean) @ by, test_labels, steps=STEPS)
    whitened = fit_probe("PCA-whitened gradient descent", train, labels, test, test_labels, steps=STEPS)
    assert whitened == pytest.approx(plain)
    # What whitening is for: badly scaled features cost it nothing.
    scaled = [rows * torch.logspace(0, -4, 12, dtype=torch.float64) for rows in (train, test)]
    again = fit_probe("PCA-whitened gradient descent", scaled[0], labels, scaled[1], test_labels, steps=STEPS)
    assert again == pytest.approx(whitened)


def test_adam_is_the_best_of_its_rates_on_raw_and_on_standardised_rows():
    train, labels, test, test_labels = (one.float() if one.is_floating_point() else one for one in task())
    mean, spread = train.mean(0), train.std(0)
    expected = dict.fromkeys(STEPS, 0.0)
    for rows, judged in ((train, test), ((train - mean) / spread, (test - mean) / spread)):
        for rate in ADAM_RATES:
            by = descended(rows, labels, judged, 4, lambda one, rate=rate: torch.optim.Adam(one, lr=rate), STEPS)
            expected = {step: max(expected[step], share(by[step], test_labels)) for step in STEPS}
    found = fit_probe("Adam", train, labels, test, test_labels, steps=STEPS)
    # One of 150 rows may fall on the other side of a boundary by float32 rounding.
    assert found == pytest.approx(expected, abs=1.01 / 150)


@pytest.mark.parametrize(("n", "d"), [(150, 12), (20, 60)])
def test_ridge_is_the_normal_equations_with_the_best_penalty(n, d):
    train, labels, test, test_labels = task(n=n, d=d, noise=1.0)
    x, y = train.numpy() - train.numpy().mean(0), np.eye(4)[labels.numpy()]
    accuracies = []
    for penalty in RIDGE_PENALTIES:
        alpha = penalty * np.linalg.norm(x, 2) ** 2
        weight = np.linalg.solve(x.T @ x + alpha * np.eye(d), x.T @ (y - y.mean(0)))
        logits = (test.numpy() - train.numpy().mean(0)) @ weight + y.mean(0)
        accuracies.append((logits.argmax(1) == test_labels.numpy()).mean())
    assert len(set(accuracies)) > 1
    found = fit_probe("ridge regression", train, labels, test, test_labels, steps=(5, 7))
    assert found == pytest.approx({5: max(accuracies), 7: max(accuracies)})


@pytest.mark.parametrize("name", PROBES)
def test_a_separable_task_is_learnt_and_random_labels_are_not(name):
    train, labels, test, test_labels = task(noise=0.02, decades=0.5)
    assert fit_probe(name, train, labels, test, test_labels, steps=(300,))[300] == 1.0
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(800, 12, generator=generator)
    noise = torch.randint(4, (800,), generator=generator)
    found = fit_probe(name, rows[:400], noise[:400], rows[400:], noise[400:], steps=(100,))
    # Five standard deviations of 400 draws around a quarter.
    assert abs(found[100] - 0.25) < 5 * (0.25 * 0.75 / 400) ** 0.5


@pytest.mark.parametrize("name", PROBES)
def test_steps_are_read_on_the_way_of_one_fit(name):
    rows = task()
    long = fit_probe(name, *rows, steps=(3, 10, 40))
    assert list(long) == [3, 10, 40]
    assert fit_probe(name, *rows, steps=(10,))[10] == long[10]


def test_a_class_that_only_the_test_holds_is_counted():
    train, labels, test, test_labels = task(n_classes=3)
    test_labels = torch.where(torch.arange(150) < 30, 3, test_labels)
    for name in PROBES:
        assert fit_probe(name, train, labels, test, test_labels, steps=(5,))[5] <= 0.8


def test_a_probe_that_cannot_be_fitted_says_so():
    train, labels, test, test_labels = task()
    with pytest.raises(ValueError, match=r"Unknown attacker 'rigde'. Known ones: .*ridge regression"):
        fit_probe("rigde", train, labels, test, test_labels)
    with pytest.raises(ValueError, match="equal, positive lengths, got 150/149 for training and 150/150"):
        fit_probe("Adam", train, labels[1:], test, test_labels)
    with pytest.raises(ValueError, match="equal, positive lengths"):
        fit_probe("Adam", train, labels, test[:0], test_labels[:0])


def test_the_report_holds_every_attacker_and_names_the_strongest():
    easy, hard = task(noise=0.02, decades=0.5), task(noise=3.0, seed=1)
    extracted = {
        name: {
            "train": Extracted(rows[0], torch.zeros(150, 4), rows[1]),
            "test": Extracted(rows[2], torch.zeros(150, 4), rows[3]),
        }
        for name, rows in (("initial", easy), ("immunized", hard))
    }
    report = probe_report(extracted, steps=(10, 300))
    assert set(report.accuracy) == set(PROBES)
    assert report.steps == [10, 300]
    last = {name: fit_probe(name, *hard, steps=(300,))[300] for name in PROBES}
    best = max(last, key=last.get)
    assert report.strongest("immunized") == (best, last[best])
    assert report.strongest("initial")[1] == 1.0
    assert report.chance == pytest.approx(max(easy[3].tolist().count(one) for one in range(4)) / 150)
    assert (report.n_train, report.n_test) == (150, 150)
    values = report.to_dict()
    assert values["strongest"]["immunized"] == {"attacker": best, "accuracy": last[best]}
    assert values["attackers"][best]["immunized"]["300"] == last[best]
    lines = str(report).splitlines()
    assert lines[0].split() == ["attacker", "initial", "immunized"]
    assert f"{100 * last['ridge regression']:.1f}%" in next(line for line in lines if line.startswith("ridge"))


def test_models_are_attacked_on_their_own_features():
    torch.manual_seed(0)
    models = {"initial": TinyNet(), "immunized": TinyNet(), "control": TinyNet()}
    train, test = Images(60, n_classes=4, seed=2), Images(40, n_classes=4, seed=2)
    report = run_attacks(
        models["immunized"],
        models["initial"],
        train,
        test,
        control=models["control"],
        attackers=("ridge regression", "Adam"),
        steps=(5,),
        batch_size=16,
    )
    assert list(report.accuracy) == ["ridge regression", "Adam"]
    for name, model in models.items():
        rows = [extract_features(model, data) for data in (train, test)]
        expected = fit_probe(
            "ridge regression", rows[0].features, rows[0].labels, rows[1].features, rows[1].labels, steps=(5,)
        )
        assert report.accuracy["ridge regression"][name] == expected
    without = run_attacks(models["immunized"], models["initial"], train, test, attackers=("Adam",), steps=(2,))
    assert set(without.accuracy["Adam"]) == {"initial", "immunized"}
    with pytest.raises(ValueError, match="harmful train images of 'initial' have no labels"):
        run_attacks(models["immunized"], models["initial"], Images(20, labels=False), test)


def test_raw_pictures_are_attacked_through_the_image_processor():
    model, processor = tiny_vit(("dark", "bright"))
    other, _ = tiny_vit(("dark", "bright"))
    report = run_attacks(
        other,
        model,
        picture_dataset(24, seed=1),
        picture_dataset(16, seed=2),
        image_processor=processor,
        attackers=("ridge regression",),
    )
    # Brightness tells the classes apart, and a fresh network does not lose it.
    assert report.strongest("initial") == ("ridge regression", 1.0)
