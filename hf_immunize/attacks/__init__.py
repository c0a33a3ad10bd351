"""Attackers: fits of the harmful task on released features, and the suite that takes the worst case."""

from hf_immunize.attacks.probes import PROBES, Standardizer, fit_probe
from hf_immunize.attacks.suite import AttackReport, probe_report, run_attacks

__all__ = ["PROBES", "AttackReport", "Standardizer", "fit_probe", "probe_report", "run_attacks"]
