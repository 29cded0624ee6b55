"""The keys that `stablesig detect` looks for: files, folders and registries, repositories on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stablesig_detector.detection import check_key
from stablesig_detector.errors import UsageError
from stablesig_detector.key_set import KeySet, detector_space, load_key_set

if TYPE_CHECKING:
    from stablesig_detector.key_entry import KeyEntry


def keys_to_look_for(files: Sequence[Path], folders: Sequence[Path], models: Sequence[str]) -> KeySet:
    """All keys, each once: those named one by one first.

    A key that is named and was drawn for another detector is an error; of a folder or registry such keys are
    left out, and the set's notes say so. A model of which only a commitment is published vouches for the key
    that is named beside it, if it is the one. Raises UsageError without any key, KeyFileError.
    """
    if not files and not folders and not models:
        raise UsageError("there is no key to look for; give --key, --keys or --model; see --help")
    named = load_key_set(files) if files else KeySet.of([])
    found = load_key_set(folders) if folders else KeySet.of([])
    described = [_of_model(model, named, found) for model in models]
    one_by_one = KeySet.of([*described, *(named.entries if files else [])], on=named.on)
    space = detector_space()
    for block in one_by_one.blocks:
        if block.space != space:
            check_key(block.entries[0].key, space.feature_version, space.dimension, space.statistics_sha256)
    if not folders:
        return one_by_one
    return found.and_entries(one_by_one.entries).for_detector()


def _of_model(model: str, *known: KeySet) -> KeyEntry:
    """The key of ORG/NAME or ORG/NAME@REVISION, as an entry that says whose it is."""
    from stablesig.hub_key import load_hub_key

    repo_id, _, revision = model.partition("@")
    declared = load_hub_key(repo_id, revision or None)
    if declared.key is None:
        for keys in known:
            try:
                entry = keys.entry(declared.key_id)
            except KeyError:
                continue
            return declared.confirmed(entry.key)
    return declared.entry()
