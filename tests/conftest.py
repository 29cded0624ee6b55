"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# No test may fail because the machine is busy, and the same examples come every time.
settings.register_profile("stablesig", deadline=None, derandomize=True)
settings.load_profile("stablesig")
