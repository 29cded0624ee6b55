"""A Hugging Face Hub on loopback: what huggingface_hub's client needs to publish a model and get it back.

A real HTTP server in threads; repositories are kept in memory, content by its hash, every commit whole.
`faults` go wrong by the path that they hit. The endpoints and fields are those that huggingface_hub 2.4 asks
for (`_commit_api.py`, `lfs.py`, `hf_api.py`, `file_download.py`); uploads use the LFS protocol, so the client
must run with HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .faulty_server import Answer, FaultyServer
from .faulty_server import Fault as Fault

TOKEN = "hf_notARealTokenButLongEnough0123456789"  # writes to the namespaces in HubServer.writable
READER = "hf_aTokenThatMayOnlyRead0123456789abcdef"
LFS_FROM = 2000  # bytes from which a file is stored by LFS, whatever its name


@dataclass(frozen=True)
class Blob:
    """The content of a file. lfs: stored beside git, and named by its SHA-256."""

    content: bytes
    lfs: bool

    @property
    def git_sha1(self) -> str:
        stored = self.content
        if self.lfs:
            pointer = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}")
            stored = "\n".join((*pointer, f"size {len(self.content)}\n")).encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    files: Mapping[str, Blob]
    title: str
    parent: str | None

    @property
    def oid(self) -> str:
        tree = sorted((path, blob.git_sha1) for path, blob in self.files.items())
        return hashlib.sha1(json.dumps([tree, self.title, self.parent]).encode()).hexdigest()


@dataclass
class Repository:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)  # by oid
    refs: dict[str, str] = field(default_factory=dict)  # "main", "refs/pr/1" -> oid
    pull_requests: dict[int, str] = field(default_factory=dict)  # number -> "open" or "closed"

    def add(self, ref: str, commit: Commit) -> str:
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit.oid

    def files(self, ref: str = "main") -> dict[str, bytes]:
        """What somebody who downloads `ref` gets."""
        return {path: blob.content for path, blob in self.commits[self.refs[ref]].files.items()}


class Refused(Exception):  # noqa: N818 - not an error of the server
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self.answer = Answer(
            status,
            json.dumps({"error": message}).encode(),
            {name: value for name, value in named.items() if value},
        )


class HubServer(FaultyServer):
    """`url` is what HF_ENDPOINT is set to. Everything else is there to be looked at or set by a test."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS content by SHA-256; there before any commit names it
        self.writable = {"org"}
        self.part_bytes: int | None = None  # None: objects come in one piece
        self._parts: dict[str, dict[int, bytes]] = {}
        self._lock = threading.RLock()

    def create(
        self, name: str, *, private: bool = True, files: Mapping[str, bytes] | None = None
    ) -> Repository:
        """A repository as the Hub makes it: one commit, with .gitattributes; then one more with `files`."""
        repository = Repository(private)
        first = Commit({".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}, "initial commit", None)
        oid = repository.add("main", first)
        if files:
            blobs = {path: Blob(content, len(content) >= LFS_FROM) for path, content in files.items()}
            repository.add("main", Commit({**first.files, **blobs}, "files", oid))
        self.repositories[name] = repository
        return repository

    def respond(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        parts = urlsplit(target)
        path, query = parts.path, {name: values[-1] for name, values in parse_qs(parts.query).items()}
        token = (headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with self._lock:
            try:
                if token not in (None, TOKEN, READER) and not path.startswith("/lfs/"):
                    raise Refused(401, "", "Invalid credentials in Authorization header")
                for pattern, route in _ROUTES:
                    found = re.fullmatch(pattern, f"{method} {path}")
                    if found:
                        groups = {name: unquote(value or "") for name, value in found.groupdict().items()}
                        return route(self, _Call(token, query, headers, body, **groups))
            except Refused as refused:
                return refused.answer
        return Answer(404, json.dumps({"error": f"no such endpoint: {method} {path}"}).encode())

    def readable(self, name: str, token: str | None) -> Repository:
        repository = self.repositories.get(name)
        if repository is None or (repository.private and token is None):
            raise Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        return repository

    def writable_by(self, name: str, token: str | None) -> Repository:
        repository = self.readable(name, token)
        self.may_write(name, token)
        return repository

    def may_write(self, name: str, token: str | None) -> None:
        if token is None:
            raise Refused(401, "", "Invalid username or password.")
        if token != TOKEN or name.partition("/")[0] not in self.writable:
            raise Refused(403, "", f"You don't have the rights to write to {name.partition('/')[0]}")


@dataclass(frozen=True)
class _Call:
    token: str | None
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    name: str = ""
    revision: str = ""
    path: str = ""
    oid: str = ""
    part: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _answer(content: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(content).encode(), headers)


def _resolve(repository: Repository, revision: str) -> str:
    oid = repository.refs.get(revision, revision)
    if oid not in repository.commits:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return oid


def _create(hub: HubServer, call: _Call) -> Answer:
    asked = call.json
    name = f"{asked['organization']}/{asked['name']}"
    hub.may_write(name, call.token)
    if name in hub.repositories:
        return _answer({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
    hub.create(name, private=asked.get("private") is True or asked.get("visibility") == "private")
    return _answer({"url": f"{hub.url}/{name}", "id": name})


def _validate_yaml(hub: HubServer, call: _Call) -> Answer:
    content = call.json["content"]
    if not content.startswith("---\n") or "license:" not in content:
        return _answer({"errors": [{"message": '"license" is required'}], "warnings": []}, 400)
    return _answer({"errors": [], "warnings": []})


def _info(hub: HubServer, call: _Call) -> Answer:
    repository = hub.readable(call.name, call.token)
    oid = _resolve(repository, call.revision or "main")
    siblings = [{"rfilename": path} for path in repository.commits[oid].files]
    return _answer(
        {"id": call.name, "sha": oid, "private": repository.private, "siblings": siblings, "gated": False}
    )


def _tree(hub: HubServer, call: _Call) -> Answer:
    repository = hub.readable(call.name, call.token)
    files = repository.commits[_resolve(repository, call.revision)].files
    within = f"{call.path}/" if call.path else ""
    if within and not any(path.startswith(within) for path in files):
        raise Refused(404, "EntryNotFound", f"{call.path} does not exist")
    folders: set[str] = set()
    entries = []
    for path, blob in files.items():
        if not path.startswith(within):
            continue
        below, deeper, _ = path.removeprefix(within).partition("/")
        if deeper and call.query.get("recursive") == "false":
            folders.add(within + below)
            continue
        entry: dict[str, Any] = {
            "type": "file",
            "path": path,
            "size": len(blob.content),
            "oid": blob.git_sha1,
        }
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
        entries.append(entry)
    for path in sorted(folders):
        entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
    return _answer(entries)


def _preupload(hub: HubServer, call: _Call) -> Answer:
    repository = hub.readable(call.name, call.token)
    if not call.query.get("create_pr"):
        hub.may_write(call.name, call.token)
    present = repository.commits[_resolve(repository, call.revision)].files
    files = []
    for asked in call.json["files"]:
        blob = present.get(asked["path"])
        lfs = asked["path"].endswith(".safetensors") or asked["size"] >= LFS_FROM
        files.append(
            {
                "path": asked["path"],
                "uploadMode": "lfs" if lfs else "regular",
                "shouldIgnore": False,
                "oid": None if blob is None else blob.sha256 if blob.lfs else blob.git_sha1,
            }
        )
    return _answer({"files": files})


def _lfs_batch(hub: HubServer, call: _Call) -> Answer:
    hub.readable(call.name, call.token)
    objects = []
    for asked in call.json["objects"]:
        entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.objects:
            upload: dict[str, Any] = {"href": f"{hub.url}/lfs/{asked['oid']}"}
            if hub.part_bytes is not None:
                count = -(-asked["size"] // hub.part_bytes)
                parts = {str(n): f"{hub.url}/lfs/{asked['oid']}/{n}" for n in range(1, count + 1)}
                upload["header"] = {"chunk_size": str(hub.part_bytes), **parts}
                hub._parts[asked["oid"]] = {}
            verify = {"href": f"{hub.url}/{call.name}.git/info/lfs/verify"}
            entry["actions"] = {"upload": upload, "verify": verify}
        objects.append(entry)
    return _answer({"objects": objects, "transfer": "basic"})


def _lfs_put(hub: HubServer, call: _Call) -> Answer:
    if call.part:
        hub._parts[call.oid][int(call.part)] = call.body
        return Answer(200, b"", {"ETag": f'"{call.part}"'})
    return _store(hub, call.oid, call.body)


def _lfs_complete(hub: HubServer, call: _Call) -> Answer:
    numbers = [part["partNumber"] for part in call.json["parts"]]
    return _store(hub, call.oid, b"".join(hub._parts[call.oid][number] for number in numbers))


def _store(hub: HubServer, oid: str, content: bytes) -> Answer:
    if hashlib.sha256(content).hexdigest() != oid:
        return _answer({"error": "the content does not have the hash that was announced"}, 400)
    hub.objects[oid] = content
    return _answer({})


def _lfs_verify(hub: HubServer, call: _Call) -> Answer:
    there = hub.objects.get(call.json["oid"])
    return _answer({}, 200 if there is not None and len(there) == call.json["size"] else 404)


def _lfs_get(hub: HubServer, call: _Call) -> Answer:
    content = hub.objects.get(call.oid)
    if content is None:
        content = next(
            blob.content
            for repository in hub.repositories.values()
            for commit in repository.commits.values()
            for blob in commit.files.values()
            if blob.sha256 == call.oid
        )
    return _content(content, call, {})


def _commit(hub: HubServer, call: _Call) -> Answer:
    repository = hub.readable(call.name, call.token)
    as_pull_request = bool(call.query.get("create_pr"))
    if not as_pull_request:
        hub.may_write(call.name, call.token)
    parent = _resolve(repository, call.revision)
    files = dict(repository.commits[parent].files)
    header: dict[str, Any] = {}
    for line in call.body.splitlines():
        operation = json.loads(line)
        key, value = operation["key"], operation["value"]
        if key == "header":
            header = value
        elif key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in hub.objects:
                raise Refused(400, "", f"LFS object {value['oid']} was not uploaded")
            files[value["path"]] = Blob(hub.objects[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refused(400, "", f"A file with this name doesn't exist: {value['path']}")
        else:
            raise Refused(400, "", f"unknown operation {key}")
    if header.get("parentCommit") not in (None, parent):
        raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
    commit = Commit(files, header["summary"], parent)
    answer = {"commitUrl": f"{hub.url}/{call.name}/commit/{commit.oid}", "commitOid": commit.oid}
    if as_pull_request:
        number = len(repository.pull_requests) + 1
        repository.pull_requests[number] = "open"
        repository.add(f"refs/pr/{number}", commit)
        answer["pullRequestUrl"] = f"{hub.url}/{call.name}/discussions/{number}"
    else:
        repository.add(call.revision, commit)
    return _answer(answer)


def _branch(hub: HubServer, call: _Call) -> Answer:
    repository = hub.writable_by(call.name, call.token)
    if call.revision in repository.refs:
        raise Refused(409, "", "Reference already exists")
    repository.refs[call.revision] = _resolve(repository, "main")
    return _answer({})


def _discussions(hub: HubServer, call: _Call) -> Answer:
    repository = hub.readable(call.name, call.token)
    listed = [
        {
            "title": "release",
            "num": number,
            "author": {"name": "somebody"},
            "createdAt": "2026-01-01T00:00:00.000Z",
            "status": status,
            "repo": {"name": call.name, "type": "model"},
            "isPullRequest": True,
        }
        for number, status in repository.pull_requests.items()
        if status == call.query.get("status", status)
    ]
    return _answer({"discussions": listed, "count": len(listed), "start": 0})


def _settings(hub: HubServer, call: _Call) -> Answer:
    repository = hub.writable_by(call.name, call.token)
    asked = call.json
    repository.private = asked["private"] if "private" in asked else asked["visibility"] == "private"
    return _answer({})


def _file(hub: HubServer, call: _Call) -> Answer:
    repository = hub.readable(call.name, call.token)
    oid = _resolve(repository, call.revision)
    blob = repository.commits[oid].files.get(call.path)
    if blob is None:
        raise Refused(404, "EntryNotFound", "Entry not found")
    headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.git_sha1}"'}
    if not blob.lfs:
        return _content(blob.content, call, headers)
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    # another host, as the Hub's storage is one: the client does not send its token there
    storage = hub.url.replace("127.0.0.1", "localhost")
    return Answer(302, b"", {**headers, **linked, "Location": f"{storage}/lfs/{blob.sha256}"})


def _content(content: bytes, call: _Call, headers: Mapping[str, str]) -> Answer:
    found = re.fullmatch(r"bytes=(\d+)-", call.headers.get("Range") or "")
    if found is None:
        return Answer(200, content, headers)
    start = int(found.group(1))
    place = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return Answer(206, content[start:], {**headers, **place})


_REPO = r"(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, Callable[[HubServer, _Call], Answer]]] = [
    (r"POST /api/repos/create", _create),
    (r"POST /api/validate-yaml", _validate_yaml),
    (rf"GET /api/models/{_REPO}", _info),
    (rf"GET /api/models/{_REPO}/revision/(?P<revision>[^/]+)", _info),
    (rf"GET /api/models/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", _tree),
    (rf"GET /api/models/{_REPO}/discussions", _discussions),
    (rf"POST /api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _preupload),
    (rf"POST /api/models/{_REPO}/commit/(?P<revision>[^/]+)", _commit),
    (rf"POST /api/models/{_REPO}/branch/(?P<revision>[^/]+)", _branch),
    (rf"PUT /api/models/{_REPO}/settings", _settings),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _lfs_batch),
    (rf"POST /{_REPO}\.git/info/lfs/verify", _lfs_verify),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+))?", _lfs_put),
    (r"POST /lfs/(?P<oid>[0-9a-f]{64})", _lfs_complete),
    (r"(?:GET|HEAD) /lfs/(?P<oid>[0-9a-f]{64})", _lfs_get),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _file),
]


@contextmanager
def running() -> Iterator[HubServer]:
    """A server that answers for the length of the block."""
    hub = HubServer()
    thread = threading.Thread(target=hub.serve, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.close()
        thread.join()
