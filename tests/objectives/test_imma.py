"""IMMA: the adaptation of the head, its value and its gradient."""

import pytest
import torch
from spectral import features, numpy_spectrum

from hf_immunize.objectives.imma import IMMA


def adapted_by_autograd(x, labels, steps, step):
    """The inner problem of IMMA by autograd of its loss, with the graph kept through every step."""
    regression = labels.is_floating_point()
    targets = labels.reshape(len(x), -1) if regression else labels
    width = targets.shape[1] if regression else int(labels.max()) + 1

    def loss(head):
        outputs = x @ head
        if regression:
            return (outputs - targets).square().sum() / (2 * len(x))
        return torch.nn.functional.cross_entropy(outputs, targets)

    head = torch.zeros(x.shape[1], width, dtype=x.dtype, requires_grad=True)
    for _ in range(steps):
        head = head - step * torch.autograd.grad(loss(head), head, create_graph=True)[0]
    return loss(head)


@pytest.mark.parametrize(
    "labels",
    [torch.linspace(-1, 1, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 2, 1])],
    ids=["regression", "classes"],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_imma_value_and_gradient_go_through_the_adaptation(labels, steps):
    x = features((8, 3), 13)
    part = IMMA(lambda_harmful=1.7, inner_steps=steps, inner_learning_rate=0.1)(x.detach(), x, labels)["imma"]
    (gradient,) = torch.autograd.grad(part, x)
    reference = -1.7 * adapted_by_autograd(x, labels, steps, 0.1)
    (expected,) = torch.autograd.grad(reference, x)
    assert part.item() == pytest.approx(reference.item(), rel=1e-12)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_imma_differs_from_the_first_order_gradient_at_the_adapted_head():
    x, y = features((8, 3), 14), torch.linspace(-1, 1, 8, dtype=torch.float64)
    (full,) = torch.autograd.grad(IMMA(inner_steps=3, inner_learning_rate=0.1)(x, x, y)["imma"], x)
    head = torch.zeros(3, dtype=torch.float64)
    for _ in range(3):
        head = head - 0.1 * x.detach().T @ (x.detach() @ head - y) / 8
    (stopped,) = torch.autograd.grad(-(x @ head - y).square().sum() / 16, x)
    assert (full - stopped).norm() > 0.1 * full.norm()


def test_a_step_against_imma_raises_the_harmful_loss_after_adaptation():
    x, labels = features((30, 4), 15), torch.randint(0, 3, (30,), generator=torch.Generator().manual_seed(0))
    objective = IMMA(inner_steps=5, inner_learning_rate=0.2)
    before = objective.adapted_loss(x, labels)
    before.neg().backward()
    assert objective.adapted_loss((x - 0.1 * x.grad).detach(), labels) > before


def test_imma_default_inner_step_does_not_depend_on_the_features_scale():
    x, y = features((10, 4), 16).detach(), torch.linspace(0, 1, 10, dtype=torch.float64)
    objective = IMMA(inner_steps=6)
    assert objective.adapted_loss(100 * x, y).item() == pytest.approx(objective.adapted_loss(x, y).item(), rel=1e-9)


@pytest.mark.parametrize("shape", [(10, 4), (4, 10)])
@pytest.mark.parametrize("classes", [False, True])
def test_imma_default_inner_step_is_one_over_the_largest_curvature(shape, classes):
    x = features(shape, 22).detach()
    y = torch.arange(shape[0]) % 2 if classes else torch.linspace(0, 1, shape[0], dtype=torch.float64)
    largest = numpy_spectrum(x)[0] / shape[0] * (0.5 if classes else 1.0)
    default, given = IMMA(inner_steps=3), IMMA(inner_steps=3, inner_learning_rate=1 / largest)
    assert default.adapted_loss(x, y).item() == pytest.approx(given.adapted_loss(x, y).item(), rel=1e-9)


def test_imma_asks_for_labels_and_checks_them():
    x = features((4, 2), 17)
    with pytest.raises(ValueError, match="needs the labels"):
        IMMA()(x, x)
    with pytest.raises(ValueError, match="as many labels"):
        IMMA()(x, x, torch.zeros(3))
    with pytest.raises(ValueError, match="n_classes"):
        IMMA(n_classes=2)(x, x, torch.tensor([0, 1, 2, 1]))
    with pytest.raises(ValueError, match="inner_steps"):
        IMMA(inner_steps=0)
    with pytest.raises(ValueError, match="inner_learning_rate"):
        IMMA(inner_learning_rate=-1.0)
