"""Figures come from the record alone and leave the caller's matplotlib as it was."""

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from samples import attacks, sample_record

from hf_immunize.plots import plot_probe_curves, plot_spectra, save_figures


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


def test_probe_curves_show_every_attacker_model_and_chance():
    figure = plot_probe_curves(sample_record())
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == ["gradient descent", "Adam", "ridge regression"]
    drawn = lines(panels[1])
    assert set(drawn) == {"θ0 (initial)", "control (λ = 0)", "immunized", "chance"}
    np.testing.assert_allclose(drawn["immunized"], [[10, 34.2], [300, 68.4]])
    np.testing.assert_allclose(drawn["chance"][:, 1], 20)


def test_steps_are_ordered_as_numbers():
    record = sample_record()
    curve = {"100": 0.3, "1000": 0.4, "30": 0.2}
    record.results["attacks"] = attacks() | {"attackers": {"Adam": {"immunized": curve}}}
    np.testing.assert_array_equal(lines(plot_probe_curves(record).axes[0])["immunized"][:, 0], [30, 100, 1000])


@pytest.mark.parametrize("results", [{}, {"spectra": {}, "attacks": {}}, {"attacks": {"attackers": {"Adam": {}}}}])
def test_nothing_measured_nothing_drawn(tmp_path, results):
    record = sample_record(results=results)
    assert plot_spectra(record) is None
    assert plot_probe_curves(record) is None
    assert save_figures(record, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_saving_leaves_global_state_alone_and_gives_readable_pngs(tmp_path):
    before, backend = dict(matplotlib.rcParams), matplotlib.rcParams._get_backend_or_none()
    paths = save_figures(sample_record(), tmp_path)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.rcParams._get_backend_or_none() == backend
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "figures/spectra.png",
        "figures/probe_curves.png",
    ]
    for path in paths:
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.01
