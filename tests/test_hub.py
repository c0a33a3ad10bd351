"""Every way in which the Hub says no, as one clear error."""

from __future__ import annotations

import email.utils
import time
from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from hf_immunize.errors import HubConnectionError, InputError
from hf_immunize.hub import LONGEST_WAIT, hub_errors, patiently, split_revision

REPO = "me/model"


class TransportError(Exception):
    """What the client's HTTP library calls a connection that failed, under any of its names."""


def answer(status):
    """As much of a response as the client's errors read, whichever HTTP library it has."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_a_revision_stands_behind_the_name_or_beside_it():
    assert split_revision("me/model") == ("me/model", None)
    assert split_revision("me/model@v1") == ("me/model", "v1")
    assert split_revision("me/model", "v1") == split_revision("me/model@v1", "v1") == ("me/model", "v1")
    with pytest.raises(InputError, match="Two revisions for me/model: 'v1' behind the @ and revision='v2'"):
        split_revision("me/model@v1", "v2")
    with pytest.raises(InputError, match="names no revision"):
        split_revision("me/model@")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.HFValidationError("bad"), InputError, "is not a valid Hub id"),
        (errors.GatedRepoError("no", response=answer(403)), InputError, "accept its terms"),
        (errors.RepositoryNotFoundError("no", response=answer(404)), InputError, "There is no me/model"),
        (errors.RevisionNotFoundError("no", response=answer(404)), InputError, "has no revision 'v1'"),
        (errors.LocalTokenNotFoundError("no"), InputError, "No valid Hub token"),
        (errors.LocalEntryNotFoundError("no"), HubConnectionError, "could not be reached"),
        (errors.RemoteEntryNotFoundError("no file", response=answer(404)), InputError, "does not hold .*no file"),
        (errors.HfHubHTTPError("no", response=answer(401)), InputError, "No valid Hub token"),
        (errors.HfHubHTTPError("no", response=answer(403)), InputError, "may not read me/model"),
        (errors.HfHubHTTPError("no", response=answer(412)), InputError, "Push again"),
        (errors.HfHubHTTPError("no", response=answer(503)), HubConnectionError, "answered 503 .*Try again later"),
        (errors.HfHubHTTPError("odd\nrequest", response=answer(400)), InputError, "refused .*odd request"),
        (errors.OfflineModeIsEnabled("off"), HubConnectionError, "HF_HUB_OFFLINE is set"),
        (ConnectionError("down"), HubConnectionError, "could not be reached"),
        (TimeoutError("late"), HubConnectionError, "could not be reached"),
        (type("ConnectError", (TransportError,), {})("down"), HubConnectionError, "could not be reached"),
    ],
)
def test_each_refusal_says_what_to_do(error, kind, message):
    with pytest.raises(kind, match=message) as raised, hub_errors(REPO, "v1"):
        raise error
    assert raised.value.__cause__ is error


def test_a_token_that_may_only_read_is_told_from_one_that_may_not_read():
    wanted = r"may not write to me/model\. Make one with write access"
    with pytest.raises(InputError, match=wanted), hub_errors(REPO, writing=True):
        raise errors.HfHubHTTPError("no", response=answer(403))


def test_other_errors_stay_what_they_are():
    with pytest.raises(KeyError), hub_errors(REPO):
        raise KeyError("a mistake of the program")


def refused(status, headers=None):
    response = answer(status)
    response.headers = headers or {}
    return errors.HfHubHTTPError("refused", response=response)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7), ({}, 5), ({"Retry-After": "soon"}, 5), ({"Retry-After": "date"}, 30)],
)
def test_429_is_waited_for_as_it_says(monkeypatch, headers, seconds):
    if headers.get("Retry-After") == "date":
        headers = {"Retry-After": email.utils.formatdate(time.time() + 30, usegmt=True)}
    slept, answers = [], [refused(429, headers), "done"]
    monkeypatch.setattr(time, "sleep", slept.append)

    def call():
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert patiently(call) == "done"
    assert slept == [pytest.approx(seconds, abs=2)]


def test_nothing_else_is_waited_for_and_no_longer_than_the_limit(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)

    def call(error):
        raise error

    for error in (refused(503), refused(429, {"Retry-After": "301"})):
        with pytest.raises(errors.HfHubHTTPError):
            patiently(lambda error=error: call(error))
    assert slept == []
    with pytest.raises(errors.HfHubHTTPError):
        patiently(lambda: call(refused(429, {"Retry-After": "70"})))
    assert sum(slept) <= LONGEST_WAIT
    with pytest.raises(ConnectionError, match=r"asks to wait 301 s .* longer than the 300 s"), hub_errors("me/x"):
        call(refused(429, {"Retry-After": "301"}))
    with pytest.raises(ConnectionError, match="push again"), hub_errors("me/x", writing=True):
        call(ConnectionResetError("broken"))


def test_what_says_already_what_to_do_is_left_as_it_is():
    """The answer of the Hub behind it would be told in its place otherwise."""
    said = InputError("me/model holds no config.json")
    said.__cause__ = errors.RemoteEntryNotFoundError("404", response=answer(404))
    with pytest.raises(InputError) as caught, hub_errors(REPO):
        raise said
    assert caught.value is said
