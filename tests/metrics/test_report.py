"""The paper's protocol of groups, and how the sizes of groups are told."""

from __future__ import annotations

import pytest
import torch

from hf_immunize.metrics.report import Protocol


def test_the_protocol_draws_groups_without_replacement():
    groups = Protocol(groups=5, group_size=30, seed=1).indices(40)
    assert len(groups) == 5
    assert all(len(set(rows.tolist())) == 30 and rows.min() >= 0 and rows.max() < 40 for rows in groups)
    assert not torch.equal(groups[0], groups[1])
    again, other = Protocol(5, 30, 1).indices(40), Protocol(5, 30, 2).indices(40)
    assert all(torch.equal(a, b) for a, b in zip(groups, again, strict=True))
    assert not torch.equal(groups[0], other[0])
    assert [len(rows) for rows in Protocol(2, 100).indices(12)] == [12, 12]
    assert (Protocol().groups, Protocol().group_size) == (20, 100)


@pytest.mark.parametrize(("groups", "size"), [(0, 10), (3, 1), (-1, 100)])
def test_a_protocol_that_cannot_be_says_so(groups, size):
    with pytest.raises(ValueError, match=f"groups ≥ 1 and group_size ≥ 2, got {groups} and {size}"):
        Protocol(groups, size)
