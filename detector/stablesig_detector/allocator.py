"""What may be asked of the C library's allocator, where that is glibc's: mallopt(3)."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4


def set_allocator(*settings: tuple[int, int]) -> bool:
    """Set parameters of this process's allocator, (parameter, value) each; whether all were taken.

    Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    taken = [mallopt(parameter, value) for parameter, value in settings]  # all, in any case
    return all(taken)
