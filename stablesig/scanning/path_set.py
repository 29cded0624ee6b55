"""A set of the identities of inputs that holds 10^8 of them in about 2 GB."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
from numpy.typing import NDArray

IDENTITY_BYTES = 16
_DTYPE = np.dtype(f"S{IDENTITY_BYTES}")  # drops NULs at the end, which at a fixed length confuses no two
_BUCKETS = 256  # by the first byte, which is as good as random; one is copied at a time when it grows
_RECENT = 1 << 17  # identities kept in a Python set, 100 bytes each, until there are so many of them,
_SHARE = 32  # or this share of all: so that each is copied about 32 times in all, however many there are


class PathSet:
    """Identities of inputs (`Item.identity`): any 16 bytes that are spread evenly, as hashes are.

    Takes 16 bytes for each identity in sorted arrays, and 3 more for those that came last.
    """

    def __init__(self, identities: Iterable[bytes] = ()) -> None:
        self._recent: set[bytes] = set()
        self._buckets: dict[int, NDArray[np.bytes_]] = {}
        self._settled = 0
        self.update(identities)

    def __len__(self) -> int:
        return self._settled + len(self._recent)

    def __contains__(self, identity: bytes) -> bool:
        if identity in self._recent:
            return True
        bucket = self._buckets.get(identity[0])
        if bucket is None:
            return False
        at = int(np.searchsorted(bucket, np.array(identity, _DTYPE)))
        return at < len(bucket) and bool(bucket[at] == identity.rstrip(b"\0"))

    def add(self, identity: bytes) -> bool:
        """Whether it was not there before."""
        if len(identity) != IDENTITY_BYTES:
            raise ValueError(f"an identity has {IDENTITY_BYTES} bytes; got {len(identity)}")
        if identity in self:
            return False
        self._recent.add(identity)
        if len(self._recent) >= max(_RECENT, self._settled // _SHARE):
            recent, self._recent = self._recent, set()
            self._settle(b"".join(recent))
        return True

    def update(self, identities: Iterable[bytes]) -> None:
        """Add all of them; far quicker than one at a time."""
        coming = iter(identities)
        while True:
            block = list(islice(coming, max(_RECENT, self._settled // _SHARE)))
            if not block:
                return
            if any(len(identity) != IDENTITY_BYTES for identity in block):
                raise ValueError(f"an identity has {IDENTITY_BYTES} bytes")
            if len(block) < 1000:  # not worth the copying
                for identity in block:
                    self.add(identity)
                continue
            block.extend(self._recent)
            self._recent = set()
            self._settle(b"".join(block))

    def _settle(self, joined: bytes) -> None:
        """Merge identities into the sorted arrays; those that are there are passed over."""
        added = np.unique(np.frombuffer(joined, _DTYPE))
        first_bytes = np.frombuffer(added.tobytes(), np.uint8)[::IDENTITY_BYTES]
        starts = np.searchsorted(first_bytes, np.arange(_BUCKETS + 1))
        for byte in range(_BUCKETS):
            new = added[starts[byte] : starts[byte + 1]]
            if not len(new):
                continue
            bucket = self._buckets.get(byte)
            if bucket is None:
                self._buckets[byte] = new.copy()
                self._settled += len(new)
                continue
            at = np.searchsorted(bucket, new)
            there = at < len(bucket)
            there[there] = bucket[at[there]] == new[there]
            self._buckets[byte] = np.insert(bucket, at[~there], new[~there])
            self._settled += int(np.count_nonzero(~there))
