"""`stablesig registry`: add, revoke, check and pack the keys that a platform keeps in git."""

from __future__ import annotations

import sys
import time
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from stablesig.failures import warn
from stablesig.one_line import shown
from stablesig.progress import LINE_EVERY_S, StandardErrorBar

registry = typer.Typer(
    help="Keep the public keys of many providers in a folder under git.",
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_FORMATS = ["%Y-%m-%d"]
FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", show_default=False, help="The registry: a folder with registry.json.")
]
StateDayOption = Annotated[
    datetime | None,
    typer.Option(
        "--on",
        metavar="DATE",
        formats=_FORMATS,
        help="The day (UTC) for which the states of keys are told (default: today).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@registry.callback()
def _root(context: typer.Context) -> None:
    """Keep the public keys of many providers in a folder under git.

    A registry is a folder with registry.json and one small text file for each key: the public key, whose it
    is, which model carries it, its dates and its revocation. Give the folder to detect with --keys. See
    docs/registry.md for the format.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@registry.command()
def add(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            show_default=False,
            help="The registry; a folder that is missing or empty becomes one.",
        ),
    ],
    keys: Annotated[
        list[Path],
        typer.Argument(metavar="KEY.pub.json...", show_default=False, help="Public key files."),
    ],
    provider: Annotated[
        str, typer.Option("--provider", metavar="NAME", show_default=False, help="Whose keys they are.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="ORG/NAME",
            show_default=False,
            help="The model that carries the watermark.",
        ),
    ] = None,
    not_before: Annotated[
        datetime | None,
        typer.Option(
            "--not-before",
            metavar="DATE",
            formats=_FORMATS,
            help="First day (UTC) on which images are decoded with them.",
        ),
    ] = None,
    not_after: Annotated[
        datetime | None,
        typer.Option(
            "--not-after",
            metavar="DATE",
            formats=_FORMATS,
            help="Last day (UTC) on which images are decoded with them.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="TEXT",
            show_default=False,
            help="Who keeps the registry, for a new one (default: the folder's name).",
        ),
    ] = None,
) -> None:
    """Add public keys to a registry, which is made if there is none.

    Writes DIR/keys/XX/ID.json for each key and prints its path; nothing is overwritten. A secret key is
    refused. Example:

    stablesig registry add keys.git publisher.pub.json --provider "Example AI" --model example/vae
    """
    from stablesig_detector.key import load_key
    from stablesig_detector.key_entry import KeyEntry
    from stablesig_detector.registry import add_entry

    loaded = [load_key(path) for path in keys]  # all are sound before the first is added
    for key in loaded:
        entry = KeyEntry(key, provider, model, _day(not_before), _day(not_after))
        typer.echo(shown(add_entry(folder, entry, name=name)))
    _remind_of_pack(folder)


@registry.command()
def revoke(
    folder: FolderArgument,
    key_id: Annotated[
        str, typer.Argument(metavar="ID", show_default=False, help="The key's id, 16 hex digits.")
    ],
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", show_default=False, help="Why, as it is to be shown."),
    ],
    on: Annotated[
        datetime | None,
        typer.Option(
            "--on",
            metavar="DATE",
            formats=_FORMATS,
            help="The day (UTC) from which the key is revoked (default: today).",
        ),
    ] = None,
) -> None:
    """Mark a key as revoked.

    Changes two lines of its file. The key is looked for as before, since its images stay in the world; what
    is found is reported as under a revoked key.
    """
    from stablesig_detector.registry import entry_path, revoke_entry

    entry = revoke_entry(folder, key_id, reason=reason, on=_day(on))
    typer.echo(
        f"{entry.key.id} is revoked from {entry.revoked} on: {shown(entry_path(folder, entry.key.id))}"
    )
    _remind_of_pack(folder)


@registry.command("list")
def list_keys(
    folder: FolderArgument,
    on: StateDayOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys of a registry: id, state, provider, model.

    A file that is no sound entry is an error; registry check names them all.
    """
    from stablesig_detector.key_entry import today
    from stablesig_detector.registry import entry_description, read_registry

    day = _day(on) or today()
    entries = read_registry(folder)
    if as_json:
        import json

        rows = [
            {"id": entry.key.id, "state": entry.state_on(day), **entry_description(entry)}
            for entry in entries
        ]
        typer.echo(
            json.dumps({"schema": "stablesig-registry-list", "schema_version": 1, "keys": rows}, indent=2)
        )
        return
    for entry in entries:
        whose = "  ".join(part for part in (entry.provider, entry.model_id) if part)
        typer.echo(f"{entry.key.id}  {entry.state_on(day):<13}  {shown(whose)}")


@registry.command()
def check(
    folder: FolderArgument,
    on: StateDayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine every file of a registry, as for a pull request.

    Each entry must fit the JSON Schema that ships with stablesig, hold the key whose id names the file, have
    dates in order, and a reason where it is revoked. Prints every problem, then how many keys are in which
    state.

    Exit code: 0 all is sound, 4 there are problems.
    """
    from stablesig_detector.registry import check_registry

    result = check_registry(folder, on=_day(on))
    if as_json:
        typer.echo(_as_json(result))
    else:
        for path, problem in result.problems:
            typer.echo(f"{shown(path)}: {shown(problem)}")
        counts = ", ".join(f"{count:,} {state}" for state, count in result.states.items())
        typer.echo(f"{shown(result.name)}: {counts}")
    _remind_of_pack(folder)
    if result.problems:
        raise typer.Exit(4)


@registry.command()
def pack(
    folder: FolderArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            show_default=False,
            help="Another place for the pack, FILE.safetensors, which must not exist.",
        ),
    ] = None,
) -> None:
    """Pack a registry into one binary file, which opens in milliseconds.

    Writes DIR/registry.safetensors, in place of an older one. It is a cache of the entries: keep it out of
    git. detect --keys DIR takes it if it is up to date; detect --keys DIR/registry.safetensors takes it as it
    is, without a look at the entries.
    """
    from stablesig_detector.registry import entry_files
    from stablesig_detector.registry_pack import pack_registry

    with _Packing(len(entry_files(folder))) as progress:
        result = pack_registry(folder, out, on_entry=progress)
    typer.echo(f"{result.keys:,} keys, {result.bytes:,} bytes: {shown(result.path)}")


class _Packing(StandardErrorBar):
    """A context manager to call with each entry that was read."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._done, self._total = 0, total
        self._task = self._bar.add_task("packing", total=total)

    def __call__(self, entry: object) -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done)
        if self._bar.disable and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(f"packing: {self._done}/{self._total}", file=sys.stderr, flush=True)


def _day(given: datetime | None) -> date | None:
    return None if given is None else given.date()


def _remind_of_pack(folder: Path) -> None:
    """A pack that is there and out of date would be passed over, which takes a large registry long."""
    from stablesig_detector.errors import KeyFileError
    from stablesig_detector.registry import PACK_NAME
    from stablesig_detector.registry_pack import open_pack, stamp_of

    path = folder / PACK_NAME
    if not path.is_file():
        return
    try:
        fresh = open_pack(path).stamp == stamp_of(folder)
    except KeyFileError:
        fresh = False
    if not fresh:
        warn(f"{path} is out of date; run stablesig registry pack {folder}")


def _as_json(result: Any) -> str:
    import json

    return json.dumps(
        {
            "schema": "stablesig-registry-check",
            "schema_version": 1,
            "name": result.name,
            "states": {str(state): count for state, count in result.states.items()},
            "problems": [{"file": str(path), "problem": problem} for path, problem in result.problems],
        },
        indent=2,
    )
