"""One BLAS thread a worker. Workers for all cores, each with threads for all cores, get in one another's way.

The environment variables that say so are read when the library is loaded, which was before the workers were
forked. So the libraries that this process has loaded are told directly.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Any

_LIBRARIES = ("openblas", "mkl_rt", "blis", "flexiblas")  # in the names of files
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# NumPy's wheels carry an OpenBLAS whose functions have a prefix and a suffix of their own.
_OPENBLAS = ("scipy_openblas_{}64_", "openblas_{}64_", "scipy_openblas_{}", "openblas_{}")
_SETTERS = (
    *(form.format("set_num_threads") for form in _OPENBLAS),
    "MKL_Set_Num_Threads",
    "bli_thread_set_num_threads",
    "flexiblas_set_num_threads",
)
_GETTERS = tuple(form.format("get_num_threads") for form in _OPENBLAS)


def pin_blas_threads() -> None:
    """Let the BLAS libraries of this process, and those that it loads later, use one thread each.

    Does nothing where they cannot be found (there is no /proc on macOS).
    """
    os.environ.update(dict.fromkeys(_VARIABLES, "1"))
    for library in _loaded():
        for name in _SETTERS:
            setter = getattr(library, name, None)
            if setter is not None:
                setter.argtypes, setter.restype = [ctypes.c_int], None
                setter(1)
                break


def blas_threads() -> list[int]:
    """How many threads each OpenBLAS of this process may use; empty where there is none to be found."""
    getters = ([getattr(library, name, None) for name in _GETTERS] for library in _loaded())
    return [next(int(getter()) for getter in found if getter) for found in getters if any(found)]


def _loaded() -> list[Any]:
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if line.count("/")}
    libraries = []
    for path in sorted(paths):
        if any(name in Path(path).name.lower() for name in _LIBRARIES):
            with contextlib.suppress(OSError):
                libraries.append(ctypes.CDLL(path))
    return libraries
