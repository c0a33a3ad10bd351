"""What was measured again, as a pull request."""

from __future__ import annotations

import pytest
import yaml
from hub_client import ClientError, HubClient
from hub_repos import TOKEN

FOUND = """
from samples import sample_record
from hf_immunize.release.claims import Claim
from hf_immunize.release.verified import push_verified
from hf_immunize.release.verify import Verification
record = sample_record()
claims = (Claim("primary accuracy, immunized", 0.964, 0.95, 0.01, "differs"),)
measured = {"primary_accuracy": {"immunized": 0.95}}
found = Verification("me/asked", "c0ffee", record, claims, measured)
"""


def test_results_go_up_beside_the_authors_own(hub, tmp_path):
    client = HubClient(hub.url, tmp_path / "home", TOKEN)
    repo = hub.create("me/asked", {"README.md": b"# mine", ".eval_results/hf_immunize.yaml": b"[]"})
    before = dict(repo.files)
    try:
        url = client.run(FOUND + "result = push_verified(found).pr_url")
        assert url.endswith("/me/asked/discussions/1")
        assert repo.files == before
        asked = repo.commits[repo.branches["refs/pr/1"]]
        assert {name: asked[name] for name in before} == before
        written = yaml.safe_load(asked[".eval_results/hf_immunize_verified.yaml"])
        assert [(one["dataset"]["id"], one["value"]) for one in written] == [("someone/birds", 0.95)]
        assert repo.messages[-1] == "Measured again with hf_immunize: not all claims hold"
        with pytest.raises(ClientError, match="sub is a subfolder of me/asked"):
            client.run(FOUND + "push_verified(Verification('me/asked/sub', 'c0ffee', record, claims, measured))")
        with pytest.raises(ClientError, match="Nothing was measured on data of the Hub"):
            client.run(FOUND + "record.primary.revision = None\npush_verified(found)")
        with pytest.raises(ClientError, match="a folder was verified"):
            client.run(FOUND + "push_verified(Verification('x', None, record, claims, measured))")
        assert set(repo.branches) == {"main", "refs/pr/1"}
    finally:
        client.close()
