"""What the sources of a scan name: one Item for each image, lazily, however many there are."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from stablesig_detector.errors import UsageError
from stablesig_detector.image import IMAGE_SUFFIXES

from .addresses import REMOTE_SCHEMES, WEB_SCHEMES, ending, has_password, public_address, scheme_of
from .archives import archive_items, is_archive
from .folders import list_folder, refused_folder, walk
from .item import ErrorKind, Item, ItemKind, readable
from .item_error import ItemError, from_os_error
from .lists import Listed, is_list, read_list
from .opening import is_local, local_path, open_source
from .patterns import Entry, ListFolder, expand_braces, has_braces, has_magic, matching
from .reading import ReadOptions, with_retries

STANDARD_INPUT_LIST = "@-"


@dataclass(frozen=True)
class SourceOptions:
    """How sources are searched.

    recursive: also the folders in a folder
    all_files: also files whose names have no suffix of an image
    follow_links: enter links to folders, each real folder once
    archives: open the archives that are found in folders; those that are named, also by a pattern, always are
    column: of the tables that list inputs; None: the first of `lists.COLUMNS`
    read: for lists and archives that are elsewhere, and what of archives is read here
    """

    recursive: bool = True
    all_files: bool = False
    follow_links: bool = False
    archives: bool = False
    column: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)


def find_items(sources: Sequence[str], options: SourceOptions = SourceOptions()) -> Iterator[Item]:
    """The inputs that `sources` name, in their order, lazily and in bounded memory.

    A source is one of
    - a file, with any name; a folder, searched for IMAGE_SUFFIXES; a pattern with `*`, `?`, `[]`, `**`;
    - a list (`lists.LIST_SUFFIXES`, or any file as "@FILE", "@-" for standard input) of paths, which are
      relative to the working directory, and addresses;
    - an archive (`archives.ARCHIVE_SUFFIXES`), whose images are named ARCHIVE::MEMBER;
    - an address, http(s):// or of a store that fsspec reads, of any of these.
    Braces as in shard-{000..009}.tar are expanded first, unless there is a file of that name.

    Contents of a folder come sorted by name, in one with more than 100,000 entries in sorted pieces. Links to
    files are followed wherever they lead. Links to folders are not: one that leads out of the source is a
    refused item, others lead to what is found in its place. What cannot be found or read is a refused item,
    and so is a folder or an archive without images. An input that two sources name comes twice, with the same
    identity; a file that has two names (relative and absolute, or links) is two inputs.

    Raises UsageError, at once, if there is no source, if none of them exists, or if a table lacks the column.
    """
    if not sources:
        raise UsageError("no source is given; name files, folders, lists, archives or addresses")
    for source in sources:
        _check(source, options)
    finder = _Finder(options)
    items = finder.all(sources)
    drawn: list[Item] = []
    for item in items:
        drawn.append(item)
        if finder.missing < len(drawn):
            return chain(drawn, items)
    texts = [str(item.error) for item in drawn[:3]]
    more = f"; and {len(drawn) - 3} more" if len(drawn) > 3 else ""
    raise UsageError(f"no source can be found: {'; '.join(texts)}{more}")


def _check(source: str, options: SourceOptions) -> None:
    """Raise UsageError for a table without the column, MissingExtraError for a store that needs a package."""
    name = source.removeprefix("@")
    if source == STANDARD_INPUT_LIST or not (name != source or is_list(ending(name))):
        if scheme_of(source) in REMOTE_SCHEMES:
            from .remote import filesystem

            with suppress(ItemError):
                filesystem(source)
        return
    with suppress(ItemError, OSError):
        if is_local(name) and not scheme_of(name) and not os.path.isfile(name):  # noqa: PTH113  raises on a NUL
            return
        with closing(open_source(name, options.read)) as file:
            next(read_list(file, name, options.column), None)


class _Finder:
    def __init__(self, options: SourceOptions) -> None:
        self.options = options
        self.missing = 0  # sources that are not there, each of which gave one item

    def all(self, sources: Sequence[str]) -> Iterator[Item]:
        for source in sources:
            if has_braces(source) and not (is_local(source) and os.path.lexists(source)):
                for name in expand_braces(source):
                    yield from self._source(name)
            else:
                yield from self._source(source)

    def _source(self, name: str) -> Iterator[Item]:
        if name == "-":
            yield self._absent(name, 'is no source; "@-" reads a list of paths from standard input')
        elif not name:
            yield self._absent("''", "names nothing; give a path or an address")
        elif name.startswith("@"):
            yield from self._list(name[1:])
        elif is_local(name):
            yield from self._on_disk(name)
        elif scheme_of(name) in WEB_SCHEMES:
            yield from self._list(name) if is_list(ending(name)) else _one(name, self.options)
        else:
            yield from self._in_store(name.rstrip("/") if name.rstrip("/")[-1:] not in ":" else name)

    def _absent(self, name: str, problem: str, kind: ErrorKind = "missing") -> Item:
        self.missing += 1
        return _refused(name, problem, kind)

    def _on_disk(self, name: str) -> Iterator[Item]:
        try:
            path = local_path(name) if scheme_of(name) else str(Path(name))
            state = os.stat(path)  # noqa: PTH116
        except ItemError as error:
            yield self._absent(name, str(error).partition(": ")[2])
        except ValueError:
            yield self._absent(name, "is not a valid path")
        except OSError as error:
            if has_magic(path) and isinstance(error, (FileNotFoundError, NotADirectoryError)):
                yield from self._pattern(path)
                return
            found = from_os_error(path, error)
            self.missing += found.kind == "missing"
            yield _refused_as(path, found)
        else:
            if stat.S_ISDIR(state.st_mode):
                yield from self._folder(path, list_folder)
            elif not stat.S_ISREG(state.st_mode):
                yield _refused(path, "is a pipe, a device or a socket, which is never opened", "not-a-file")
            elif is_list(path.lower()):
                yield from self._list(path)
            else:
                yield from _one(path, self.options)

    def _in_store(self, address: str) -> Iterator[Item]:
        from . import remote

        options = self.options
        if is_list(ending(address)) and not has_magic(address):
            yield from self._list(address)
            return
        try:
            kind = with_retries(lambda: remote.kind_of(address), options.read)
        except ItemError as error:
            yield _refused_as(public_address(address), error)
            return
        if kind == "folder":
            yield from self._folder(address, remote.list_remote)
        elif kind == "missing" and has_magic(address):
            yield from self._pattern(address)
        elif kind == "missing":
            yield self._absent(public_address(address), "is not there, or may not be seen; check the address")
        else:
            yield from _one(address, options)

    def _folder(self, root: str, listing: ListFolder) -> Iterator[Item]:
        options = self.options
        found, archives = False, 0
        listing = _retrying(listing, options.read) if scheme_of(root) else listing
        entries = walk(root, listing, recursive=options.recursive, follow_links=options.follow_links)
        for entry in entries:
            if isinstance(entry, Entry):
                archives += is_archive(entry.name.lower())
                for item in self._entry(entry, root):
                    found = True
                    yield item
            else:
                found = True
                yield entry
        if not found:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            opened = f"; to open the {archives:,} archives in it, name them" if archives else ""
            problem = f"holds no images; they are known by their names ({known}){opened}"
            yield _refused(root, problem, "missing")

    def _entry(self, entry: Entry, root: str) -> Iterator[Item]:
        """What is to be done about something that was found in a folder."""
        options, name = self.options, entry.name.lower()
        if entry.kind == "link":
            if options.recursive and not _is_within(entry.path, root):
                problem = "is a link to a folder elsewhere, which is not followed; name that folder"
                yield _refused(entry.path, problem, "not-a-file")
        elif is_archive(name) and options.archives:
            yield from _file_of(entry, options, archive=True)
        elif options.all_files or os.path.splitext(name)[1] in IMAGE_SUFFIXES:  # noqa: PTH122
            yield from _file_of(entry, options, archive=False)

    def _pattern(self, pattern: str) -> Iterator[Item]:
        base, parts, plain = _split(pattern)
        problems: list[Item] = []
        lists = is_list(pattern.lower())
        anywhere = "**" in parts
        listing = _noting(_retrying(plain, self.options.read), problems)
        found = folders = 0
        for entry in matching(base, parts, listing):
            if entry.kind in ("folder", "link"):
                folders += 1
                if anywhere:  # which has matched what is in the folder already
                    continue
                items = self._folder(entry.path, plain)
            elif lists and entry.kind == "file":
                items = self._list(entry.path)
            else:
                items = _file_of(entry, self.options, archive=is_archive(entry.name.lower()))
            found += 1
            yield from items
            yield from _drained(problems)
        at_base = [item for item in problems if item.location == base]
        if found or len(problems) > len(at_base) or any(item.error_kind != "missing" for item in at_base):
            yield from problems
        elif folders:
            yield self._absent(pattern, "matches folders only; end it with /* for the files in them")
        else:
            yield self._absent(pattern, "no file matches this pattern; check it")

    def _list(self, name: str) -> Iterator[Item]:
        shown = "standard input" if name == "-" else name if is_local(name) else public_address(name)
        found = False
        try:
            with closing(_opened_list(name, self.options.read)) as file:
                for entry in read_list(file, shown, self.options.column):
                    for item in _listed(shown, entry, self.options):
                        found = True
                        yield item
        except ItemError as error:
            self.missing += error.kind == "missing" and not found
            yield _refused_as(shown, error)
        except UsageError as error:  # of a list that a pattern has found: the scan has begun
            yield _refused(shown, str(error).removeprefix(f"{shown}: "), "damaged")
        except OSError as error:
            yield _refused_as(shown, from_os_error(shown, error))
        else:
            if not found:
                yield _refused(shown, "is an empty list", "missing")


def _one(location: str, options: SourceOptions) -> Iterator[Item]:
    """The images of something that was named outright: an archive by its name, or else an image."""
    if is_archive(ending(location)):
        yield from archive_items(location, options.read, all_files=options.all_files)
        return
    scheme = scheme_of(location)
    if scheme is None:
        name, exact = readable(location)
        yield Item(name, "file", location, path_bytes=exact)
    else:
        kind: ItemKind = "url" if scheme in WEB_SCHEMES else "remote"
        yield Item(public_address(location), kind, location)


def _file_of(entry: Entry, options: SourceOptions, *, archive: bool) -> Iterator[Item]:
    """The images of something that was found, of any kind but a folder."""
    if entry.kind == "other":
        if entry.errno:
            yield _refused_as(entry.path, from_os_error(entry.path, OSError(entry.errno, "")))
        else:
            yield _refused(entry.path, "is a pipe, a device or a socket, which is never opened", "not-a-file")
    elif archive:
        yield from archive_items(entry.path, options.read, all_files=options.all_files)
    elif scheme_of(entry.path) is None:
        name, exact = readable(entry.path)
        yield Item(name, "file", entry.path, path_bytes=exact)
    else:
        yield Item(public_address(entry.path), "remote", entry.path, size=entry.size)


def _listed(shown: str, entry: Listed, options: SourceOptions) -> Iterator[Item]:
    """The images of one entry of a list. Nothing is looked at here but archives."""
    name = entry.name.strip() if scheme_of(entry.name.strip()) else entry.name
    place = f"{shown}::{entry.place}"
    if entry.problem is not None:
        yield _refused(place, entry.problem, "missing")
    elif entry.data is not None:
        if len(entry.data) > options.read.max_bytes:
            problem = f"is more than {options.read.max_bytes:,} bytes; make it smaller"
            yield _refused(place, problem, "too-large")
        else:
            path, exact = readable(place)
            yield Item(path, "data", size=len(entry.data), data=entry.data, path_bytes=exact)
    elif scheme_of(name) is None and has_password(name):
        yield _refused(public_address(name), "is neither a path nor an address", "missing")
    elif "\0" in name or not _is_path(name):
        text = name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
        yield _refused(f"{place}: {text}", "is not a valid path", "missing")
    elif scheme_of(name) == "file":
        try:
            yield from _one(str(Path(local_path(name))), options)
        except ItemError as error:
            yield _refused_as(public_address(name), error)
    elif scheme_of(name) is not None:
        yield from _one(name, options)
    else:
        yield from _one(str(Path(name)), options)


def _is_path(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        return False
    return True


def _is_within(link: str, root: str) -> bool:
    real, tree = os.path.realpath(link), os.path.realpath(root)
    return real == tree or real.startswith(tree.rstrip(os.sep) + os.sep)


def _refused(name: str, problem: str, kind: ErrorKind) -> Item:
    shown, exact = readable(name)
    return Item(shown, "refused", name, path_bytes=exact, error=f"{shown}: {problem}", error_kind=kind)


def _refused_as(name: str, error: ItemError) -> Item:
    shown, exact = readable(name)
    text = str(error).encode("utf-8", "backslashreplace").decode()
    return Item(shown, "refused", name, path_bytes=exact, error=text, error_kind=error.kind)


def _opened_list(name: str, options: ReadOptions) -> BinaryIO:
    if name != "-":
        return open_source(name, options)
    if sys.stdin is None:
        raise ItemError("standard input: there is none; name a list", "missing")
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb")


def _split(pattern: str) -> tuple[str, tuple[str, ...], ListFolder]:
    """(the folder that it begins in, the parts below that, what lists folders there)."""
    scheme = scheme_of(pattern)
    if scheme is None:
        parts = Path(pattern).parts
        first = next(number for number, part in enumerate(parts) if has_magic(part))
        return (str(Path(*parts[:first])) if first else ""), parts[first:], list_folder
    from .remote import list_remote

    head, _, rest = pattern.partition("://")
    parts = tuple(rest.split("/"))
    first = next(number for number, part in enumerate(parts) if has_magic(part))
    return f"{head}://{'/'.join(parts[:first])}", parts[first:], list_remote


def _retrying(listing: ListFolder, options: ReadOptions) -> ListFolder:
    """The same, trying again where a store's listing fails in passing."""

    def tried(folder: str) -> Iterator[Entry]:
        if scheme_of(folder) is None:
            return listing(folder)
        return iter(with_retries(lambda: list(listing(folder)), options))

    return tried


def _noting(listing: ListFolder, problems: list[Item]) -> ListFolder:
    """The same, with folders that cannot be listed as items in `problems`, and empty."""

    def noted(folder: str) -> Iterator[Entry]:
        try:
            yield from listing(folder)
        except (OSError, ItemError) as error:
            problems.append(refused_folder(folder, error))

    return noted


def _drained(problems: list[Item]) -> Iterator[Item]:
    while problems:
        yield problems.pop(0)
