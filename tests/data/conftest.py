"""Fixtures of the tests of the data."""

from __future__ import annotations

import pytest
from tiny import picture_dataset


@pytest.fixture
def pictures():
    return picture_dataset(12, n_classes=3)
