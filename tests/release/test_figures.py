"""Figures come from the record alone and leave the caller's matplotlib as it was."""

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from samples import ACCURACY, attack_report, sample_record

from hf_immunize.release.figures import plot_attacks, plot_spectra, save_figures


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
    (axis,) = figure.axes
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
    assert [axis.get_title() for axis in figure.axes] == ["heads on the frozen features", "fine-tuning"]


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
