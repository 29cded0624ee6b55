"""Pushing a prepared release folder to the Hub: compared first, then one commit, or none.

What is pushed is the whole folder. Large files go first and are named by their hash, so an interrupted push
sends them only once; nobody sees anything until the one commit, and that is made on top of the very commit
that was compared. When its answer is lost, the repository is read again before anything is repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig.hub_client import (
    ATTEMPTS,
    CONFLICTS,
    LONGEST_WAIT_S,
    Hub,
    HubError,
    connect,
    pause,
    quiet_client,
)
from stablesig_detector.errors import OutputError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

MAIN = "main"
DECLARATION = "watermark.json"
RECORD_FOLDER = "provenance/"
RECORD = f"{RECORD_FOLDER}model.sig"
GIT_ATTRIBUTES = ".gitattributes"  # the Hub's own, in every repository
_CHUNK = 1 << 20


@dataclass(frozen=True)
class LocalFile:
    """A file to push. git_sha1: the name of its content in git; sha256: in large file storage."""

    path: Path
    sha256: str
    git_sha1: str
    bytes: int


@dataclass(frozen=True)
class PushStep:
    """Progress. stage: "compare", "push" or "done"; files, bytes: what this stage is about."""

    stage: str
    files: int
    bytes: int


@dataclass(frozen=True)
class PushResult:
    """What a push did. `str()` says it in a few lines.

    revision: what to download in order to get exactly this: the commit, or the pull request's ref.  commit:
    40 hexadecimal digits.  changed: False when the repository held all of it already, and no commit was made.
    added, removed: paths in the commit.  unchanged: how many files were there already.  created: whether the
    repository is new.  public: whether anybody can read it.  pull_request: its page, if there is one.
    """

    repo_id: str
    revision: str
    commit: str
    changed: bool
    created: bool
    added: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: int
    public: bool
    url: str
    pull_request: str | None = None

    def __str__(self) -> str:
        seen = "public" if self.public else "private"
        lines = [f"repository  {self.url} ({'new, ' if self.created else ''}{seen})"]
        if self.changed:
            removed = f", {len(self.removed)} removed" if self.removed else ""
            lines.append(
                f"pushed      {len(self.added)} files in one commit{removed}, {self.unchanged} unchanged"
            )
        else:
            lines.append(f"pushed      nothing: all {self.unchanged} files are there already")
        if self.pull_request is not None:
            lines.append(f"request     {self.pull_request}")
        return "\n".join([*lines, f"commit      {self.commit}"])


Progress = Callable[[PushStep], None]


@dataclass(frozen=True)
class _Remote:
    """A revision as it is on the Hub."""

    commit: str
    files: Mapping[str, RepoFile]
    public: bool


@dataclass(frozen=True)
class _Plan:
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not self.added and not self.removed


def push_release(
    release_folder: Path,
    repo_id: str,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    private: bool = True,
    token: str | None = None,
    message: str | None = None,
    progress: Progress | None = None,
) -> PushResult:
    """Make `repo_id` hold what `release_folder` holds, in one commit; no commit if it does already.

    Files that an earlier release put there, and this one no longer has, are removed in the same commit;
    others are left alone, and so is an earlier record, or a time stamp of it, while it holds for what is
    there. A repository that does not exist is created.  revision: the branch to commit to,
    made from main if it is new; main if not given.  create_pr: open a pull request against main instead of
    committing; an open one with the same content is taken as it is.  private: whether a new repository is
    private. True also refuses to change main of one that is public already, since nobody has verified the
    commit yet.
    token: None for the stored one.  message: the commit's first line.  progress: called at each stage; the
    client's own bars show bytes if standard error is a terminal.

    Raises HubError, UsageError (a public repository, options that do not fit, no token), OutputError (a
    folder that cannot be pushed as it is), MissingExtraError.
    """
    if create_pr and revision not in (None, MAIN):
        raise UsageError(
            f"a pull request is against main; got --revision {revision}; leave one of the two out"
        )
    files = local_files(release_folder)
    hub = connect("publish", token)
    if hub.token is None:
        raise UsageError('there is no Hub token; run "hf auth login", or set HF_TOKEN')
    with quiet_client(bars=progress is not None and sys.stderr.isatty()):
        push = _Push(hub, repo_id, files, revision or MAIN, create_pr, private, message, progress)
        return push.run()


def local_files(folder: Path) -> dict[str, LocalFile]:
    """Every file under `folder` by its path there, with "/" between its parts.

    Raises OutputError for a folder that is none or empty, or holds what does not belong on the Hub: links,
    special files, hidden files.
    """
    if not folder.is_dir():
        raise OutputError(f"{folder} is no folder; make the release first, with stablesig publish --dry-run")
    found: dict[str, LocalFile] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted((*folders, *names)):
            path = Path(place, name)
            if path.is_symlink() or name.startswith(".") or not (path.is_dir() or path.is_file()):
                raise OutputError(
                    f"{path} is a link, a hidden or a special file; a release has none: remove it"
                )
        for name in sorted(names):
            path = Path(place, name)
            found[path.relative_to(folder).as_posix()] = _hashed(path)
    if not found:
        raise OutputError(f"{folder} is empty; make the release first, with stablesig publish --dry-run")
    return found


def _hashed(path: Path) -> LocalFile:
    size = path.stat().st_size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            sha1.update(chunk)
    return LocalFile(path, sha256.hexdigest(), sha1.hexdigest(), size)


@dataclass(frozen=True)
class _Push:
    """One push; `run` does it."""

    hub: Hub
    repo_id: str
    files: Mapping[str, LocalFile]
    target: str
    create_pr: bool
    private: bool
    message: str | None
    progress: Progress | None

    def run(self) -> PushResult:
        self._tell("compare", tuple(self.files))
        created = self._ensure_repository()
        attempted: _Plan | None = None
        for attempt in range(1, ATTEMPTS + 1):
            remote = self._read(self.target)
            plan = self._plan(remote)
            if plan.empty:  # perhaps because the answer to the last attempt was lost
                return self._result(remote, remote.commit, attempted, created)
            if self.create_pr and (found := self._open_request()) is not None:
                ref, held = found
                return self._result(held, ref, attempted, created)
            if self.private and remote.public and self.target == MAIN and not self.create_pr:
                raise UsageError(
                    f"{self.repo_id} is public, so main would change for everybody before it is verified; "
                    "push with --create-pr, or to another branch with --revision, and merge it once it is"
                )
            attempted = plan
            try:
                return self._commit(remote, plan, created)
            except HubError as error:
                again = error.transient or error.status in CONFLICTS
                if not again or attempt == ATTEMPTS or error.wait_s > LONGEST_WAIT_S:
                    raise
                pause(attempt, error)
        raise AssertionError("the last attempt returns or raises")

    def _tell(self, stage: str, paths: tuple[str, ...]) -> None:
        if self.progress is not None:
            size = sum(self.files[path].bytes for path in paths)
            self.progress(PushStep(stage, len(paths), size))

    def _ensure_repository(self) -> bool:
        """Whether the repository had to be created."""
        api = self.hub.api
        try:
            self.hub.ask(f"reading {self.repo_id}", lambda: api.model_info(self.repo_id))
            created = False
        except HubError as error:
            if error.status not in (401, 404):
                raise
            self.hub.ask(
                f"creating {self.repo_id}",
                lambda: api.create_repo(self.repo_id, private=self.private, exist_ok=True),
            )
            created = True
        if self.target != MAIN:
            self._ensure_branch()
        return created

    def _ensure_branch(self) -> None:
        what = f"reading {self.repo_id} at {self.target}"
        try:
            self.hub.ask(what, lambda: self.hub.api.model_info(self.repo_id, revision=self.target))
        except HubError as error:
            if error.status != 404:
                raise
            self.hub.ask(
                f"making the branch {self.target} of {self.repo_id}",
                lambda: self.hub.api.create_branch(self.repo_id, branch=self.target, exist_ok=True),
            )

    def _read(self, revision: str) -> _Remote:
        what = f"reading {self.repo_id} at {revision}"
        info = self.hub.ask(what, lambda: self.hub.api.model_info(self.repo_id, revision=revision))
        commit = str(info.sha)
        return _Remote(commit, self._tree(commit), public=not info.private)

    def _tree(self, commit: str) -> dict[str, RepoFile]:
        listed = self.hub.ask(
            f"listing {self.repo_id}",
            lambda: list(self.hub.api.list_repo_tree(self.repo_id, recursive=True, revision=commit)),
        )
        return {entry.path: entry for entry in listed if hasattr(entry, "blob_id")}

    def _plan(self, remote: _Remote) -> _Plan:
        added = self._missing(remote)
        if RECORD not in added and all(path.startswith(RECORD_FOLDER) for path in added):
            return _Plan(added, ())  # the same release: the record there, or a stamp on it, still holds
        strangers = {path for path in remote.files if path not in self.files and path != GIT_ATTRIBUTES}
        ours = self._earlier_release(remote) if strangers else frozenset()
        return _Plan(added, tuple(sorted(strangers & ours)))

    def _missing(self, remote: _Remote) -> tuple[str, ...]:
        """The files that the Hub does not hold as they are here."""
        return tuple(path for path, file in self.files.items() if not _same(file, remote.files.get(path)))

    def _earlier_release(self, remote: _Remote) -> frozenset[str]:
        """The files that the release on the Hub says it consists of, and its record."""
        if DECLARATION not in remote.files:
            return frozenset()
        with tempfile.TemporaryDirectory() as folder:
            place = self.hub.ask(
                f"reading {DECLARATION} of {self.repo_id}",
                lambda: self.hub.api.hf_hub_download(
                    self.repo_id, DECLARATION, revision=remote.commit, cache_dir=folder
                ),
            )
            try:
                listed = dict(json.loads(Path(place).read_bytes())["release"]["files"])
            except (ValueError, KeyError, TypeError, RecursionError):
                return frozenset()  # of no release of ours: nothing is taken away
        record = {path for path in remote.files if path.startswith(RECORD_FOLDER)}
        return frozenset(record | listed.keys())

    def _open_request(self) -> tuple[str, _Remote] | None:
        """The ref and content of an open pull request that holds just this release."""
        api = self.hub.api
        for request in self.hub.ask(
            f"listing the pull requests of {self.repo_id}",
            lambda: list(
                api.get_repo_discussions(
                    self.repo_id, discussion_type="pull_request", discussion_status="open"
                )
            ),
        ):
            ref = f"refs/pr/{request.num}"
            remote = self._read(ref)
            if not self._missing(remote):
                return ref, remote
        return None

    def _commit(self, remote: _Remote, plan: _Plan, created: bool) -> PushResult:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        self._tell("push", plan.added)
        additions = [CommitOperationAdd(path, str(self.files[path].path)) for path in plan.added]
        deletions = [CommitOperationDelete(path, is_folder=False) for path in plan.removed]
        info: Any = self.hub.ask(
            f"pushing to {self.repo_id}",
            lambda: self.hub.api.create_commit(
                self.repo_id,
                [*additions, *deletions],
                commit_message=self.message or "Watermarked weights, released with stablesig",
                revision=None if self.create_pr else self.target,
                create_pr=self.create_pr,
                parent_commit=remote.commit,
            ),
            attempts=1,  # `run` looks at the repository before it tries again
        )
        ref = info.pr_revision if self.create_pr else info.oid
        held = _Remote(info.oid, self._tree(info.oid), remote.public)
        if missing := self._missing(held):
            raise HubError(
                f"pushing to {self.repo_id}: the commit does not hold {', '.join(missing)} as they are here; "
                "were they changed meanwhile? run the same command again"
            )
        self._tell("done", plan.added)
        return self._result(held, ref, plan, created)

    def _result(self, remote: _Remote, revision: str, plan: _Plan | None, created: bool) -> PushResult:
        from huggingface_hub import constants

        endpoint = constants.ENDPOINT if "@" not in constants.ENDPOINT else f"https://{self.hub.host}"
        url = f"{endpoint}/{self.repo_id}"
        request = revision.removeprefix("refs/pr/") if revision.startswith("refs/pr/") else None
        added, removed = (plan.added, plan.removed) if plan is not None else ((), ())
        return PushResult(
            repo_id=self.repo_id,
            revision=revision,
            commit=remote.commit,
            changed=plan is not None,
            created=created,
            added=added,
            removed=removed,
            unchanged=len(self.files) - len(added),
            public=remote.public,
            url=url,
            pull_request=None if request is None else f"{url}/discussions/{request}",
        )


def _same(file: LocalFile, there: RepoFile | None) -> bool:
    """Whether the Hub holds this very content, in git or in large file storage."""
    if there is None:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == file.sha256)
    return bool(there.blob_id == file.git_sha1)
