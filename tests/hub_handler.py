"""The HTTP API of a Hub on the loopback interface: what is answered to each request."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from hub_repos import READ_TOKEN, TOKEN, Repo, metadata_errors

LFS_FROM = 10 * 2**20
_ACCOUNTS = {
    f"Bearer {TOKEN}": {"name": "me", "orgs": [{"name": "ours"}], "auth": {"accessToken": {"role": "write"}}},
    f"Bearer {READ_TOKEN}": {"name": "me", "orgs": [], "auth": {"accessToken": {"role": "read"}}},
}
_RE_LFS_BATCH = re.compile(r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch$")
_RE_LFS = re.compile(r"/lfs/(?P<verb>put|part|complete|verify|get)/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+))?$")
_RE_API = re.compile(
    r"/api/(?:models/|(?=spaces/))(?P<id>(?:spaces/)?[^/]+/[^/]+)"
    r"(?:/(?P<verb>revision|tree|preupload|commit|branch|refs)(?:/(?P<rev>[^/]+)(?:/.*)?)?)?$"
)
_RE_RESOLVE = re.compile(r"/(?P<id>(?:spaces/)?[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)$")


class HubHandler(BaseHTTPRequestHandler):
    """Answers of one :class:`hub_server.HubServer`, the class attribute ``hub`` of a subclass."""

    hub: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if self.hub.is_down:
            self.close_connection = True
            return
        with self.hub.lock:
            self.hub.log.append(f"{method} {self.path}")
            fault = self.hub.fault(f"{method} {path}")
        self.fault = fault.what if fault else None
        if fault and fault.what == "slow":
            time.sleep(0.5)
        if fault and fault.what == "cut":
            self.close_connection = True
            return
        if fault and isinstance(fault.what, int):
            self._planted(fault.what, fault.headers, path, body)
            return
        with self.hub.lock:
            self._route(method, path, body)

    def _planted(self, status: int, headers: dict[str, str], path: str, body: bytes) -> None:
        if status == 409 and path == "/api/repos/create":
            self._json(409, {"error": "planted", "url": f"{self.hub.url}/me/{json.loads(body)['name']}"})
        else:
            self._error(status, None, f"planted {status}", headers)

    def _route(self, method: str, path: str, body: bytes) -> None:
        if path == "/api/repos/create" and method == "POST":
            self._create(json.loads(body))
        elif path == "/api/repos/delete" and method == "DELETE":
            self._delete(json.loads(body))
        elif path == "/api/validate-yaml" and method == "POST":
            self._validate(json.loads(body))
        elif path == "/api/whoami-v2":
            self._who_am_i()
        elif match := _RE_LFS_BATCH.match(path):
            self._lfs_batch(match["id"], json.loads(body))
        elif match := _RE_LFS.match(path):
            self._lfs(method, match["verb"], match["oid"], int(match["part"] or 0), body)
        elif match := _RE_API.match(path):
            if match["verb"] == "commit" and self.hub.before_commit is not None:
                self.hub.before_commit()
                self.hub.before_commit = None
            self._api(method, match["id"], match["verb"], match["rev"], body)
        elif match := _RE_RESOLVE.match(path):
            self._resolve(match["id"], match["rev"], unquote(match["path"]))
        else:
            self._error(404, None, f"no route {path}")

    def _who_am_i(self) -> None:
        account = _ACCOUNTS.get(self.headers.get("Authorization") or "")
        if account is None:
            self._error(401, None, "Invalid credentials in Authorization header")
        else:
            self._json(200, account)

    def _lfs_batch(self, repo_id: str, wanted: dict[str, Any]) -> None:
        if not self._may_write() or self._repo(repo_id) is None:
            return
        objects = []
        for one in wanted["objects"]:
            oid, size = one["oid"], one["size"]
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.lfs:
                upload: dict[str, Any] = {"href": f"{self.hub.url}/lfs/put/{oid}", "header": {}}
                if size > self.hub.part_size:
                    count = -(-size // self.hub.part_size)
                    parts = {f"{k:05}": f"{self.hub.url}/lfs/part/{oid}/{k}" for k in range(1, count + 1)}
                    href = f"{self.hub.url}/lfs/complete/{oid}"
                    upload = {"href": href, "header": {"chunk_size": str(self.hub.part_size), **parts}}
                verify = {"href": f"{self.hub.url}/lfs/verify/{oid}", "header": {}}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        transfer = "multipart" if any("chunk_size" in str(one) for one in objects) else "basic"
        self._json(200, {"transfer": transfer, "objects": objects})

    def _lfs(self, method: str, verb: str, oid: str, part: int, body: bytes) -> None:
        if verb == "get":
            self._send(200, self.hub.lfs[oid], {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"})
        elif verb == "part":
            self.hub.parts[oid, part] = body
            self._send(200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        elif verb == "verify":
            known = len(self.hub.lfs.get(oid, b"")) == json.loads(body)["size"]
            self._json(200 if known else 404, {})
        else:
            if verb == "complete":
                numbers = [one["partNumber"] for one in json.loads(body)["parts"]]
                body = b"".join(self.hub.parts.pop((oid, number)) for number in numbers)
            if hashlib.sha256(body).hexdigest() != oid:
                self._error(400, None, "these bytes have another SHA-256")
                return
            self.hub.lfs[oid] = body
            self._json(200, {})

    def _may_write(self) -> bool:
        given = self.headers.get("Authorization")
        if given == f"Bearer {TOKEN}":
            return True
        if given == f"Bearer {READ_TOKEN}":
            self._error(403, None, "this token has no write access")
        else:
            self._error(401, None, "Invalid credentials in Authorization header")
        return False

    def _repo(self, repo_id: str) -> Repo | None:
        """The repository if it exists and may be read; the Hub says 404 or 401 alike for a private one."""
        repo = self.hub.repos.get(repo_id)
        known = self.headers.get("Authorization") in (f"Bearer {TOKEN}", f"Bearer {READ_TOKEN}")
        if repo is None or (repo.private and not known):
            self._error(404 if known else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.gated and not known:
            self._error(401, "GatedRepo", "Access to this model is restricted")
            return None
        return repo

    def _create(self, wanted: dict[str, Any]) -> None:
        if not self._may_write():
            return
        repo_id = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if repo_id.split("/")[0] != "me":
            self._error(403, None, "You don't have the rights to create a model under this namespace")
            return
        repo_id = f"spaces/{repo_id}" if wanted.get("type") == "space" else repo_id
        url = {"url": f"{self.hub.url}/{repo_id}", "id": repo_id, "name": repo_id}
        if repo_id in self.hub.repos:
            self._json(409, {"error": "You already created this model repo", **url})
            return
        self.hub.create(repo_id, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        self._json(200, url)

    def _delete(self, wanted: dict[str, Any]) -> None:
        if self._may_write():
            self.hub.repos.pop(f"{wanted.get('organization') or 'me'}/{wanted['name']}")
            self._json(200, {})

    def _validate(self, wanted: dict[str, Any]) -> None:
        front = wanted["content"].split("---\n")
        errors = []
        try:
            data = yaml.safe_load(front[1]) if len(front) > 2 else None
        except yaml.YAMLError as error:
            data, errors = None, [{"message": str(error)}]
        if isinstance(data, dict):
            errors += [{"message": message} for message in metadata_errors(data)]
        self._json(400 if errors else 200, {"errors": errors, "warnings": []})

    def _api(self, method: str, repo_id: str, verb: str | None, revision: str | None, body: bytes) -> None:
        if method in ("POST", "DELETE") and not self._may_write():
            return
        repo = self._repo(repo_id)
        if repo is None:
            return
        if verb == "branch":
            branch = unquote(revision or "")
            if method == "DELETE":
                self._json(200 if repo.branches.pop(branch, None) else 404, {})
            elif branch in repo.branches:
                self._json(409, {"error": "Reference already exists"})
            else:
                repo.branches[branch] = repo.branches["main"]
                self._json(200, {})
            return
        if verb == "refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
                for name, commit in repo.branches.items()
                if not name.startswith("refs/")
            ]
            self._json(200, {"branches": branches, "converts": [], "tags": []})
            return
        digest = repo.resolve(revision or "main")
        if digest is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif verb == "preupload":
            wanted = json.loads(body)["files"]
            modes = [self._mode(repo, digest, one) for one in wanted]
            self._json(200, {"files": modes})
        elif verb == "commit":
            self._commit(repo, repo_id, unquote(revision or "main"), digest, body)
        elif verb == "tree":
            files = []
            for name, data in sorted(repo.commits[digest].items()):
                one = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                oid = hashlib.sha256(data).hexdigest()
                lfs = {"lfs": {"oid": oid, "size": len(data), "pointerSize": 134}} if oid in self.hub.lfs else {}
                files.append(one | lfs)
            self._json(200, files)
        else:
            siblings = [{"rfilename": name} for name in sorted(repo.commits[digest])]
            info = {"id": repo_id, "modelId": repo_id, "sha": digest, "private": repo.private, "tags": []}
            self._json(200, info | {"siblings": siblings, "cardData": {}})

    def _mode(self, repo: Repo, digest: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """How a file goes up, and what stands there, so that a client leaves out what has not changed."""
        files, path = repo.commits[digest], wanted["path"]
        attributes = files.get(".gitattributes", b"").decode().splitlines()
        patterns = [line.split()[0] for line in attributes if "filter=lfs" in line]
        large = wanted["size"] > LFS_FROM or any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if path in files:
            data = files[path]
            oid = hashlib.sha256(data).hexdigest()
            answer["oid"] = oid if oid in self.hub.lfs else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return answer

    def _commit(self, repo: Repo, repo_id: str, branch: str, digest: str, body: bytes) -> None:
        header: dict[str, Any] = {}
        files = dict(repo.commits[digest])
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                header = value
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile" and value["oid"] in self.hub.lfs:
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                self._error(400, None, f"unknown operation {item['key']}")
                return
        if header.get("parentCommit") not in (None, digest):
            self._error(412, None, "A commit has happened since. Please refresh and try again.")
            return
        pull = "create_pr=1" in self.path
        target = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in repo.branches)}" if pull else branch
        oid = repo.commit(target, files, header["summary"])
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"}
        if pull:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{target.rsplit('/', 1)[1]}"
        self._json(200, answer)

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repo = self._repo(repo_id)
        if repo is None:
            return
        digest = repo.resolve(revision)
        if digest is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in repo.commits[digest]:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": digest})
        else:
            data = repo.commits[digest][path]
            oid = hashlib.sha256(data).hexdigest()
            if oid in self.hub.lfs:
                linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(data))}
                self._send(
                    302, b"", {"X-Repo-Commit": digest, "Location": f"{self.hub.storage}/lfs/get/{oid}", **linked}
                )
                return
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            self._send(200, data, {"X-Repo-Commit": digest, "ETag": etag, "Content-Type": "application/octet-stream"})

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str | None, message: str, more: dict[str, str] | None = None) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json", **(more or {})}
        if code:
            headers["X-Error-Code"] = code
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        if self.fault == "lost":
            self.close_connection = True
            return
        start = re.match(r"bytes=(\d+)-$", self.headers.get("Range") or "")
        if status == 200 and start and self.command == "GET":
            first = int(start[1])
            headers = {**headers, "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
            status, data = 206, data[first:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if self.fault == "half" else data)
        if self.fault == "half":
            self.close_connection = True
