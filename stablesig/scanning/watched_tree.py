"""A folder tree into which files are uploaded, looked through again and again without looking at every file.

A folder's own time changes when a name appears in it, so at each poll every folder is asked for its time, and
only one that changed is read; of its names those that are new are asked for size and time. A file that is
written over in place changes no folder: to notice it, all known files are looked at again in turn, a few at
every poll. What is known of a file takes 16 bytes: two hashes, of its name and inode, and of its state.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from stablesig.scanning.arrivals import Arrival, is_unfinished
from stablesig.scanning.committed import Committed, is_same
from stablesig.scanning.folders import refused_folder
from stablesig.scanning.item import Item, readable
from stablesig.scanning.known_files import CHUNK, Hashes, KnownHashes, chunks
from stablesig.scanning.row import Row
from stablesig_detector.image import IMAGE_SUFFIXES

RECHECK_S = 600.0  # in which every known file is looked at once for having been written over
_RECHECK_LEAST = 250  # files at every poll, so that a small tree is looked at as a whole
_STEADY_S = 2.0  # by then the clocks of file systems have moved: a folder's time tells of all its changes
_MOST_WAITING = 100_000  # files kept by name; of a folder with more, the rest is read again later


@dataclass(slots=True)
class _Folder:
    path: str
    time: tuple[int, int] | None = None  # device, inode and mtime at the last look
    since: float = 0.0  # since when it has had this time, s
    read_at: float = -1.0  # when it was last read as a whole, s; -1: must be read
    names: KnownHashes = field(
        default_factory=KnownHashes
    )  # hashes of (name, inode) of files that are done with
    states: KnownHashes = field(default_factory=KnownHashes)  # and of (name, inode, size, times)
    inside: set[str] = field(default_factory=set)  # names of the folders in it
    refused: tuple[int, ...] | None = None  # what it was like when it was reported as unreadable


@dataclass(slots=True)
class _Sight:
    """A file that is not done with. since: when it was first seen like this; seen: at all, s monotonic."""

    folder: _Folder
    name: str
    inode: int
    state: tuple[int, ...]  # inode, size, mtime, ctime; () before the first look
    since: float
    seen: float


class WatchedTree:
    """The image files in `roots`, which need not be there yet, and in the folders in them if `recursive`.

    committed: what has been scanned before.  settle: s for which size and times must have been still.
    interval: s between polls, for the pace of looking at known files again.  all_files: also those
    not named as images.  on_warning: is told of roots that come and go.  Links to files are followed,
    links to folders are not; hidden and unfinished files and folders are left alone.
    """

    def __init__(
        self,
        roots: Sequence[str],
        committed: Committed,
        *,
        settle: float,
        interval: float,
        recursive: bool = True,
        all_files: bool = False,
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._roots = {root.rstrip("/") or "/": True for root in roots}  # whether it is there
        self._committed, self._settle_s, self._interval = committed, settle, interval
        self._recursive, self._all_files, self._warn = recursive, all_files, on_warning
        self._folders: dict[str, _Folder] = {}
        self._waiting: dict[str, _Sight] = {}  # in the order in which they were seen
        self._at_work: dict[str, _Sight] = {}
        self._left_over = 0  # files in folders that could not be taken up yet
        self._refused: list[Arrival] = []
        self._rechecking: Iterator[int] = iter(())
        self._credit = 0.0  # files that may be looked at again

    @property
    def backlog(self) -> int:
        return len(self._waiting) + len(self._at_work) + self._left_over + len(self._refused)

    @property
    def oldest(self) -> float | None:
        seen = [next(iter(sights.values())).seen for sights in (self._waiting, self._at_work) if sights]
        return min(seen, default=None)

    @property
    def missing(self) -> int:
        return sum(not there for there in self._roots.values())

    def poll(self) -> None:
        if self._left_over and len(self._waiting) > _MOST_WAITING // 2:
            return
        self._left_over = 0
        reached: set[str] = set()
        for root in self._roots:
            self._visit(root, reached)
        for gone in self._folders.keys() - reached:
            if not any(
                gone == root or gone.startswith(root + "/")
                for root, there in self._roots.items()
                if not there
            ):
                del self._folders[gone]  # what a root that is away holds is remembered until it comes back
        self._recheck()

    def ready(self) -> Iterator[Arrival]:
        while self._refused:
            yield self._refused.pop()
        for path in list(self._waiting):
            sight = self._waiting.get(path)
            if sight is None or path in self._at_work or not self._is_still(path, sight):
                continue
            del self._waiting[path]
            shown, exact = readable(path)
            item = Item(shown, "file", path, size=sight.state[1], path_bytes=exact)
            if self._has_a_row(item, sight):
                self._is_done(sight)
                continue
            self._at_work[path] = sight
            yield Arrival(item, sight.seen)

    def rows(self, arrival: Arrival, rows: Sequence[Row]) -> Sequence[Row]:
        return rows

    def durable(self, arrival: Arrival, rows: Sequence[Row]) -> None:
        sight = self._at_work.pop(arrival.item.location, None)
        if sight is None:  # a folder
            return
        if rows[0].error_kind == "missing" and sight.state[1] >= 0:
            sight.folder.read_at = (
                -1.0
            )  # it was away when it was to be read; if it is back, that was no outcome
        else:  # as it was when it was handed out; if it has changed since, it is seen again
            self._is_done(sight)

    def close(self) -> None:
        self._at_work.clear()

    def _visit(self, root: str, reached: set[str]) -> None:
        """Read the folders under `root` that have changed."""
        paths = [root]
        while paths:
            path = paths.pop()
            now = time.monotonic()
            try:
                status = os.stat(path)  # noqa: PTH116
                if not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(20, "is not a folder")
            except OSError as error:
                if path == root:
                    self._root_is(root, False, error.strerror or str(error))
                continue
            folder = self._folders.setdefault(path, _Folder(path))
            reached.add(path)
            times = (status.st_ino, status.st_mtime_ns)
            if times != folder.time:
                folder.time, folder.since = times, now
            unchanged = folder.read_at >= folder.since + _STEADY_S
            if not unchanged:
                try:
                    self._read(folder, now)
                except OSError as error:
                    self._cannot_read(folder, status, error, is_root=path == root)
                    continue
            if path == root:
                self._root_is(root, True, "")
            if self._recursive:
                paths += [f"{path.rstrip('/')}/{name}" for name in folder.inside]

    def _read(self, folder: _Folder, now: float) -> None:
        """Take up the names in a folder that are not known. Raises OSError."""
        inside: set[str] = set()
        present: list[Hashes] = []
        left_over = 0
        with os.scandir(folder.path) as entries:
            for names, inodes in chunks(entries, self._is_wanted, inside):
                hashes = np.fromiter(map(hash, zip(names, inodes, strict=True)), np.int64, len(names))
                known = folder.names.has(hashes)
                present.append(hashes[known])
                for at in np.flatnonzero(~known).tolist():
                    left_over += not self._see(folder, names[at], inodes[at], now)
        folder.inside, folder.read_at, folder.refused = inside, now, None
        folder.names.prune(present)
        if left_over:
            self._left_over += left_over
            folder.read_at = -1.0

    def _is_wanted(self, name: str) -> bool:
        if self._all_files:
            return not is_unfinished(name)
        return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES and name[0] != "."

    def _see(self, folder: _Folder, name: str, inode: int, now: float) -> bool:
        """Note a file that may have to be scanned; False if there is no room to."""
        path = f"{folder.path.rstrip('/')}/{name}"
        if path in self._waiting:
            return True
        busy = self._at_work.get(path)
        if busy is not None and busy.inode == inode:
            return True
        if len(self._waiting) >= _MOST_WAITING:
            return False
        self._waiting[path] = _Sight(folder, name, inode, (), now, now)
        return True

    def _is_still(self, path: str, sight: _Sight) -> bool:
        """Whether a waiting file has been as it is for long enough; one that is gone is forgotten."""
        now = time.monotonic()
        try:
            state = _state(os.stat(path))  # noqa: PTH116
        except FileNotFoundError:
            if not os.path.lexists(path):
                del self._waiting[path]
                sight.folder.read_at = -1.0  # if all of it is away only for now, its time will be the same
                return False
            state = _not_there(sight.inode)  # a link that leads nowhere, perhaps not yet
        except OSError:
            state = _not_there(sight.inode)  # it gets a row that says so
        if state != sight.state:
            sight.state, sight.since = state, now
            # What was changed long ago by the wall clock need not be watched until as long has passed.
            age = time.time() - max(state[2:]) / 1e9
            return self._settle_s <= age and state[1] >= 0
        return now - sight.since >= self._settle_s

    def _has_a_row(self, item: Item, sight: _Sight) -> bool:
        last = self._committed.last(item.identity)
        if last is None or (last.was_missing and sight.state[1] >= 0):
            return False
        try:
            if not stat.S_ISREG(os.stat(item.location).st_mode):  # noqa: PTH116  a pipe never ends
                return last.digest is None
            return is_same(last, sight.state[1], max(sight.state[2:]), item.location, self._settle_s)
        except OSError:
            return last.digest is None  # it could not be read before either

    def _is_done(self, sight: _Sight) -> None:
        folder = sight.folder
        folder.names.add(hash((sight.name, sight.inode)))
        folder.states.add(hash((sight.name, *sight.state)))

    def _recheck(self) -> None:
        """Look at some of the known files again, so that all have their turn in RECHECK_S."""
        known = sum(len(folder.names.settled) + len(folder.names.recent) for folder in self._folders.values())
        self._credit += max(_RECHECK_LEAST, known * self._interval / RECHECK_S)
        self._credit = min(self._credit, float(max(known, CHUNK)))
        started = False
        while self._credit > 0:
            looked = next(self._rechecking, None)
            if looked is None:
                if started:  # once round is enough
                    return
                started, self._rechecking = True, self._looking_again()
                continue
            self._credit -= looked

    def _looking_again(self) -> Iterator[int]:
        """Go through all folders; after each few files, how many were looked at."""
        for folder in list(self._folders.values()):
            present: list[Hashes] = []
            try:
                with os.scandir(folder.path) as entries:
                    for names, inodes in chunks(entries, self._is_wanted, set(), 256):
                        present.append(self._look_again(folder, names, inodes))
                        yield len(names)
            except OSError:
                continue  # `poll` finds out
            folder.states.prune(present)
            yield 1

    def _look_again(self, folder: _Folder, names: Sequence[str], inodes: Sequence[int]) -> Hashes:
        states = []
        for name, inode in zip(names, inodes, strict=True):
            try:
                state = _state(os.stat(f"{folder.path.rstrip('/')}/{name}"))  # noqa: PTH116
            except OSError:
                state = _not_there(inode)
            states.append(hash((name, *state)))
        hashes = np.array(states, np.int64)
        known = folder.states.has(hashes)
        now = time.monotonic()
        for at in np.flatnonzero(~known).tolist():
            path = f"{folder.path.rstrip('/')}/{names[at]}"
            busy = self._at_work.get(path)
            if busy is None or hash((busy.name, *busy.state)) != states[at]:
                self._see_again(folder, names[at], inodes[at], path, now)
        return hashes[known]

    def _see_again(self, folder: _Folder, name: str, inode: int, path: str, now: float) -> None:
        if path not in self._waiting and len(self._waiting) < _MOST_WAITING:
            self._waiting[path] = _Sight(folder, name, inode, (), now, now)

    def _cannot_read(self, folder: _Folder, status: os.stat_result, error: OSError, *, is_root: bool) -> None:
        """A folder that may not be read gets a row, and is tried again at every poll."""
        problem = error.strerror or str(error)
        if is_root:
            self._root_is(folder.path, False, problem)
        if isinstance(error, FileNotFoundError) or folder.refused == (status.st_ino, status.st_ctime_ns):
            return
        folder.refused = (status.st_ino, status.st_ctime_ns)
        item = refused_folder(folder.path, error)
        last = self._committed.last(item.identity)
        if last is None or not is_same(last, -1, status.st_ctime_ns, folder.path, 0.0):
            self._refused.append(Arrival(item, time.monotonic()))

    def _root_is(self, root: str, there: bool, problem: str) -> None:
        if self._roots[root] and not there:
            self._warn(f"{root} is not there to be watched ({problem}); it is looked for again at every poll")
        elif there and not self._roots[root]:
            self._warn(f"{root} is back")
        self._roots[root] = there


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _not_there(inode: int) -> tuple[int, int, int, int]:
    return inode, -1, 0, 0
