"""The benchmark of many keys: it measures what it says, on few keys here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from stablesig_detector.registry_pack import open_pack

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
try:
    many_keys = importlib.import_module("many_keys")
finally:
    sys.path.pop(0)


def test_it_draws_a_pack_and_measures_each_number_of_keys(tmp_path: Path) -> None:
    pack = many_keys.drawn_pack(tmp_path / "keys.safetensors", 30)
    [block] = open_pack(pack).blocks
    assert len({entry.key.id for entry in block.entries}) == 30
    few = many_keys.first_keys(block, 7)
    assert [key.id for key in few.keys] == [entry.key.id for entry in block.entries[:7]]
    measured = many_keys.measure(pack, (1, 10, 30), rounds=3, best=2)
    assert [row["keys"] for row in measured["rows"]] == [1, 10, 30]
    assert all(len(row["ms"]) == len(row["added_ms"]) == 3 for row in measured["rows"])
    assert measured["rows"][0]["added_ms"] == [0.0, 0.0, 0.0]
    text = many_keys.table(measured)
    assert "| 30 |" in text
    assert "opened in" in text
