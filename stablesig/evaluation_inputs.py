"""What `evaluate` is given: the folder that `embed` wrote, the autoencoder that it was made from, the key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig_detector.errors import DecoderError, KeyFileError, UsageError

if TYPE_CHECKING:
    import torch

    from stablesig_detector.detection import Key
    from stablesig_train.decoders import Autoencoder
    from stablesig_train.training_images import ImageFile

SHIPPED = "tiny-vae"  # the autoencoder in the package, and what watermark.json calls it
_NEEDED = {  # of watermark.json
    "autoencoder": ("files", "kind", "latent_channels", "revision", "source", "stride"),
    "images": ("held_out_sha256", "manifest_sha256"),
    "key": ("id",),
}
_DECODER = "decoder."  # the tensors that `embed` changes


@dataclass(frozen=True)
class Watermarked:
    """A folder as `embed` wrote it: every weight is the one that watermark.json lists.

    facts: the content of watermark.json.  files: name in vae/ -> SHA-256.  source: what `load_autoencoder`
    takes.
    """

    folder: Path
    facts: dict[str, Any]
    files: dict[str, str]
    source: Path

    @property
    def autoencoder(self) -> Mapping[str, Any]:
        """kind, source, revision, stride and latent_channels of the autoencoder it came from."""
        fields: dict[str, Any] = self.facts["autoencoder"]
        return fields

    @property
    def trained_on(self) -> str:
        """The manifest hash of the images that `embed` was given."""
        return str(self.facts["images"]["manifest_sha256"])

    @property
    def held_out(self) -> frozenset[str]:
        """SHA-256 of the images among them that it did not train on."""
        return frozenset(self.facts["images"]["held_out_sha256"])


def read_watermarked(folder: Path, key: Key) -> Watermarked:
    """Read what `embed` wrote, and check that it is whole and that `key` is the key it carries.

    Raises UsageError if it is no such folder, DecoderError if weights were changed, added or lost since,
    KeyFileError for another key.
    """
    facts = _read_facts(folder)
    listed: dict[str, str] = facts["autoencoder"]["files"]
    vae = folder / "vae"
    try:
        found = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(vae.iterdir())
            if path.is_file()
        }
    except OSError as error:
        raise DecoderError(
            f"{vae} cannot be read: {error.strerror or error}; copy the folder that embed wrote again"
        ) from error
    problems = {
        "missing": sorted(set(listed) - set(found)),
        "not listed": sorted(set(found) - set(listed)),
        "changed": sorted(name for name in set(found) & set(listed) if found[name] != listed[name]),
    }
    if any(problems.values()):
        named = "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise DecoderError(
            f"{vae} is not what watermark.json beside it lists ({named}); copy the folder that embed wrote"
        )
    if facts["key"]["id"] != key.id:
        raise KeyFileError(
            f"{folder} carries the key {facts['key']['id']}, the key given is {key.id}; give the key that it "
            "was embedded with"
        )
    return Watermarked(folder, facts, found, _loadable(vae, found))


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / "watermark.json"
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{folder} holds no watermark.json; give the folder that stablesig embed wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); copy it again from where it was made") from None
    wanted = {"format": "stablesig-watermark", "version": 1}
    if not isinstance(facts, dict) or any(facts.get(name) != value for name, value in wanted.items()):
        raise UsageError(
            f"{path} is not of {wanted['format']} version {wanted['version']}; use the release that wrote it"
        )
    missing = [
        f"{part}.{name}"
        for part, names in _NEEDED.items()
        for name in names
        if not isinstance(fields := facts.get(part), dict) or name not in fields
    ]
    if missing:
        raise UsageError(f"{path} lacks {', '.join(missing)}; copy it again from where it was made")
    if not isinstance(facts["autoencoder"]["files"], dict) or not isinstance(
        facts["images"]["held_out_sha256"], list
    ):
        raise UsageError(f"{path} is damaged; copy it again from where it was made")
    return facts


def _loadable(vae: Path, names: Mapping[str, str]) -> Path:
    """The folder, or the weights file in it where the source was a single file."""
    from stablesig_train.layout import TAEF2_DECODER, WEIGHT_NAMES

    weights = [name for name in names if name.endswith(".safetensors")]
    alone = len(weights) == 1 and not {TAEF2_DECODER, *WEIGHT_NAMES} & set(names)
    return vae / weights[0] if alone else vae


def load_original(watermarked: Watermarked, override: str | None, device: torch.device) -> Autoencoder:
    """The autoencoder as it was before `embed`: `override`, or the source that watermark.json names.

    A source on the Hub is taken at the revision that was embedded. Of a local one watermark.json has the last
    name only: it is looked for in the working directory, and the autoencoder that ships with stablesig is
    known by its name. Raises UsageError if it cannot be found, DecoderError if it cannot be loaded.
    """
    from stablesig_train.decoders import load_autoencoder
    from stablesig_train.layout import TAEF2_PREFIX

    if override is not None:
        return load_autoencoder(override, device=device)
    source = str(watermarked.autoencoder["source"])
    revision = watermarked.autoencoder["revision"]
    if revision is not None:
        return load_autoencoder(source, device=device, revision=str(revision))
    if Path(source.removeprefix(TAEF2_PREFIX)).exists():
        return load_autoencoder(source, device=device)
    if source == SHIPPED:
        return load_shipped(device)
    raise UsageError(
        f"the original autoencoder was {source}, and its folder is not recorded; say where it is with "
        "--original"
    )


def load_shipped(device: torch.device) -> Autoencoder:
    """The small autoencoder that ships with stablesig."""
    from stablesig_train.decoders import load_autoencoder

    with resources.as_file(resources.files("stablesig") / "data" / SHIPPED) as folder:
        return load_autoencoder(folder, device=device)


def check_common_encoder(original: Autoencoder, marked: Autoencoder, given: str) -> None:
    """Raise DecoderError unless the two differ in nothing but their decoders. given: the original's name."""
    import torch

    ours, theirs = (
        {name: tensor for name, tensor in model.module.state_dict().items() if not name.startswith(_DECODER)}
        for model in (original, marked)
    )
    same = (original.kind, original.stride, original.latent_channels) == (
        marked.kind,
        marked.stride,
        marked.latent_channels,
    )
    if not same or ours.keys() != theirs.keys() or not all(torch.equal(ours[n], theirs[n]) for n in ours):
        raise DecoderError(
            f"{given} is not the autoencoder that was watermarked: what embed leaves alone differs; "
            "name the original with --original"
        )


def decoder_sha256(autoencoder: Autoencoder) -> str:
    """Of the decoder's parameters, in order, as float32 bytes."""
    from stablesig_train.provenance import parameters_sha256

    return parameters_sha256(autoencoder.decoder_parameters())


@dataclass(frozen=True)
class Decoders:
    """The autoencoders of a run: before and after `embed`, and others for round trips."""

    original: Autoencoder
    marked: Autoencoder
    others: tuple[Autoencoder, ...]


def load_decoders(
    watermarked: Watermarked,
    original: str | None,
    others: Sequence[str],
    device: torch.device,
    *,
    shipped: bool,
) -> Decoders:
    """Load all autoencoders; `original` and `others` are what `load_autoencoder` takes.

    shipped: where `others` are none, let the one that ships stand in for them, unless it is the original.
    Raises UsageError and DecoderError as `load_original` and `check_common_encoder`.
    """
    from stablesig_train.decoders import load_autoencoder

    before = load_original(watermarked, original, device)
    marked = load_autoencoder(watermarked.source, device=device)
    check_common_encoder(before, marked, original or str(watermarked.autoencoder["source"]))
    if decoder_sha256(before) == decoder_sha256(marked):
        raise DecoderError(
            "the original has the watermarked decoder itself; name the autoencoder before embed "
            "with --original"
        )
    recorded = watermarked.autoencoder.get("original_decoder_sha256")  # releases before it recorded none
    if recorded is not None and decoder_sha256(before) != recorded:
        raise DecoderError(
            f"{original or watermarked.autoencoder['source']} has the right encoder and another decoder than "
            "the one that was watermarked; name that one with --original"
        )
    further = [load_autoencoder(source, device=device) for source in others]
    if shipped and not further:
        ours = load_shipped(device)
        if decoder_sha256(ours) != decoder_sha256(before):
            further.append(ours)
    return Decoders(before, marked, tuple(further))


@dataclass(frozen=True)
class HeldOutImages:
    """The images to evaluate on, by name. manifest_sha256: of all in `folder`.

    split: whether `folder` is what `embed` was given, and `files` the part that it did not train on.
    """

    folder: Path
    files: tuple[ImageFile, ...]
    manifest_sha256: str
    split: bool


def find_held_out(folder: Path, watermarked: Watermarked, warn: Callable[[str], None]) -> HeldOutImages:
    """The images directly in `folder`, without those that `embed` trained on where it was given this folder.

    Raises ImageError if it is no folder, or has no images.
    """
    from stablesig_train.training_images import find_images, manifest_sha256

    files = find_images(folder, warn)
    manifest = manifest_sha256(files)
    split = manifest == watermarked.trained_on
    if split:
        files = [file for file in files if file.sha256 in watermarked.held_out]
        warn(f"{folder} is what the decoder was trained on; only the {len(files)} images held out are used")
    elif 0 < (known := sum(file.sha256 in watermarked.held_out for file in files)) < len(files):
        warn(
            f"{folder} holds {known} of the images that were held out of training, so its "
            "others may have been trained on, which would flatter the result; use other photographs, or the "
            "very folder that embed was given"
        )
    return HeldOutImages(folder, tuple(sorted(files, key=lambda file: file.path.name)), manifest, split)
