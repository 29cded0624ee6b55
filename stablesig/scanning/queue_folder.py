"""A queue in a folder: uploads are renamed into it, and each is taken by one of the scanners that share it.

QUEUE/new/NAME          an upload. Write it elsewhere on the same file system (QUEUE/tmp is there for it) and
                        rename it to here. Names that begin with a dot or end in .part, .tmp ... stay there
QUEUE/cur/SCANNER/NAME  taken by a scanner, by renaming it: of several that try, one succeeds
QUEUE/done/NAME         measured, and its rows are durable. QUEUE/failed/NAME: it could not be read

The rows call it by its last name, QUEUE/done/NAME or QUEUE/failed/NAME. Where that name is taken, an upload
is called NAME~2, NAME~3 ... (before the suffix): every upload has rows of its own.

QUEUE/cur/SCANNER/.lease is the claim of a scanner on its files. It holds a lock on it (flock) and touches it.
Its files go to whoever looks next when it is dead: at once if it ran on this machine, nobody has the lock,
and no process has its number; else when it was not touched for LEASE_S by the clock of the file system. What
it had committed is not done again, if the taker can read its results (it is the same scan, started again, or
the results lie on a file system that both see); that is decided by name, size and SHA-256 in its parts.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stablesig.detect_output import UNREADABLE
from stablesig.scanning.arrivals import Arrival, is_unfinished
from stablesig.scanning.committed import Committed, is_same
from stablesig.scanning.folder_lock import FolderLock
from stablesig.scanning.item import Item, identity_of, readable
from stablesig.scanning.row import Row
from stablesig_detector.errors import OutputError, UsageError

LEASE_S = 120.0  # after which a scanner on another machine counts as dead; see `QueueFolder`
_TOUCH_EVERY = 10.0  # s
_LOOK_FOR_DEAD_EVERY = 10.0  # s
_COUNT_EVERY = 15.0  # s between counts of what waits
_LEASE = ".lease"
_JUST_NOW = 1 << 62  # ns
_MOST_BYTES = 255  # of a file name
_MOST_STUCK = 100  # uploads of which it is said that they cannot be taken
_NEW, _TAKEN, _DONE, _FAILED, _TMP = "new", "cur", "done", "failed", "tmp"


@dataclass(frozen=True, slots=True)
class _Claim:
    name: str  # in our folder, and later in done or failed
    seen: float


class QueueFolder:
    """The queue at `folder`, which must exist, for one scanner, which writes to `out`.

    committed: what this scan has committed before.  settle: s for which an upload's content must have been
    still, in case it is not renamed into the queue but written there.  lease: s; longer than anything that
    keeps a scanner from touching its lease, and than the file system takes to show that to others.
    on_warning: is told of claims that are taken over.

    Raises UsageError if there is no such folder, OutputError if it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        out: Path,
        committed: Committed,
        *,
        settle: float,
        lease: float = LEASE_S,
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder; make the queue's folder first, or check --queue")
        self._folder, self._out, self._committed = folder, out.absolute(), committed
        self._settle, self._lease_s, self._warn = settle, lease, on_warning
        self._places = {name: folder / name for name in (_NEW, _TAKEN, _DONE, _FAILED, _TMP)}
        self._claims: dict[bytes, _Claim] = {}  # by identity of the item
        self._names: set[str] = set()  # of the claims
        self._recovered: list[Arrival] = []
        self._stuck: set[str] = set()  # uploads that cannot be taken
        self._growing: dict[str, tuple[int, int, float]] = {}  # size, mtime, since when
        self._waiting, self._counted, self._looked, self._touched = 0, -1e9, -1e9, time.monotonic()
        self._there = True
        try:
            for place in self._places.values():
                place.mkdir(exist_ok=True)
            self._enlist()
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written: {error.strerror or error}; files are moved in it, so change "
                "its permissions"
            ) from error

    @property
    def backlog(self) -> int:
        return self._waiting + len(self._claims) + len(self._recovered)

    @property
    def oldest(self) -> float | None:
        return min((claim.seen for claim in list(self._claims.values())), default=None)

    @property
    def missing(self) -> int:
        return int(not self._there)

    def poll(self) -> None:
        now = time.monotonic()
        try:
            if now - self._touched >= _TOUCH_EVERY:
                self._touched = now
                os.utime(self._home / _LEASE)
            if now - self._looked >= _LOOK_FOR_DEAD_EVERY:
                self._looked = now
                self._take_over()
            if now - self._counted >= _COUNT_EVERY or self._waiting < 1000:
                self._counted = now
                with os.scandir(self._places[_NEW]) as entries:
                    self._waiting = sum(not is_unfinished(entry.name) for entry in entries)
        except OSError as error:
            self._is_there(False, error.strerror or str(error))
            self._come_back()
        else:
            self._is_there(True, "")

    def ready(self) -> Iterator[Arrival]:
        while self._recovered:
            yield self._recovered.pop()
        try:
            with os.scandir(self._places[_NEW]) as entries:
                for entry in entries:
                    arrival = self._take_if_still(entry)
                    if arrival is not None:
                        self._waiting = max(0, self._waiting - 1)
                        yield arrival
        except OSError:
            pass  # `poll` finds out

    def rows(self, arrival: Arrival, rows: Sequence[Row]) -> Sequence[Row]:
        claim = self._claims.get(arrival.item.identity)
        if claim is None or not os.path.lexists(self._home / claim.name):
            self._forget(arrival)
            return ()  # this scanner was taken for dead; another one has the file
        if rows[0].verdict != UNREADABLE:
            return rows
        path, exact = readable(str(self._places[_FAILED] / claim.name))
        return [replace(row, path=path, path_bytes=exact) for row in rows]

    def durable(self, arrival: Arrival, rows: Sequence[Row]) -> None:
        claim = self._claims.get(arrival.item.identity)
        if claim is not None:
            self._settle_claim(claim.name, _FAILED if rows[0].verdict == UNREADABLE else _DONE)
            self._forget(arrival)

    def close(self) -> None:
        """Give back what was not measured, and the lease."""
        for claim in self._claims.values():
            with contextlib.suppress(OSError):
                _move(self._home / claim.name, self._places[_NEW] / claim.name)
        self._claims.clear()
        with contextlib.suppress(OSError):
            (self._home / _LEASE).unlink(missing_ok=True)
            self._home.rmdir()
        self._lock.release()

    def _enlist(self) -> None:
        """Make our folder, which others see only when its lease is written and locked."""
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        hidden = self._places[_TAKEN] / f".{name}"
        hidden.mkdir()
        lock = FolderLock.take(hidden / _LEASE)
        assert lock is not None  # nobody knows the name
        lease = {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "out": str(self._out)}
        (hidden / _LEASE).write_text(json.dumps(lease), encoding="utf-8")
        self._home, self._lock = self._places[_TAKEN] / name, lock
        hidden.rename(self._home)

    def _take_if_still(self, entry: os.DirEntry[str]) -> Arrival | None:
        """One that cannot be taken, such as another user's in a sticky folder, holds up no other."""
        try:
            if is_unfinished(entry.name) or entry.is_dir(follow_symlinks=False):
                return None
            return self._take(entry) if self._is_still(entry) else None
        except FileNotFoundError:
            return None  # another scanner has it, or our folder is gone, which `poll` finds out
        except OSError as error:
            if entry.name not in self._stuck and len(self._stuck) < _MOST_STUCK:
                self._stuck.add(entry.name)
                self._warn(f"{entry.path} cannot be taken: {error.strerror or error}")
            return None

    def _is_still(self, entry: os.DirEntry[str]) -> bool:
        """Whether an upload has not been written to for long enough."""
        status = entry.stat(follow_symlinks=False)
        if 0 <= self._settle <= time.time() - status.st_mtime:
            self._growing.pop(entry.name, None)
            return True
        now = time.monotonic()
        size, changed, since = self._growing.get(entry.name, (-1, 0, now))
        if (size, changed) != (status.st_size, status.st_mtime_ns):
            since = now
        self._growing[entry.name] = (status.st_size, status.st_mtime_ns, since)
        if now - since < self._settle:
            return False
        del self._growing[entry.name]
        return True

    def _take(self, entry: os.DirEntry[str]) -> Arrival:
        name = self._free_name(entry.name)
        os.rename(self._places[_NEW] / entry.name, self._home / name)  # noqa: PTH104
        return self._arrival(name)

    def _arrival(self, name: str) -> Arrival:
        path, exact = readable(str(self._places[_DONE] / name))
        item = Item(path, "file", str(self._home / name), path_bytes=exact)
        arrival = Arrival(item, time.monotonic())
        self._claims[item.identity] = _Claim(name, arrival.seen)
        self._names.add(name)
        return arrival

    def _forget(self, arrival: Arrival) -> None:
        claim = self._claims.pop(arrival.item.identity, None)
        if claim is not None:
            self._names.discard(claim.name)

    def _free_name(self, name: str, besides: Path | None = None) -> str:
        """`name`, or one made from it that is free in done, in failed and among all claims but `besides`."""
        with os.scandir(self._places[_TAKEN]) as entries:
            taken = [Path(entry.path) for entry in entries if entry.path != str(besides)]
        places = [self._places[_DONE], self._places[_FAILED], *taken]
        number, free = 1, name
        while free in self._names or any(os.path.lexists(place / free) for place in places):
            number += 1
            free = _numbered(name, number)
        return free

    def _settle_claim(self, name: str, place: str) -> None:
        """Move a file of ours to done or failed, whatever lies there."""
        number, free = 1, name
        while True:
            try:
                _move(self._home / name, self._places[place] / free)
            except FileExistsError:
                number += 1
                free = _numbered(name, number)
            except FileNotFoundError:
                return  # taken over, or the queue is away: whoever finds it there finds its rows as well
            else:
                return

    def _take_over(self) -> None:
        """Take the files of scanners that are dead. Raises OSError if the queue is away."""
        with os.scandir(self._places[_TAKEN]) as entries:
            others = [entry.name for entry in entries if not entry.name.startswith(".")]
        os.utime(self._home / _LEASE)
        now = (self._home / _LEASE).stat().st_mtime  # by the clock that dates their leases
        for other in others:
            home = self._places[_TAKEN] / other
            if home != self._home:
                with contextlib.suppress(FileNotFoundError):  # another scanner was quicker
                    self._take_over_from(home, now)

    def _take_over_from(self, home: Path, now: float) -> None:
        lease = home / _LEASE
        try:
            about = json.loads(lease.read_bytes())
            age = now - lease.stat().st_mtime
        except (FileNotFoundError, ValueError):  # whoever took it over before us died of it
            about, age = {}, now - home.stat().st_mtime
        lock = FolderLock.take(lease) if about else None
        if about and lock is None:
            return
        try:
            if not (_is_dead_here(about) or age > self._lease_s):
                return
            names = [name for name in os.listdir(home) if name != _LEASE]  # noqa: PTH208
            if names:
                self._warn(f"{len(names):,} files of the scanner {home.name}, which is dead, are taken over")
            committed = self._results_of(about)
            for name in names:
                self._take_from(home, name, committed)
            lease.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something is left in it
                home.rmdir()
        finally:
            if lock is not None:
                lock.release()

    def _take_from(self, home: Path, name: str, committed: Sequence[Committed]) -> None:
        place = self._place_in(committed, home / name, name)
        mine = name if place is not None else self._free_name(name, home)
        if mine in self._names:
            return  # later, when ours is settled
        try:
            os.rename(home / name, self._home / mine)  # noqa: PTH104
        except FileNotFoundError:
            return
        if place is None:
            self._recovered.append(self._arrival(mine))
        else:
            self._settle_claim(mine, place)

    def _place_in(self, committed: Sequence[Committed], path: Path, name: str) -> str | None:
        """Where a file belongs that a dead scanner has committed rows of; None if it has not."""
        status = path.stat()
        for results in committed:
            for place in (_DONE, _FAILED):
                last = results.last(identity_of(*readable(str(self._places[place] / name))))
                if last is None or last.was_missing:
                    continue
                # Names are used again once done is cleared out, so only its content tells an upload.
                changed = status.st_mtime_ns if last.digest is None else _JUST_NOW
                with contextlib.suppress(OSError):
                    if is_same(last, status.st_size, changed, str(path), self._settle):
                        return place
        return None

    def _results_of(self, about: dict[str, object]) -> Sequence[Committed]:
        """What this scan has committed, and what the dead one has, if its parts can be read."""
        out = about.get("out")
        if not isinstance(out, str) or Path(out) == self._out:
            return (self._committed,)
        try:
            return self._committed, Committed(Path(out))
        except OutputError as error:
            self._warn(f"{error}; files of it whose rows were committed there will get rows here as well")
            return (self._committed,)

    def _come_back(self) -> None:
        """The queue is away, or our folder is; make it anew if that can be done."""
        with contextlib.suppress(OSError):
            if self._places[_NEW].is_dir() and not (self._home / _LEASE).exists():
                self._lock.release()
                self._enlist()

    def _is_there(self, there: bool, problem: str) -> None:
        if there != self._there:
            self._warn(
                f"{self._folder} is back" if there else f"{self._folder} cannot be looked into: {problem}"
            )
        self._there = there


def _numbered(name: str, number: int) -> str:
    """x.jpg -> x~2.jpg, no longer than file systems take."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    room = _MOST_BYTES - len(os.fsencode(f"~{number}{suffix}"))
    if room < 1:
        stem, suffix, room = name, "", _MOST_BYTES - len(f"~{number}")
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return f"{stem}~{number}{suffix}"


def _move(source: Path, target: Path) -> None:
    """Rename, and raise FileExistsError if the target is taken; a rename that was half done is completed."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samefile(source, target):  # noqa: PTH121
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.ENOTSUP):
            raise
        if os.path.lexists(target):  # no hard links here: two scanners with one name may still collide
            raise FileExistsError(errno.EEXIST, "is there already", str(target)) from None
        source.rename(target)
        return
    source.unlink()


def _boot() -> str:
    """What tells this machine, since it was started, from others; "" if nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _is_dead_here(about: dict[str, object]) -> bool:
    """Whether a scanner of this machine, whose lease nobody has locked, has ended."""
    pid = about.get("pid")
    if about.get("boot") != _boot() or not _boot() or about.get("host") != socket.gethostname():
        return False
    if not isinstance(pid, int) or pid == os.getpid():  # a container that was started again: same number
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
