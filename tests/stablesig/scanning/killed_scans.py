"""Scans that are killed at random moments and gone on with. A program of its own, for test_api.

    python killed_scans.py KEY.json PICTURES FOLDER KILLS SEED ENDING

Scans PICTURES into FOLDER/0ENDING, kill -9 after kill -9, until that is there, then into FOLDER/1ENDING, and
so on until there were so many kills; the last one is let come to its end. Prints what was seen, as JSON. The
moments are drawn by the parts that are committed, and a time after that: so they are spread over all of a
scan, however fast it is. The scans are forked from here, which takes 20 ms in place of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import pyarrow.parquet  # noqa: F401  so that every scan need not

from stablesig.scanning import api
from stablesig.scanning.run_folder import holds_scan, places
from stablesig.scanning.settings import ScanSettings
from stablesig_detector.key_set import load_key_set


def start(pictures: str, out: str, settings: ScanSettings) -> int:
    """The process of a scan, the leader of its group."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    code = 1
    try:
        _, folder, _ = places(out)
        api.scan([pictures], settings, out, jobs=2, resume=holds_scan(folder))
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def members(group: int) -> list[int]:
    """Processes of a group that live."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    found.append(int(place.name))
    return found


def killed(process: int, folder: str, parts: int, seconds: float) -> bool:
    """Kill -9 when so many parts lie in `folder`, and so many seconds have passed since.

    Whether it had not ended by itself. Its workers must be gone soon after.
    """
    reached = None
    while reached is None or time.monotonic() < reached + seconds:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"a scan failed with {os.waitstatus_to_exitcode(status)}")
            return False
        if reached is None and parts_in(folder) >= parts:
            reached = time.monotonic()
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    for _ in range(500):
        if not members(process):
            return True
        time.sleep(0.01)
    raise SystemExit(f"workers outlive their scan by 5 s: {members(process)}")


def parts_in(folder: str) -> int:
    with contextlib.suppress(FileNotFoundError):  # it is taken away at the end, perhaps just now
        return sum(path.name.startswith("part-") for path in Path(folder).iterdir())
    return 0


def main(key: str, pictures: str, folder: str, kills: str, seed: str, ending: str) -> None:
    api.PART_ROWS, api.PART_SECONDS = 7, 0.05
    settings, moments = ScanSettings(load_key_set([key])), random.Random(int(seed))
    outs, done, seen = 0, 0, set()
    while True:
        out = f"{folder}/{outs}{ending}"
        parts = str(places(out)[1])
        process = start(pictures, out, settings)
        if done == int(kills):
            break
        # From before the first part to the merging of the last.
        if killed(process, parts, parts_in(parts) + moments.randrange(6), moments.uniform(0.0, 0.1)):
            done += 1
            seen.add(parts_in(parts))
            outs += not holds_scan(Path(parts)) and Path(out).exists()  # it was at its very end
        else:
            outs += 1
    if os.waitpid(process, 0)[1]:
        raise SystemExit("the last scan failed")
    print(json.dumps({"outs": outs + 1, "kills": done, "parts": sorted(seen)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
