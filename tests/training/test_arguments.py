"""Arguments that cannot be say so when they are made."""

from __future__ import annotations

import pytest
from trainers import trainer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambda_primary": -1.0}, "lambda_primary must be a finite number, zero or more, got -1.0"),
        ({"lambda_harmful": float("nan")}, "lambda_harmful must be a finite number"),
        ({"lambda_harmful": "5e-5"}, "YAML reads 5e-5 as a word"),
        ({"rir_group_size": 1}, "rir_group_size must be 2 or more, got 1"),
        ({"remove_unused_columns": True}, "Leave it false"),
        ({"objective": "conditon"}, "condition"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, tiny_net, primary, harmful, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, tiny_net, primary, harmful, **changes)
