"""Figures come from the record alone and leave the caller's matplotlib as it was."""

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from samples import ACCURACY, attack_report, sample_record

from hf_immunize.release.figures import plot_attacks, plot_spectra, plot_trials, save_figures


def lines(axis):
    return {line.get_label(): line.get_xydata() for line in axis.get_lines()}


def test_spectra_show_both_models_of_both_tasks():
    record = sample_record()
    harmful, primary = plot_spectra(record).axes
    assert "someone/faces" in harmful.get_title()
    assert "someone/birds" in primary.get_title()
    assert harmful.get_yscale() == "log"
    drawn = lines(harmful)
    assert set(drawn) == {"θ0 (initial), rank 20", "immunized, rank 20"}
    np.testing.assert_allclose(drawn["immunized, rank 20"][:, 1], record.results["spectra"]["immunized_harmful"])
    np.testing.assert_array_equal(drawn["immunized, rank 20"][:, 0], np.arange(1, 21))


def test_a_thinned_spectrum_keeps_its_true_indices():
    record = sample_record()
    record.results["spectra"]["ranks"]["initial_harmful"] = 39
    x = lines(plot_spectra(record).axes[0])["θ0 (initial), rank 39"][:, 0]
    np.testing.assert_array_equal(x, np.arange(1, 40, 2))


def test_attacks_show_the_worst_case_of_every_model_and_chance():
    figure = plot_attacks(attack_report())
    axis, _ = figure.axes
    assert axis.get_title() == "heads on the frozen features"
    drawn = lines(axis)
    assert set(drawn) >= {"θ0 (initial)", "control (λ = 0)", "immunized", "random weights", "chance"}
    np.testing.assert_allclose(drawn["immunized"], [[10, 34.2], [300, 68.4]])
    np.testing.assert_allclose(drawn["chance"][:, 1], 20)
    thin = [line for line in axis.get_lines() if line.get_linewidth() < 1 and line.get_label().startswith("_")]
    assert len(thin) == 3 * 4
    bold = max(line.get_linewidth() for line in axis.get_lines())
    assert {line.get_label() for line in axis.get_lines() if line.get_linewidth() == bold} == {
        "θ0 (initial)",
        "control (λ = 0)",
        "immunized",
        "random weights",
    }


def test_each_kind_of_attacker_has_a_panel():
    accuracy = ACCURACY | {"last block": dict.fromkeys(("initial", "immunized", "scratch"), 0.9) | {"control": 0.8}}
    figure = plot_attacks(attack_report(accuracy))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["heads on the frozen features", "fine-tuning"]


def test_uplift_stands_below_where_there_are_ceilings():
    everything = {name: one | {"primary_only": 0.5, "public": one["initial"] + 0.01} for name, one in ACCURACY.items()}
    above, below = plot_attacks(attack_report(everything)).axes
    assert lines(above).keys() >= {"primary task alone", "public weights"}
    drawn = lines(below)
    assert {name for name in drawn if not name.startswith("_")} == {"θ0 (initial)", "control (λ = 0)", "immunized"}
    # The largest ceiling is the public weights' 96.4 % at 300 steps, half of that at 10.
    np.testing.assert_allclose(drawn["immunized"], [[10, 34.2 - 48.2], [300, 68.4 - 96.4]], atol=1e-9)
    assert below.get_title() == "over the largest of random weights, primary task alone, public weights"
    bare = {name: {model: one[model] for model in ("initial", "immunized")} for name, one in ACCURACY.items()}
    assert len(plot_attacks(attack_report(bare)).axes) == 1


def test_the_best_so_far_is_a_staircase_over_settings():
    report = attack_report()
    assert plot_trials(report) is None
    steps = {"tried": 9, "improvements": [search(1, 0.3), search(4, 0.7)]}
    report.trials["probe"] = {model: {"10": steps | {"improvements": []}, "300": steps} for model in report.models}
    (axis,) = plot_trials(report).axes
    assert axis.get_title() == "heads, 300 steps"
    stairs = lines(axis)["immunized"]
    np.testing.assert_allclose(stairs, [[1, 30], [4, 70], [9, 70]])


def search(trial, accuracy):
    return {"trial": trial, "attacker": "L-BFGS", "setting": "", "validation": accuracy, "accuracy": accuracy}


@pytest.mark.parametrize("results", [{}, {"spectra": {}, "attacks": {}}])
def test_nothing_measured_nothing_drawn(tmp_path, results):
    record = sample_record(results=results)
    assert plot_spectra(record) is None
    assert plot_attacks(None) is None
    assert save_figures(record, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_saving_leaves_global_state_alone_and_gives_readable_pngs(tmp_path):
    before, backend = dict(matplotlib.rcParams), matplotlib.rcParams._get_backend_or_none()
    paths = save_figures(sample_record(), tmp_path)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.rcParams._get_backend_or_none() == backend
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "figures/spectra.png",
        "figures/attacks.png",
    ]
    for path in paths:
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.01
