"""Attackers: fits of the harmful task on a released model, and the suite that takes the worst case."""

from hf_immunize.attacks import last_block as last_block
from hf_immunize.attacks import probes as probes
from hf_immunize.attacks import repairs as repairs
from hf_immunize.attacks import whole as whole
from hf_immunize.attacks.attacker import ATTACKERS, Attacker, AttackTask, Fit, attacker
from hf_immunize.attacks.judging import Budgets
from hf_immunize.attacks.on_features import attack_features
from hf_immunize.attacks.report import AttackReport
from hf_immunize.attacks.self_check import BrokenAttackerError
from hf_immunize.attacks.suite import run_attacks

__all__ = [
    "ATTACKERS",
    "AttackReport",
    "AttackTask",
    "Attacker",
    "BrokenAttackerError",
    "Budgets",
    "Fit",
    "attack_features",
    "attacker",
    "run_attacks",
]
