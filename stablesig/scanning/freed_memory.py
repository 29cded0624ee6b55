"""Memory that a worker has freed stays with it, for the next image.

glibc gives large pieces back to the system at once, and the system clears them before it hands them out
again: each image pays for fresh pages of its pixels, about as long as half of its decoding.
"""

from __future__ import annotations

from stablesig_detector.allocator import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, set_allocator

LARGEST = 32 << 20  # bytes of one piece, the most that glibc allows: a picture of 8 to 10 megapixels
_KEPT = 64 << 20  # bytes in all


def keep_freed_memory() -> bool:
    """Let this process keep pieces of up to LARGEST bytes, 64 MB in all; whether it can (glibc)."""
    return set_allocator((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, _KEPT))
