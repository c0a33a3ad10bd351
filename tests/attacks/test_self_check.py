"""An attacker that fails where success is known is caught."""

from __future__ import annotations

import pytest
from tiny import Images

from hf_immunize import run_attacks
from hf_immunize.attacks import ATTACKERS, BrokenAttackerError
from hf_immunize.attacks.self_check import self_check


@pytest.mark.parametrize("name", list(ATTACKERS))
def test_every_attacker_passes_the_self_check(name):
    self_check([ATTACKERS[name]])


def test_a_broken_attacker_is_caught_before_any_model_is_attacked(own_attacker, monkeypatch, two_models):
    from hf_immunize.attacks import coordinates, finetune, last_block, probes

    @own_attacker("rate 0")
    def rate_zero(task):
        yield from probes._fits(task, coordinates.unscaled(task), (0.0,), "rate")

    forwards = []
    two_models[0].register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(BrokenAttackerError, match=r"'rate 0' reaches 3\d % on a planted task"):
        run_attacks(*two_models, Images(60), Images(30), attackers="rate 0")
    # Two passes and one of a picture alone tell that its features repeat, one where its head is; no attack began.
    assert len(forwards) == 4
    monkeypatch.setattr(last_block, "TAIL_GRID", (finetune.Setting("SGD", 0.0),))
    with pytest.raises(BrokenAttackerError, match="'last block'"):
        self_check([ATTACKERS["last block"]])
