"""What is drawn beside a training changes nothing in it."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import torch

from hf_immunize.data.random_numbers import undisturbed_random_numbers


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


def test_the_generators_of_all_gpus_go_on_too(monkeypatch):
    states = {0: "first", 1: "second"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: states.update(dict.fromkeys(states, seed)))
    with undisturbed_random_numbers(seed=2):
        assert states == {0: 2, 1: 2}
    assert states == {0: "first", 1: "second"}


def test_a_forked_child_that_can_use_no_gpu_draws_on(monkeypatch):
    def refused(*args):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", refused)
    monkeypatch.setattr(torch.cuda, "get_rng_state", refused)
    seeded()
    wanted = draws()
    seeded()
    with undisturbed_random_numbers():
        draws()
    assert draws() == wanted
