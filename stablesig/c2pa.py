"""The C2PA manifest of an image file, and the assertion that ties a manifest to a watermark.

A manifest (https://spec.c2pa.org) is signed metadata: who says that they made the file, and how. It is lost
when the file is saved anew; a watermark stays. A `c2pa.soft-binding` assertion in the manifest names the
watermark, so that each can vouch for the other: here its algorithm is SOFT_BINDING_ALGORITHM and its value
the id of the key.

Soft binding algorithms have a list of names, https://github.com/c2pa-org/softbinding-algorithm-list. Ours is
not on it. Software that knows the list only will not know the name; `stablesig` does.

The manifest is read and checked by c2pa-python (the `c2pa` extra), without the network: a manifest that is
kept elsewhere is not fetched, certificates are not looked up. No trust list ships, so that a valid signature
says that the manifest is whole and belongs to this file, not whose it is.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from stablesig.extras import MissingExtraError
from stablesig_detector.errors import ImageError
from stablesig_detector.key import PublicKey, SecretKey
from stablesig_detector.planes import FEATURE_VERSION

Key: TypeAlias = SecretKey | PublicKey

SOFT_BINDING_LABEL = "c2pa.soft-binding"
# Shaped like the names on the list. Neither the name is registered nor the domain.
SOFT_BINDING_ALGORITHM = f"org.stablesig.{FEATURE_VERSION}"

_KEY_ID = re.compile(r"[0-9a-f]{16}")
_SETTINGS = {
    "core": {"allowed_network_hosts": [], "decode_identity_assertions": False},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
_UNTRUSTED = "signingCredential.untrusted"  # true of every file, as there is no trust list
# A label of the manifest store in its JUMBF boxes, and the XMP property that points to one kept elsewhere.
_TRACES = ((b"jumb", b"c2pa"), (b"dcterms:provenance",))
_MAX_TEXT = 200  # characters kept of any text in a manifest: strangers write it


class ManifestError(ImageError):
    """A manifest that is there and cannot be read."""


@dataclass(frozen=True)
class SoftBinding:
    """One block of a `c2pa.soft-binding` assertion.

    algorithm, value: as they are in the file.  active: in the manifest that describes the file as it is,
    rather than in one of those that it was made from.
    """

    algorithm: str
    value: str
    active: bool

    @property
    def key_id(self) -> str | None:
        """The id of a stablesig key that it names; None if it is another algorithm's, or names none."""
        if self.algorithm != SOFT_BINDING_ALGORITHM:
            return None
        return next((text for text in _spellings(self.value) if _KEY_ID.fullmatch(text)), None)


@dataclass(frozen=True)
class Manifest:
    """What the manifest store of a file says.

    state: "Valid" (whole, and of this file), "Trusted" (signed by someone on a trust list as well) or
    "Invalid".  problems: the codes of failed checks, without the one that the signer is on no trust list.
    claim_generator: software that wrote the active manifest.  title: of the file.  signer: whom the
    certificate names.  signed_at: time by a time stamp authority, ISO 8601.
    actions, source_types: of all manifests, the active one first; source types as the last part of their
    address, such as trainedAlgorithmicMedia.  manifests: how many there are.
    """

    state: str
    problems: tuple[str, ...]
    claim_generator: str | None
    title: str | None
    signer: str | None
    signed_at: str | None
    actions: tuple[str, ...]
    source_types: tuple[str, ...]
    soft_bindings: tuple[SoftBinding, ...]
    manifests: int

    @property
    def valid(self) -> bool:
        """Whether the signature and all hashes hold; whose signature it is is another question."""
        return self.state in ("Valid", "Trusted")

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The stablesig keys that its soft bindings name, each once."""
        ids = (binding.key_id for binding in self.soft_bindings)
        return tuple(dict.fromkeys(key_id for key_id in ids if key_id is not None))

    def names(self, key_id: str) -> bool:
        """Whether it is valid and one of its soft bindings names this key."""
        return self.valid and key_id in self.key_ids

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values, for `stablesig detect --json`."""
        return {
            "state": self.state,
            "problems": list(self.problems),
            "claim_generator": self.claim_generator,
            "title": self.title,
            "signer": self.signer,
            "signed_at": self.signed_at,
            "actions": list(self.actions),
            "digital_source_types": list(self.source_types),
            "soft_bindings": [
                {
                    "algorithm": binding.algorithm,
                    "value": binding.value,
                    "active": binding.active,
                    "key_id": binding.key_id,
                }
                for binding in self.soft_bindings
            ],
            "manifests": self.manifests,
        }

    def summary(self, keys: Sequence[Key], detected: Sequence[str] | None = None) -> tuple[str, ...]:
        """A few lines for people. keys: those looked for.  detected: ids of those found, if that is known."""
        whose = f", signed by {self.signer}" if self.signer else ""
        trust = {
            "Valid": "valid; the signer is on no trust list that was asked",
            "Trusted": "valid, by a signer on a trust list",
        }.get(self.state, f"NOT valid: {', '.join(self.problems) or 'no reason given'}")
        lines = [f"manifest {trust}{whose}"]
        if self.claim_generator:
            lines.append(f"written by {self.claim_generator}")
        if self.source_types or self.actions:
            said = [", ".join(self.source_types), ", ".join(self.actions)]
            lines.append("it says: " + "; ".join(text for text in said if text))
        wanted = {key.id for key in keys}
        for key_id in self.key_ids:
            if detected is not None and key_id in detected:
                state = "which was detected" + ("" if self.valid else ", but the manifest is not valid")
            elif key_id in wanted:
                state = "one of the keys looked for" if detected is None else "which was NOT detected"
            else:
                state = "which was not looked for"
            lines.append(f"its soft binding names key {key_id}, {state}")
        return tuple(lines)


def soft_binding_assertion(key: Key, algorithm: str = SOFT_BINDING_ALGORITHM) -> dict[str, Any]:
    """The assertion for a manifest of images that carry `key`: label and data, for c2pa-python or c2patool.

    The value is the key's id; nothing secret is in it. The empty scope stands for the whole image.
    """
    return {
        "label": SOFT_BINDING_LABEL,
        "data": {"alg": algorithm, "blocks": [{"scope": {}, "value": key.id}]},
    }


def carries_manifest(data: bytes) -> bool:
    """Whether a file's bytes hold traces of a manifest; cheap, and without c2pa-python."""
    return any(all(trace in data for trace in traces) for traces in _TRACES)


def manifest_evidence(data: bytes) -> tuple[Manifest | None, str | None]:
    """The manifest in a file's bytes, and why one that seems to be there was not read. Raises nothing."""
    if not carries_manifest(data):
        return None, None
    try:
        return read_manifest(data), None
    except (ManifestError, MissingExtraError) as error:
        return None, str(error)
    except Exception as error:  # of a foreign library: a manifest must not hide what the pixels say
        return None, f"the C2PA manifest cannot be read ({_text(f'{type(error).__name__}: {error}')})"


def read_manifest(source: str | os.PathLike[str] | bytes, mime: str | None = None) -> Manifest | None:
    """The manifest store of an image file, or None if it has none.

    source: a path, or the file's bytes.  mime: media type such as "image/png"; None finds it out.

    Raises ImageError (no such file), ManifestError (a manifest that is damaged, or kept elsewhere),
    MissingExtraError (c2pa-python is not installed).
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ImageError(
            f"{error.filename}: cannot be read: {error.strerror or error}; check the path"
        ) from None
    try:
        import c2pa
    except ModuleNotFoundError as error:
        if error.name != "c2pa":
            raise
        raise MissingExtraError(
            "reading a C2PA manifest needs c2pa-python, which is not installed; "
            "run: pip install 'stablesig[c2pa]'"
        ) from error
    try:
        with c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context:
            reader = c2pa.Reader.try_create(mime, io.BytesIO(data), context=context)
            if reader is None:
                return None
            with reader:
                store = json.loads(reader.json())
    except (c2pa.C2paError, ValueError) as error:
        if _is_unknown_format(error):
            return None
        raise ManifestError(f"the C2PA manifest cannot be read: {_text(str(error))}") from None
    return _manifest(store)


def _is_unknown_format(error: Exception) -> bool:
    """A format that C2PA has no place in, such as BMP, carries no manifest."""
    return str(error).startswith("NotSupported")


def _manifest(store: Any) -> Manifest:
    """What is of interest in a manifest store as c2pa-python prints it; odd parts are passed over."""
    manifests = _mapping(_mapping(store).get("manifests"))
    active_label = str(_mapping(store).get("active_manifest"))
    active = _mapping(manifests.get(active_label))
    # The active one first; it was made from the others.
    ordered = [active, *(_mapping(one) for label, one in manifests.items() if label != active_label)]
    actions = [action for one in ordered for action in _actions(one)]
    signature = _mapping(active.get("signature_info"))
    codes = [_mapping(problem).get("code") for problem in _sequence(_mapping(store).get("validation_status"))]
    return Manifest(
        state=_text(_mapping(store).get("validation_state")) or "Invalid",
        problems=_unique(code for code in codes if code != _UNTRUSTED),
        claim_generator=_generator(active),
        title=_text(active.get("title")),
        signer=_text(signature.get("issuer") or signature.get("common_name")),
        signed_at=_text(signature.get("time")),
        actions=_unique(action.get("action") for action in actions),
        source_types=_unique(
            str(action["digitalSourceType"]).rpartition("/")[2]
            for action in actions
            if isinstance(action.get("digitalSourceType"), str)
        ),
        soft_bindings=tuple(binding for one in ordered for binding in _soft_bindings(one, one is active)),
        manifests=len(manifests),
    )


def _assertions(manifest: Mapping[str, Any], label: str) -> Iterator[Mapping[str, Any]]:
    """The data of all assertions of a label, with or without version (.v2) and count (__1)."""
    form = re.compile(re.escape(label) + r"(\.v\d+)?(__\d+)?")
    for assertion in map(_mapping, _sequence(manifest.get("assertions"))):
        if form.fullmatch(str(assertion.get("label"))):
            yield _mapping(assertion.get("data"))


def _actions(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for data in _assertions(manifest, "c2pa.actions"):
        yield from map(_mapping, _sequence(data.get("actions")))


def _soft_bindings(manifest: Mapping[str, Any], active: bool) -> Iterator[SoftBinding]:
    for data in _assertions(manifest, SOFT_BINDING_LABEL):
        for block in map(_mapping, _sequence(data.get("blocks"))):
            algorithm, value = _text(data.get("alg")), block.get("value")
            if isinstance(value, list):  # a CBOR byte string
                value = "".join(chr(byte) for byte in value if isinstance(byte, int) and 0 < byte < 128)
            if algorithm and isinstance(value, str):
                yield SoftBinding(algorithm, _text(value) or "", active)


def _spellings(value: str) -> Iterator[str]:
    """A value as it is, and as the text that it is the Base64 of: byte strings look so in JSON."""
    yield value
    try:
        yield base64.b64decode(value, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return


def _generator(manifest: Mapping[str, Any]) -> str | None:
    """Name and version of the software that wrote a manifest."""
    for info in map(_mapping, _sequence(manifest.get("claim_generator_info"))):
        words = [text for text in (_text(info.get("name")), _text(info.get("version"))) if text]
        if words:
            return " ".join(words)
    return _text(manifest.get("claim_generator"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    """A text, printable and not too long; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    printable = "".join(sign if sign.isprintable() else "?" for sign in value)
    return printable if len(printable) <= _MAX_TEXT else printable[: _MAX_TEXT - 3] + "..."


def _unique(values: Iterator[Any]) -> tuple[str, ...]:
    """The texts among `values`, each once, in order."""
    return tuple(dict.fromkeys(text for text in map(_text, values) if text is not None))
