"""A Hub on the loopback interface: enough of its HTTP API for the real client to create, commit, read and resolve.

Everything lives in memory. Commits are immutable snapshots; files of ten megabytes and those that .gitattributes names
go through the LFS protocol, in one piece or in parts (no xet). Every request is logged, so that a test can count what
a client really did. Faults break off, delay or refuse the requests that they match.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from hub_handler import HubHandler
from hub_repos import Fault, Repo


class HubServer:
    """The server; ``url`` goes into ``HF_ENDPOINT``, ``log`` holds ``"METHOD /path"`` of every request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[str] = []
        self.lock = threading.RLock()
        self.is_down = False
        self.before_commit: Callable[[], Any] | None = None
        self.faults: list[Fault] = []
        self.lfs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        #: Files larger than this go up in parts of this size.
        self.part_size = 2**30
        self._start(0)

    def _start(self, port: int) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (HubHandler,), {"hub": self}))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def storage(self) -> str:
        """Large files come from another host, as the Hub's do."""
        return f"http://localhost:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nothing listens meanwhile; connections that clients kept open are dropped unanswered."""
        port = self._http.server_port
        self.is_down = True
        self.close()
        try:
            yield
        finally:
            self.is_down = False
            self._start(port)

    def fault(self, request: str) -> Fault | None:
        """The fault that meets a request, counted."""
        for one in self.faults:
            if one.met < one.times and re.search(one.where, request):
                one.met += 1
                return one
        return None

    def create(self, repo_id: str, files: dict[str, bytes] | None = None, **options: Any) -> Repo:
        repo = self.repos.setdefault(repo_id, Repo(**options))
        repo.commit("main", {".gitattributes": b"", **(files or {})}, "initial commit")
        return repo

    def commits(self) -> list[str]:
        """The commit requests so far."""
        return [line for line in self.log if line.startswith("POST") and "/commit/" in line]
