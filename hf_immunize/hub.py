"""Every way in which the Hub says no, as one clear error that says what to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TypeVar

from huggingface_hub import constants, errors

from hf_immunize.errors import HubConnectionError, InputError, MissingFileError, UserError

__all__ = ["LONGEST_WAIT", "hub_errors", "no_such_folder", "patiently", "split_revision", "split_subfolder"]

logger = logging.getLogger(__name__)

#: Seconds that one call waits in all because the Hub asks for it (429); a longer wait is told and left to the user.
LONGEST_WAIT = 300.0
#: Where the Hub does not say how long.
_UNSAID_WAIT = 5.0
Answer = TypeVar("Answer")


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """``"me/model@v1"`` as ``("me/model", "v1")``.

    Raises:
        ValueError: two revisions that differ, or an empty one.
    """
    name, mark, given = name.partition("@")
    if mark and not given:
        raise InputError(f"{name}@ names no revision. Write {name}@COMMIT, or leave the @ away.")
    if given and revision and given != revision:
        raise InputError(f"Two revisions for {name}: {given!r} behind the @ and revision={revision!r}. Give one.")
    return name, given or revision


def split_subfolder(name: str) -> tuple[str, str]:
    """``"me/models/sub/folder"`` as ``("me/models", "sub/folder")``; the folder of a plain id is empty.

    Raises:
        ValueError: a subfolder that is none, or leads out of the repository.
    """
    user, *parts = name.split("/")
    if len(parts) > 1 and any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise InputError(f"{name} is no name of a model. Write user/name/subfolder, or give an existing folder.")
    return "/".join([user, *parts[:1]]), "/".join(parts[1:])


@contextmanager
def no_such_folder(given: str, repo_id: str, subfolder: str) -> Iterator[None]:
    """What is wrong with a subfolder of a repository begins with what may be meant: a folder that is not there."""
    try:
        yield
    except (UserError, ConnectionError) as error:
        if not subfolder:
            raise
        kind = HubConnectionError if isinstance(error, ConnectionError) else MissingFileError
        raise kind(f"There is no folder {given}, and as the subfolder {subfolder} of {repo_id}: {error}") from error


def patiently(call: Callable[[], Answer]) -> Answer:
    """Calls again where the Hub asked for patience (429), after as long as it said, `LONGEST_WAIT` seconds in all."""
    waited = 0.0
    while True:
        try:
            return call()
        except errors.HfHubHTTPError as error:
            seconds = _asked_to_wait(error)
            if seconds is None or waited + seconds > LONGEST_WAIT:
                raise
            logger.warning("%s asks to wait %.0f s.", constants.ENDPOINT, seconds)
            time.sleep(seconds)
            waited += seconds


def _asked_to_wait(error: errors.HfHubHTTPError) -> float | None:
    """Seconds, None where the Hub refused for another reason."""
    if error.response is None or error.response.status_code != 429:
        return None
    said = error.response.headers.get("Retry-After", "")
    if said.isdigit():
        return max(float(said), 0.1)
    try:
        return max(parsedate_to_datetime(said).timestamp() - time.time(), 0.1)
    except (TypeError, ValueError):
        return _UNSAID_WAIT


@contextmanager
def hub_errors(repo_id: str, revision: str | None = None, *, writing: bool = False) -> Iterator[None]:
    """Turns the client's errors about ``repo_id`` into ``ValueError`` or ``ConnectionError`` with what to do."""
    try:
        yield
    except UserError:
        # It says already what to do, in words of its own.
        raise
    except errors.HFValidationError as error:
        raise InputError(f"{repo_id!r} is not a valid Hub id: {error} Write it as user/name.") from error
    except errors.GatedRepoError as error:
        raise InputError(
            f"{repo_id} is gated: accept its terms on {constants.ENDPOINT}/{repo_id}, then log in with `hf auth login` "
            "or pass token=…."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"There is no {repo_id} on {constants.ENDPOINT} that you can read: the id is misspelt, or it is private. "
            "For a private one log in with `hf auth login`, set HF_TOKEN, or pass token=…."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{repo_id} has no revision {revision or 'main'!r}. Give a branch, a tag or a commit hash that it has."
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise InputError(_no_token(repo_id)) from error
    except errors.LocalEntryNotFoundError as error:
        # The client names the cache first; what failed is the connection behind it.
        raise HubConnectionError(_no_network(repo_id, writing)) from error
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(f"{repo_id} does not hold what was asked for: {_first_line(error)}") from error
    except errors.HfHubHTTPError as error:
        raise _http_error(error, repo_id, writing) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubConnectionError(
            f"{repo_id} needs the Hub, and HF_HUB_OFFLINE is set. Unset it, or give a local folder."
        ) from error
    except Exception as error:
        # The client lets its HTTP library's own errors through, which changed between its versions, and wraps what goes
        # wrong with a large file into another error.
        behind: BaseException | None = error
        while behind is not None:
            if isinstance(behind, errors.HfHubHTTPError):
                raise _http_error(behind, repo_id, writing) from error
            if _is_transport_error(behind):
                raise HubConnectionError(_no_network(repo_id, writing)) from error
            behind = behind.__cause__
        raise


def _http_error(error: errors.HfHubHTTPError, repo_id: str, writing: bool) -> Exception:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return InputError(_no_token(repo_id))
    if status == 403:
        what = "write to" if writing else "read"
        return InputError(
            f"This token may not {what} {repo_id}. Make one with {'write' if writing else 'read'} access under "
            f"{constants.ENDPOINT}/settings/tokens, or choose a repo_id in your own name."
        )
    if status == 409:
        return InputError(f"{repo_id} is being changed by somebody else; nothing was written. Push again.")
    if status == 429:
        seconds = _asked_to_wait(error)
        return HubConnectionError(
            f"{constants.ENDPOINT} asks to wait {seconds:.0f} s before it answers for {repo_id}, longer than the "
            f"{LONGEST_WAIT:.0f} s that are waited for. Try again after that."
        )
    if status == 412:
        return InputError(f"{repo_id} was changed while this push was being prepared; nothing was written. Push again.")
    if status is not None and status >= 500:
        return HubConnectionError(f"{constants.ENDPOINT} answered {status} for {repo_id}. Try again later.")
    return InputError(f"The Hub refused the request for {repo_id}: {_first_line(error)}")


def _no_token(repo_id: str) -> str:
    return f"No valid Hub token for {repo_id}. Log in with `hf auth login`, set HF_TOKEN, or pass token=…."


def _no_network(repo_id: str, writing: bool) -> str:
    if writing:
        return (
            f"{constants.ENDPOINT} could not be reached for {repo_id}, or broke off. A commit lands whole or not at "
            "all, so push again. Check the network (and HF_ENDPOINT, HF_HUB_OFFLINE and proxy settings) first; where "
            "only the storage of large files is out of reach, HF_HUB_DISABLE_XET=1 takes the older way (LFS)."
        )
    return (
        f"{constants.ENDPOINT} could not be reached for {repo_id}, and the local cache does not hold it. Check the "
        "network (and HF_ENDPOINT, HF_HUB_OFFLINE and proxy settings), or give a local folder."
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) if lines else type(error).__name__


def _is_transport_error(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return any(base.__name__ == "TransportError" for base in type(error).__mro__)
