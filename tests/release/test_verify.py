"""Push → verify over the loopback Hub from an empty home, and what the pieces of it refuse."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from datasets import load_from_disk
from hub_client import ClientError, HubClient
from hub_repos import TOKEN, Fault
from packages import needs_images
from samples import tiny_timm, tiny_vit
from tiny import picture_dataset

from hf_immunize.attacks.judging import Budgets
from hf_immunize.data.packaged import digits
from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.random_weights import random_weights
from hf_immunize.release.card import create_model_card
from hf_immunize.release.folder import save_immunized
from hf_immunize.release.measure import measure
from hf_immunize.release.record import ImmunizationRecord
from hf_immunize.release.verify import verify
from hf_immunize.training.recording import data_facts

VERIFY = """
from datasets import load_from_disk
from hf_immunize import verify
pair = lambda name: (load_from_disk(f"{folder}/{{name}}/train"), load_from_disk(f"{folder}/{{name}}/test"))
found = verify({name!r}, primary=pair("primary"), harmful=pair("harmful"), attackers={attackers})
result = [found.holds, found.revision, {{one.name: one.status for one in found.claims if one.asked}}, str(found)]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A release of a model that nobody could fetch, with θ0 beside it, and the data that it was measured on."""
    from hf_immunize.data.task import load_task

    folder = tmp_path_factory.mktemp("world")
    tasks = {}
    for seed, task in enumerate(("primary", "harmful")):
        train, test = picture_dataset(24, seed=seed), picture_dataset(30, seed=seed + 10)
        train.save_to_disk(folder / task / "train")
        test.save_to_disk(folder / task / "test")
        tasks[task] = load_task((train, test))
    initial, processor = tiny_vit(("class 0", "class 1"))
    immunized = copy.deepcopy(initial)
    with torch.no_grad():
        for parameter in immunized.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    data = {task: one.inputs(processor) for task, one in tasks.items()}
    results = measure({"initial": initial, "immunized": immunized}, data, attackers=None)
    record = ImmunizationRecord(
        base_model="a folder",
        base_model_kind="local",
        library="transformers",
        **{task: data_facts(one) for task, one in tasks.items()},
        results=results,
    )
    save_immunized(folder / "release", immunized, record, processor, beside={"initial": initial})
    # Uplift is counted over two more models.
    beside = {"initial": initial, "primary_only": random_weights(initial, seed=3), "public": copy.deepcopy(initial)}
    with torch.no_grad():
        for parameter in beside["public"].parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    attacked = {"immunized": immunized, **beside}
    record.results = measure(attacked, data, attackers="ridge", budgets=Budgets(seeds=(0,), samples=(None,)))
    record.training = {"fit": {"steps": 2}}
    save_immunized(folder / "uplift", immunized, record, processor, beside=beside)
    beside["public"].save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    return folder


@pytest.fixture
def client(hub, tmp_path):
    started = HubClient(hub.url, tmp_path / "home", TOKEN)
    yield started
    started.close()


def test_what_was_pushed_is_verified_from_an_empty_home(world, hub, client, tmp_path):
    commit = client.run(
        f"from hf_immunize import push_to_hub\nresult = push_to_hub({str(world / 'release')!r}, 'me/honest').oid"
    )
    stranger = HubClient(hub.url, tmp_path / "stranger")
    try:
        holds, revision, statuses, text = stranger.run(VERIFY.format(folder=world, name="me/honest", attackers=None))
        assert holds, text
        assert revision == commit
        assert set(statuses.values()) == {"holds"}
        assert f"me/honest at {commit}" in text
        with pytest.raises(ClientError, match="There is no me/nothing"):
            stranger.run(VERIFY.format(folder=world, name="me/nothing", attackers=None))
    finally:
        stranger.close()


def test_a_release_in_a_subfolder_of_a_repository_is_verified(world, hub, client, tmp_path):
    commit = client.run(
        "from huggingface_hub import HfApi\napi = HfApi()\napi.create_repo('me/models')\n"
        f"result = api.upload_folder(repo_id='me/models', folder_path={str(world / 'release')!r},"
        "path_in_repo='a/b [1]', ignore_patterns='.cache/*').oid"
    )
    # θ0 of the release at the root of the repository, and a Hub that asks once for patience.
    hub.repos["me/models"].branches["initial"] = commit
    hub.faults.append(Fault("GET /api/models/", 429, times=1, headers={"Retry-After": "0"}))
    stranger = HubClient(hub.url, tmp_path / "stranger")
    try:
        name = f"me/models/a/b [1]@{commit}"
        holds, revision, statuses, text = stranger.run(VERIFY.format(folder=world, name=name, attackers=None))
        assert holds, text
        assert revision == commit
        assert {"primary accuracy, initial", "the card says what the record says"} <= set(statuses)
        assert text.startswith(f"me/models/a/b [1] at {commit}")
        for name, why in {
            "a": "as the subfolder a of me/models: me/models/a holds no immunization.json",
            "../x": "is no name of a model",
        }.items():
            with pytest.raises(ClientError, match=why):
                stranger.run(VERIFY.format(folder=world, name=f"me/models/{name}", attackers=None))
        page = "from hf_immunize.release.gallery import gallery\nresult = gallery(['me/models/a/b [1]'])[0][0].link"
        assert stranger.run(page) == f"{hub.url}/me/models/tree/{commit}/a/b%20%5B1%5D"
    finally:
        stranger.close()


def test_uplift_is_measured_again_over_what_the_release_carries(world, hub, client, tmp_path):
    client.run(f"from hf_immunize import push_to_hub\npush_to_hub({str(world / 'uplift')!r}, 'me/uplift')")
    stranger = HubClient(hub.url, tmp_path / "stranger")
    try:
        holds, _, statuses, text = stranger.run(VERIFY.format(folder=world, name="me/uplift", attackers="'ridge'"))
        assert holds, text
        wanted = {"uplift by probe, immunized", "ridge regression, uplift", "ridge regression, public"}
        assert wanted | {"primary accuracy, primary_only"} <= set(statuses)
    finally:
        stranger.close()


@needs_images
def test_the_attacks_on_a_release_of_the_quickstarts_kind_are_repeated_from_its_record_alone(hub, client, tmp_path):
    initial = tiny_timm(num_classes=5)
    immunized = copy.deepcopy(initial)
    with torch.no_grad():
        immunized.get_classifier().weight.mul_(0.9)
        next(immunized.layer4.parameters()).add_(0.02)
    processor = TimmImageProcessor.from_model(initial, 32)
    tasks = {"primary": digits([0, 1, 2, 3, 4]), "harmful": digits([5, 6, 7, 8, 9])}
    data = {task: one.inputs(processor) for task, one in tasks.items()}
    budgets = Budgets(seeds=(0,), samples=(10,))
    record = ImmunizationRecord(
        base_model="a package",
        base_model_kind="package",
        library="timm",
        architecture="test_resnet",
        **{task: data_facts(one) for task, one in tasks.items()},
        results=measure({"initial": initial, "immunized": immunized}, data, attackers="ridge", budgets=budgets),
    )
    folder = save_immunized(tmp_path / "release", immunized, record, processor, beside={"initial": initial})
    client.run(f"from hf_immunize import push_to_hub\npush_to_hub({str(folder)!r}, 'me/digits')")
    stranger = HubClient(hub.url, tmp_path / "stranger")
    try:
        code = "from hf_immunize import verify\nfound = verify('me/digits', attackers='ridge')\n"
        asked = "{one.name: one.status for one in found.claims if one.asked}"
        holds, statuses, text = stranger.run(f"{code}result = [found.holds, {asked}, str(found)]")
        assert holds, text
        assert {"ridge regression, immunized", "primary accuracy, immunized", "the harmful rows"} <= set(statuses)
        assert set(statuses.values()) == {"holds"}
    finally:
        stranger.close()


@pytest.mark.parametrize("gone", ["primary_only", "public"])
def test_uplift_over_what_the_release_does_not_carry_cannot_be_checked(world, tmp_path, gone):
    pairs = {
        task: tuple(load_from_disk(world / task / part) for part in ("train", "test"))
        for task in ("primary", "harmful")
    }
    release = shutil.copytree(world / "uplift", tmp_path / "release")
    shutil.rmtree(release / gone)
    found = verify(release, attackers="ridge", **pairs)
    assert found.holds, str(found)
    uplift = {one.name: one for one in found.claims if "uplift" in one.name and "follows" not in one.name}
    assert {(one.status, one.asked) for one in uplift.values()} == {("cannot be checked", False)}
    assert f"does not carry the {gone} model (keep it" in uplift["ridge regression, uplift"].why
    assert f"--keep {gone}" in str(found)


def test_public_weights_in_a_subfolder_at_a_commit_of_the_hub_need_no_folder_beside(world, hub, client, tmp_path):
    commit = client.run(
        "from huggingface_hub import HfApi\napi = HfApi()\napi.create_repo('me/base')\n"
        f"result = api.upload_folder(repo_id='me/base', folder_path={str(world / 'base')!r}, path_in_repo='a/b').oid"
    )
    release = shutil.copytree(world / "uplift", tmp_path / "release")
    shutil.rmtree(release / "public")
    record = ImmunizationRecord.load(release)
    record.base_model, record.base_model_revision, record.base_model_kind = "me/base/a/b", commit, "hub"
    record.save(release)
    asked = VERIFY.format(folder=world, name=str(release), attackers="'ridge'")
    _, _, statuses, text = client.run(asked)
    assert statuses["uplift by probe, immunized"] == statuses["ridge regression, public"] == "holds", text
    assert "the networks that uplift is counted over" not in str(create_model_card(record, "release"))
    record.base_model_revision = "0" * 40
    record.save(release)
    _, _, statuses, text = client.run(asked)
    assert statuses["uplift by probe, immunized"] == "cannot be checked"
    assert "me/base" in text


def test_a_folder_needs_no_hub(world):
    pairs = {
        task: tuple(picture_dataset(n, seed=seed + more) for n, more in ((24, 0), (30, 10)))
        for seed, task in enumerate(("primary", "harmful"))
    }
    assert verify(world / "release", **pairs).holds
    pairs["harmful"] = (pairs["harmful"][0], picture_dataset(30, seed=12))
    other = verify(world / "release", **pairs)
    assert not other.holds
    assert "the harmful rows" in {one.name for one in other.claims if one.status == "differs"}


def test_a_typing_mistake_in_an_attacker_is_said_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="ridge"):
        verify(tmp_path / "nowhere", attackers="rigde")
