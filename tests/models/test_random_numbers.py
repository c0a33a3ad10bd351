"""What is drawn beside a training changes nothing in it."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import torch

from hf_immunize.models.random_numbers import undisturbed_random_numbers


def draws():
    return random.random(), float(np.random.rand()), torch.rand(1).item()


def seeded():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_the_generators_go_on_as_if_nothing_was_drawn():
    seeded()
    wanted = [draws(), draws()]
    seeded()
    found = [draws()]
    with contextlib.suppress(KeyError), undisturbed_random_numbers():
        assert draws() == wanted[1]
        raise KeyError
    assert [*found, draws()] == wanted


def test_a_seed_is_that_of_the_inside_alone():
    seeded()
    wanted = draws()
    seeded()
    with undisturbed_random_numbers(seed=2):
        first = draws()
    with undisturbed_random_numbers(seed=2):
        assert draws() == first != wanted
    assert draws() == wanted
