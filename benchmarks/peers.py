"""The watermarked decoder beside the methods of invisible-watermark, on the same pictures and attacks.

    python benchmarks/peers.py --original taef2:DIR --watermarked taef2:OUT/key-0/vae --key OUT/key-0.json \
        --test KODAK --json FILE
    python benchmarks/peers.py --from FILE        # the table again, nothing is computed

--watermarked and --key may be given several times, in the same order. The peers mark the pictures that the
original decoder makes, with one random message for each key. The table goes to standard output, progress to
standard error. Needs the train extra and requirements-peers.txt; README.md says how to install them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_methods import (
    METHODS,
    PACKAGES,
    PEERS,
    Contender,
    peer_contender,
    stablesig_contender,
    use_threads,
)
from peer_table import Comparison, Method, Reading, markdown

from stablesig.failures import report
from stablesig.reconstruction import centre_crop
from stablesig.suites import (
    IMAGE_SUITE_NAMES,
    IMAGE_SUITES,
    SET_SUITES,
    DecoderContext,
    ImageAttack,
    SetAttack,
    available,
)
from stablesig_detector.errors import OutputError, OutputExistsError, StableSigError
from stablesig_detector.image import as_uint8, load_image
from stablesig_detector.key import load_key
from stablesig_detector.new_files import NewFile, write_new_files
from stablesig_train.decoders import load_autoencoder
from stablesig_train.held_out import Pixels, decode_pixels, mean_db, prepare, psnr_db
from stablesig_train.photographs import list_images
from stablesig_train.provenance import machine, public_source, versions

SIDE = 512  # px, of the centre crops
REGENERATION = "regeneration"  # the one suite of set attacks that means something for a mark added afterwards


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; exit codes are those of `stablesig`."""
    options = _options(argv)
    try:
        if options.json is not None and options.json.exists():  # now, not after hours
            raise OutputExistsError(f"{options.json} exists; name another file")
        if options.json is not None and not options.json.parent.is_dir():
            raise OutputError(f"{options.json.parent} is no folder; make it first")
        comparison = Comparison.read(options.from_file) if options.from_file else compare(options)
        print(markdown(comparison), end="", flush=True)  # first, so that a full disk does not lose it
        if options.json is not None:
            write_new_files([NewFile(options.json, comparison.encoded())])
    except (StableSigError, OSError) as error:
        return report(error)
    return 0


def compare(options: argparse.Namespace) -> Comparison:
    """Everything from loading the decoders to the last reading."""
    use_threads(1)  # for the times; and a missing package is noticed at once
    installed = versions() | {name: _version(name) for name in PACKAGES}
    keys = [load_key(path) for path in options.key]
    paths = list_images(options.test)[:: options.every]
    original = load_autoencoder(options.original)
    watermarked = [load_autoencoder(source) for source in options.watermarked]
    others = tuple(load_autoencoder(source) for source in options.other)
    suite = SET_SUITES[REGENERATION] if options.suite == REGENERATION else IMAGE_SUITES[options.suite]
    attacks, left_out = available(suite, len(others))
    say(f"decoding {len(paths)} images with the original decoder")
    crops = [_centre(path, original.stride) for path in paths]
    held_out = prepare(original, crops)
    peers = [peer for peer in PEERS if peer.method in options.methods]
    contenders = [stablesig_contender(keys, watermarked, held_out)]
    contenders += [peer_contender(peer, options.seed, held_out.originals) for peer in peers]

    say(f"timing, {options.runs} runs each")
    decode_seconds = cpu_seconds(options.runs, decode_pixels, original, held_out.latents[0])
    searches = sorted({attack.search for attack in attacks})
    seconds = [
        timed(one, [""] if number else searches, options.runs) for number, one in enumerate(contenders)
    ]
    timed_on = machine(torch.device("cpu"))

    use_threads(options.threads)
    psnr: list[list[float]] = [[] for _ in contenders]
    readings: list[Reading] = []
    for number, contender in enumerate(contenders):
        for key, decoder in enumerate(watermarked):
            say(f"{contender.name}, key {key}")
            marked = contender.marked(key)
            psnr[number] += [
                mean_db([psnr_db(*pair)]) for pair in zip(marked, held_out.originals, strict=True)
            ]
            context = DecoderContext(
                original=original,
                watermarked=decoder,
                others=others,
                key=keys[key],
                latents=held_out.latents,
                images=crops,
                marked=marked,
                originals=held_out.originals,
                seed=options.seed,
            )
            place = (options.seed * len(keys) + key) * len(marked)
            readings += read_all(contender, number, key, attacks, context, place)
    return Comparison(
        arguments=_arguments(options),
        versions=installed,
        machine=timed_on,
        suite=suite.name,
        images=[path.stem for path in paths],
        size=_size(held_out.originals),
        keys=[key.id for key in keys],
        methods=[
            Method(contender.name, contender.n_bits, psnr[number], *seconds[number])
            for number, contender in enumerate(contenders)
        ],
        readings=readings,
        decode_seconds=decode_seconds,
        left_out=list(left_out),
    )


def read_all(
    contender: Contender,
    number: int,
    key: int,
    attacks: Sequence[ImageAttack | SetAttack],
    context: DecoderContext,
    first_place: int,
) -> Iterator[Reading]:
    """Readings of the unmarked pictures, then of the marked ones under every attack."""
    looks: list[tuple[str | None, str, Iterator[Pixels]]] = [(None, "fast", iter(context.originals))]
    looks += [(attack.name, attack.search, attacked(attack, context, first_place)) for attack in attacks]
    for name, search, pictures in looks:
        for image, picture in enumerate(pictures):
            yield Reading(number, key, image, name, *contender.found(picture, key, search))


def attacked(attack: ImageAttack | SetAttack, context: DecoderContext, first_place: int) -> Iterator[Pixels]:
    """The attacked `context.marked`. The place is the picture's, so every method meets the same crops."""
    if isinstance(attack, SetAttack):
        return attack.apply(context)
    return (attack.apply(picture, first_place + index) for index, picture in enumerate(context.marked))


def timed(
    contender: Contender, searches: Sequence[str], runs: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of marking one picture, and of looking for the mark by search."""
    finding = {search: cpu_seconds(runs, contender.find_one, search) for search in searches}
    return cpu_seconds(runs, contender.mark_one), finding


def cpu_seconds(runs: int, work: Callable[..., object], *arguments: object) -> list[float]:
    """Processor time of this process for `work`, run by run, after one run that does not count.

    With one thread that is the wall time on an idle machine; other processes hardly show in it.
    """
    work(*arguments)
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        work(*arguments)
        seconds.append(time.process_time() - started)
    return seconds


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # another distribution of it, such as opencv-python
        return None


def _centre(path: Path, stride: int) -> Pixels:
    """The middle of a test image, at most SIDE on a side, trimmed to multiples of `stride`."""
    crop = as_uint8(centre_crop(load_image(path), SIDE))
    height, width = (side // stride * stride for side in crop.shape[:2])
    return np.ascontiguousarray(crop[:height, :width])


def _size(pictures: Sequence[Pixels]) -> str:
    return ", ".join(f"{width} x {height}" for height, width, _ in sorted({one.shape for one in pictures}))


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The options that decide numbers, paths by their last name only."""
    same = {name: getattr(options, name) for name in ("every", "seed", "methods", "runs")}
    return same | {
        "original": public_source(options.original),
        "other": [public_source(source) for source in options.other],
        "test": options.test.resolve().name,
    }


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add: Any = parser.add_argument
    add("--original", metavar="VAE", help="autoencoder before watermarking, such as taef2:DIR")
    add("--watermarked", metavar="VAE", action="append", default=[], help="what embed wrote; repeatable")
    add("--key", type=Path, metavar="FILE", action="append", default=[], help="its key; secret to count bits")
    add("--test", type=Path, metavar="DIR", help=f"photographs to measure on, centre crops of {SIDE} px")
    add("--suite", choices=(*IMAGE_SUITE_NAMES, REGENERATION), default="targets", help="default: targets")
    add("--other", metavar="VAE", action="append", default=[], help=f"another one for {REGENERATION}")
    add(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME", help="some peers only"
    )
    add("--every", type=int, default=1, metavar="N", help="use every N-th test image")
    add("--seed", type=int, default=0, metavar="N", help="of the peers' messages and the attacks")
    add("--runs", type=int, default=5, metavar="N", help="that times are the median of (default: 5)")
    add("--threads", type=int, default=1, metavar="N", help="of the work that is not timed (default: 1)")
    add("--json", type=Path, metavar="FILE", help="also write every reading; must not exist")
    add("--from", dest="from_file", type=Path, metavar="FILE", help="print a finished run's table")
    options = parser.parse_args(argv)
    if options.from_file is None:
        missing = [name for name in ("original", "watermarked", "key", "test") if not getattr(options, name)]
        if missing:
            parser.error(f"these are needed, or --from: {', '.join(f'--{name}' for name in missing)}")
        if len(options.watermarked) != len(options.key):
            parser.error("give --watermarked and --key equally often, in the same order")
    for name, least in (("every", 1), ("seed", 0), ("runs", 1), ("threads", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is a whole number from {least}; got {getattr(options, name)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
