"""Whatever the network does, a push lands whole or nothing changed, a model is loaded whole or not, and it is said."""

from __future__ import annotations

import importlib.util
import re
import shutil

import pytest
from hub_client import ClientError, HubClient
from hub_repos import TOKEN, Fault
from hub_server import HubServer
from releases import save
from safetensors.torch import load_file

PUSH = "from hf_immunize.release.hub import push_to_hub\n"
LOAD = "from hf_immunize.models.loading import load_model\n"
#: No test waits for real: what the client and this package would have waited is added up.
WAITING = "import time\nslept = []\ntime.sleep = slept.append\n"
#: What goes wrong, and how often: always, or once.
ALWAYS = ("cut", "lost", 401, 403, 409, 412, 500, 503)
ONCE = ("cut", "slow", 429, 503)
PUSHED_AT = {
    "create": r"POST /api/repos/create",
    "upload": r"PUT /lfs/put/",
    "commit": r"POST .*/commit/",
}
LOADED_AT = {
    "look-up": r"GET /api/models/",
    "configuration": r"(GET|HEAD) .*/resolve/.*config\.json",
    "weights": r"GET /lfs/get/",
}


@pytest.fixture(scope="module")
def hub():
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def faults(hub):
    yield hub.faults
    hub.faults.clear()


@pytest.fixture(scope="module")
def writer(hub, tmp_path_factory):
    client = HubClient(hub.url, tmp_path_factory.mktemp("writer") / "home", TOKEN)
    client.run(WAITING)
    yield client
    client.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "release")


@pytest.fixture
def release(saved, tmp_path, hub):
    hub.lfs.clear()
    return shutil.copytree(saved, tmp_path / "release")


def push(client, folder, repo_id):
    return client.run(PUSH + f"slept.clear()\nresult = push_to_hub({str(folder)!r}, {repo_id!r}).oid")


def with_lfs(hub, repo_id):
    """A repository that takes weights by LFS, with a first commit."""
    attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
    repo = hub.create(repo_id)
    repo.commits[repo.branches["main"]][".gitattributes"] = attributes
    return repo


def is_whole(repo, release):
    return all(
        repo.files.get(name) == (release / name).read_bytes() for name in ("model.safetensors", "immunization.json")
    )


def named(kind, place):
    return f"me/{re.sub('[^a-z0-9]', '', str(kind).lower())}-{place}"


@pytest.mark.parametrize("place", PUSHED_AT)
@pytest.mark.parametrize("what", ALWAYS)
def test_a_push_lands_whole_or_changes_nothing(hub, writer, release, faults, place, what):
    repo_id = named(what, place)
    repo = None if place == "create" else with_lfs(hub, repo_id)
    before = None if repo is None else dict(repo.branches)
    faults.append(Fault(PUSHED_AT[place], what))
    try:
        push(writer, release, repo_id)
        told = None
    except ClientError as error:
        told = error
    faults.clear()
    if told is not None:
        # One line of this package's own; an answer that was lost came after the act.
        assert {"UserError"} & set(told.bases), told
        assert "\n" not in str(told)
        assert repo_id in str(told)
    landed = hub.repos.get(repo_id)
    if landed is not None and (before is None or landed.branches != before):
        assert is_whole(landed, release) or (what == "lost" and place == "create")
    elif told is None:
        pytest.fail("nothing landed, and nothing was said")
    # And again, without the fault.
    push(writer, release, repo_id)
    assert is_whole(hub.repos[repo_id], release)


@pytest.mark.parametrize("place", PUSHED_AT)
@pytest.mark.parametrize("what", ONCE)
def test_what_goes_wrong_once_stops_no_push_that_can_wait(hub, writer, release, faults, place, what):
    repo_id = f"{named(what, place)}-once"
    if place != "create":
        with_lfs(hub, repo_id)
    faults.append(Fault(PUSHED_AT[place], what, times=1, headers={"Retry-After": "7"} if what == 429 else {}))
    if what in ("cut", 503) and place != "upload":
        # Neither is sent twice by itself: whether the first arrived is not known.
        with pytest.raises(ClientError, match=r"push again|Try again"):
            push(writer, release, repo_id)
    push(writer, release, repo_id)
    assert is_whole(hub.repos[repo_id], release)
    if what == 429 and place == "commit":
        assert sum(writer.run("result = slept")) >= 7


def test_a_client_of_xet_is_told_of_lfs_where_there_is_no_xet_and_loads_what_lfs_holds(hub, writer, release, tmp_path):
    """The Hub's client sends no large file by LFS itself while its package for Xet is installed."""
    repo = with_lfs(hub, "me/xet")
    before = dict(repo.branches)
    client = HubClient(hub.url, tmp_path / "home", TOKEN, xet=True)
    try:
        client.run(WAITING)
        if importlib.util.find_spec("hf_xet") is not None:
            with pytest.raises(ClientError, match="HF_HUB_DISABLE_XET=1 takes the older way") as caught:
                push(client, release, "me/xet")
            assert "UserError" in caught.value.bases
            assert repo.branches == before
        push(writer, release, "me/xet")
        found = client.run(LOAD + "result = load_model('me/xet').model.classifier.weight.tolist()")
        assert found == load_file(release / "model.safetensors")["classifier.weight"].tolist()
    finally:
        client.close()


def test_a_repository_that_stayed_empty_is_taken_back(hub, writer, release, faults):
    faults.append(Fault(PUSHED_AT["commit"], 403))
    with pytest.raises(ClientError, match="may not write to me/empty-again"):
        push(writer, release, "me/empty-again")
    assert "me/empty-again" not in hub.repos
    faults.clear()
    # Nothing is made before the card is known to be accepted.
    faults.append(Fault(r"POST /api/validate-yaml", 400))
    before = len([line for line in hub.log if "repos/create" in line])
    with pytest.raises(ClientError, match="refuses the metadata"):
        push(writer, release, "me/empty-again")
    assert len([line for line in hub.log if "repos/create" in line]) == before


def test_a_wait_beyond_the_limit_is_said(hub, writer, release, faults):
    faults.append(Fault(PUSHED_AT["create"], 429, headers={"Retry-After": "4000"}))
    with pytest.raises(ClientError, match=r"asks to wait 4000 s .* longer than the 300 s"):
        push(writer, release, "me/patience")
    assert sum(writer.run("result = slept")) == 0


@pytest.fixture(scope="module")
def published(hub, writer, saved):
    hub.faults.clear()
    with_lfs(hub, "me/published")
    push(writer, saved, "me/published")
    return load_file(saved / "model.safetensors")


def load(hub, tmp_path, twice=True):
    """A model loaded with an empty cache, and again without the fault: what was said, and a weight."""
    client = HubClient(hub.url, tmp_path / "home", TOKEN)
    code = LOAD + "result = load_model('me/published').model.classifier.weight.tolist()"
    try:
        client.run(WAITING)
        told, found = None, None
        try:
            found = client.run(code)
        except ClientError as error:
            told = error
        hub.faults.clear()
        return told, found, client.run(code)
    finally:
        client.close()


LOADED = [(place, what, 10**6) for place in LOADED_AT for what in ("cut", "half", 401, 403, 404, 429, 500)]
LOADED += [(place, what, 1) for place in LOADED_AT for what in ("half", "slow", 429)]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "what", "times"), LOADED)
def test_a_model_is_loaded_whole_or_not_at_all(hub, published, faults, tmp_path, place, what, times):
    wanted = published["classifier.weight"].tolist()
    faults.append(Fault(LOADED_AT[place], what, times, {"Retry-After": "400" if times > 1 else "1"}))
    told, found, again = load(hub, tmp_path)
    assert again == wanted
    if told is None:
        assert found == wanted
    else:
        assert "UserError" in told.bases, told
        assert "\n" not in str(told)


@pytest.mark.parametrize(("place", "what"), [("look-up", 403), ("configuration", "cut"), ("weights", "half")])
def test_a_model_that_is_not_fetched_whole_is_not_loaded(hub, published, faults, tmp_path, place, what):
    test_a_model_is_loaded_whole_or_not_at_all(hub, published, faults, tmp_path, place, what, 10**6)
