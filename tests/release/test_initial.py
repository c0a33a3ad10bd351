"""θ0 goes up as the branch ``initial`` of the repository, and is verified there."""

from __future__ import annotations

import pytest
from hub_client import ClientError, HubClient
from hub_repos import TOKEN
from samples import sample_record, tiny_vit

from hf_immunize.release.folder import save_immunized
from hf_immunize.release.initial import initial_files

PUSH = "from hf_immunize import push_to_hub\nresult = push_to_hub({folder!r}, {name!r}{more}).oid"
FIND = "from hf_immunize.release.released import find_release\n"
LOAD = FIND + "result = find_release({name!r}).load('initial').architecture"


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    started = HubClient(hub.url, tmp_path_factory.mktemp("home") / "home", TOKEN)
    yield started
    started.close()


@pytest.fixture
def release(tmp_path):
    model, processor = tiny_vit()
    record = sample_record(base_model_kind="local", base_model="a folder", base_model_revision=None)
    return save_immunized(tmp_path / "release", model, record, processor, beside={"initial": model, "control": model})


def push(client, folder, name, more=""):
    return client.run(PUSH.format(folder=str(folder), name=name, more=more))


def test_it_goes_to_its_branch_and_loads_from_there(hub, client, release):
    oid = push(client, release, "me/pushed")
    repo = hub.repos["me/pushed"]
    assert repo.branches["main"] == oid
    assert not [name for name in repo.files if name.startswith("initial/")]
    assert [name for name in repo.files if name.startswith("control/")]
    branch = repo.commits[repo.branches["initial"]]
    assert set(branch) >= {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"}
    assert branch["model.safetensors"] == (release / "initial" / "model.safetensors").read_bytes()
    assert "immunization.json" not in branch
    assert client.run(LOAD.format(name="me/pushed")) == "ViTForImageClassification"
    code = "from transformers import AutoModelForImageClassification as A\n"
    code += "result = type(A.from_pretrained('me/pushed', revision='initial')).__name__"
    assert client.run(code) == "ViTForImageClassification"


def test_other_weights_on_the_branch_are_not_taken(hub, client, release):
    push(client, release, "me/changed")
    repo = hub.repos["me/changed"]
    files = dict(repo.commits[repo.branches["initial"]])
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    repo.commit("initial", files | {"model.safetensors": bytes(weights)}, "changed")
    with pytest.raises(ClientError, match=r"holds other files than the record was written with: initial/model\.saf"):
        client.run(LOAD.format(name="me/changed"))


def test_a_second_push_replaces_it(hub, client, release):
    push(client, release, "me/again")
    first = hub.repos["me/again"].branches["initial"]
    model, processor = tiny_vit(("one", "two"))
    record = sample_record(base_model_kind="local", base_model="a folder", base_model_revision=None)
    save_immunized(release, model, record, processor, overwrite=True, beside={"initial": model})
    push(client, release, "me/again")
    assert hub.repos["me/again"].branches["initial"] != first
    assert client.run(LOAD.format(name="me/again")) == "ViTForImageClassification"


def test_beside_another_branch_or_a_pull_request_it_stays_in_its_folder(hub, client, release):
    push(client, release, "me/branched", ", revision='v2'")
    repo = hub.repos["me/branched"]
    assert "initial" not in repo.branches
    assert "initial/model.safetensors" in repo.commits[repo.branches["v2"]]
    push(client, release, "me/branched", ", create_pr=True")
    assert "initial/model.safetensors" in repo.commits[repo.branches["refs/pr/1"]]


def test_the_files_are_those_of_its_folder():
    assert initial_files(["initial/config.json", "config.json", "initialised.txt"]) == ["initial/config.json"]
