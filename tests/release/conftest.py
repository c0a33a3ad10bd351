"""A Hub on the loopback interface, two processes with clients of it, and a whole release to push."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hub_client import HubClient
from hub_repos import TOKEN
from hub_server import HubServer
from samples import sample_record, tiny_vit

from hf_immunize.release.folder import save_immunized


@pytest.fixture(scope="module")
def hub():
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def clients(hub, tmp_path_factory):
    """Two processes with caches of their own: one with a token, one without."""
    root = tmp_path_factory.mktemp("clients")
    started = {name: HubClient(hub.url, root / name, token) for name, token in (("writer", TOKEN), ("nobody", None))}
    yield started
    for client in started.values():
        client.close()


@pytest.fixture
def writer(clients):
    return clients["writer"]


@pytest.fixture
def nobody(clients):
    return clients["nobody"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model, processor = tiny_vit()
    return save_immunized(tmp_path_factory.mktemp("saved") / "release", model, sample_record(), processor)


@pytest.fixture
def release(saved, tmp_path):
    """A whole folder of a transformers model, for one test to change."""
    return Path(shutil.copytree(saved, tmp_path / "release"))
