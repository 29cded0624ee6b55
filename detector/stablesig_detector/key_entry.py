"""A key and what is known about it: whose it is, of which model, and in which time it speaks for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import TypeAlias, overload

from .key import PublicKey, SecretKey

Key: TypeAlias = SecretKey | PublicKey


class KeyState(StrEnum):
    """What a key is worth on a day. A key in any state is looked for; the state goes beside the evidence."""

    VALID = "valid"
    NOT_YET_VALID = "not yet valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


def today() -> date:
    """The day in UTC, on which all dates of keys are."""
    return datetime.now(UTC).date()


@dataclass(frozen=True)
class KeyEntry:
    """A key with its provenance.

    key: the key itself.  provider, model_id: whose it is and which model carries it, as its file or registry
    says; None where it does not.  not_before, not_after: first and last day (UTC) on which images are decoded
    with it; None for no bound.  revoked: the day from which the key speaks for its provider no more.  reason:
    why.  file: where it was read, for messages.
    """

    key: Key
    provider: str | None = None
    model_id: str | None = None
    not_before: date | None = None
    not_after: date | None = None
    revoked: date | None = None
    reason: str | None = None
    file: str = ""

    def state_on(self, day: date) -> KeyState:
        """The state of the key on a day; a revocation outweighs the dates of validity."""
        if self.revoked is not None and day >= self.revoked:
            return KeyState.REVOKED
        if self.not_before is not None and day < self.not_before:
            return KeyState.NOT_YET_VALID
        if self.not_after is not None and day > self.not_after:
            return KeyState.EXPIRED
        return KeyState.VALID


def merged(first: KeyEntry, second: KeyEntry) -> KeyEntry:
    """Two entries for one key as one: what either knows, `first` where both do.

    The secret key is kept before the public one, as it also reads the message, and the earlier revocation
    before the later: whoever says that a key is revoked is believed. Both dates of validity are of one entry.
    """
    revoking = min(
        (entry for entry in (first, second) if entry.revoked is not None),
        key=lambda entry: entry.revoked or date.max,
        default=None,
    )
    described = first if _is_described(first) else second
    dated = first if first.not_before is not None or first.not_after is not None else second
    return replace(
        described,
        key=second.key if isinstance(second.key, SecretKey) else first.key,
        provider=first.provider or second.provider,
        model_id=first.model_id or second.model_id,
        not_before=dated.not_before,
        not_after=dated.not_after,
        revoked=None if revoking is None else revoking.revoked,
        reason=None if revoking is None else revoking.reason,
    )


def _is_described(entry: KeyEntry) -> bool:
    """Whether an entry says more than the key: then its file is the one to show."""
    told = (entry.provider, entry.model_id, entry.not_before, entry.not_after, entry.revoked)
    return any(value is not None for value in told)


class LazyEntries(Sequence[KeyEntry]):
    """Entries that are made when they are asked for. A subclass says how many there are, and makes one."""

    @abstractmethod
    def _at(self, place: int) -> KeyEntry:
        """The entry at 0 <= place < len(self)."""

    @overload
    def __getitem__(self, index: int) -> KeyEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[KeyEntry]: ...
    def __getitem__(self, index: int | slice) -> KeyEntry | Sequence[KeyEntry]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._at(range(len(self))[index])
