"""Tables as users have them: what is wrong with one is named."""

import warnings

import numpy as np
import pytest
import torch
from tables import data

from hf_immunize.linear.immunize import immunize_linear
from hf_immunize.linear.inputs import dependent_columns


def test_bad_tables_are_named():
    x_p, y, x_h, _ = data(seed=15)
    with pytest.raises(ValueError, match="6 columns and x_harmful 5"):
        immunize_linear(x_p, y, x_h[:, :5])
    holes = x_p.copy()
    holes[[0, 3], 2] = np.nan
    with pytest.raises(ValueError, match=r"x_primary has NaN or infinite cells in 1 column\(s\).* 2 \(2\)"):
        immunize_linear(holes, y, x_h)
    with pytest.raises(ValueError, match="40 rows"):
        immunize_linear(x_p, y[:-1], x_h)
    with pytest.raises(TypeError, match="real numbers"):
        immunize_linear(np.full((4, 2), "a"), y[:4], x_h)
    with pytest.raises(ValueError, match="class numbers"):
        immunize_linear(x_p, y, x_h, loss="logistic")


def test_constant_duplicate_and_dependent_columns_are_named():
    pandas = pytest.importorskip("pandas")
    x_p, y, x_h, _ = data(seed=16)
    frame = pandas.DataFrame(x_p, columns=list("abcdef"))
    frame["flat"], frame["twin"], frame["sum"] = 1.0, frame["b"], frame["a"] - 2 * frame["c"]
    other = pandas.DataFrame(np.hstack([x_h, x_h[:, :3] ** 2]), columns=frame.columns)
    with pytest.warns(UserWarning, match="constant: flat; duplicate: twin; combination: sum") as caught:
        immunize_linear(frame, y, other, steps=0)
    assert not any(str(one.message).startswith("x_harmful") for one in caught)
    found = dependent_columns(torch.from_numpy(frame.to_numpy(copy=True)))
    assert found == {"constant": [6], "duplicate": [7], "combination": [8]}


def test_full_rank_data_raise_no_warning():
    x_p, y, x_h, _ = data(seed=17)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        immunize_linear(x_p, y, x_h, steps=1)
