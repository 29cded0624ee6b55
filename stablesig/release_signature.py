"""Signatures of a release in the format of OpenSSF Model Signing 1.0, with a local elliptic-curve key.

A signature is an in-toto statement that lists every file with its SHA-256, in a DSSE envelope, in a Sigstore
bundle. `model_signing verify key` of the package model-signing verifies the same file. That package is not
used here: it brings 34 others for signing with an identity on the net, and its release 1.1.1 does not
even import as it installs (it needs pyOpenSSL, which neither it nor what it depends on declares). Only
`cryptography` is needed (extra `sign`).

Formats: github.com/in-toto/attestation (statement v1), github.com/secure-systems-lab/dsse (envelope and what
is signed), docs.sigstore.dev/about/bundle (bundle 0.3); predicate https://model_signing/signature/v1.0, whose
verifiers ignore fields that they do not know, so what else a release commits to is signed along.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig.extras import MissingExtraError
from stablesig_detector.errors import OutputError, UsageError
from stablesig_detector.new_files import NewFile, write_new_files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
GIT_PATHS = (".git", ".gitattributes", ".github", ".gitignore")  # what the format leaves out of itself
_CURVES = {"secp256r1": 256, "secp384r1": 384, "secp521r1": 512}  # curve -> bits of its SHA-2
_MAX_BYTES = 8 << 20  # of a bundle; thousands of files stay far below


class SignatureFormatError(OutputError):
    """A signature file that cannot be read."""


@dataclass(frozen=True)
class SignedStatement:
    """What a bundle says once its signature was found to be good.

    files: path -> SHA-256.  ignored: paths that the signature leaves out, with everything below.  claims:
    what stablesig signs along with the files; empty for a signature by others.  signer: SHA-256 of the PEM
    of the public key.
    """

    files: Mapping[str, str]
    ignored: tuple[str, ...]
    claims: Mapping[str, Any]
    signer: str


@contextmanager
def needs_cryptography(what: str) -> Iterator[None]:
    """Turn a missing `cryptography` into one line that says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise MissingExtraError(
            f"{what} needs cryptography, which is not installed; run: pip install 'stablesig[sign]'"
        ) from error


def make_signing_key(path: Path) -> tuple[Path, str]:
    """Draw a P-256 key; write it to `path` (mode 0600) and its public half beside it.

    Returns the path of the public half, NAME.pub.pem, and its SHA-256, by which a signature names it. Raises
    OutputExistsError, OutputError, MissingExtraError, UsageError for a name that does not end in .pem.
    """
    if path.suffix != ".pem" or path.name.endswith(".pub.pem"):
        raise UsageError(f"a signing key is NAME.pem; got {path.name}")
    with needs_cryptography("signing-key"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = path.with_name(f"{path.stem}.pub.pem")
    pem = public_pem(key.public_key())
    write_new_files([NewFile(path, secret, private=True), NewFile(public, pem)])
    return public, hashlib.sha256(pem).hexdigest()


def load_signing_key(path: Path) -> EllipticCurvePrivateKey:
    """A private key in PEM, not encrypted. Raises UsageError, which quotes none of it."""
    with needs_cryptography("signing"):
        from cryptography.hazmat.primitives import serialization
    content = _read(path, "signing key")
    problem = ""
    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError:
        problem = "is encrypted; decrypt it first, with openssl pkey"
    except Exception:  # ValueError, UnsupportedAlgorithm; never chained: it may quote the key
        problem = "is no private key in PEM; make one with stablesig signing-key"
    if problem:
        raise UsageError(f"{path} {problem}")
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if curve not in _CURVES:
        raise UsageError(f"{path} is for {curve}; the format signs with P-256, P-384 or P-521 only")
    return key  # type: ignore[return-value]


def load_public_key(content: bytes, name: str) -> EllipticCurvePublicKey:
    """A public key in PEM. Raises UsageError."""
    with needs_cryptography("checking a signature"):
        from cryptography.hazmat.primitives import serialization
    try:
        key = serialization.load_pem_public_key(content)
    except Exception as error:
        raise UsageError(f"{name} is no public key in PEM; give the NAME.pub.pem of the publisher") from error
    if getattr(getattr(key, "curve", None), "name", None) not in _CURVES:
        raise UsageError(f"{name} is no key on P-256, P-384 or P-521; give the NAME.pub.pem of the publisher")
    return key  # type: ignore[return-value]


def public_pem(key: EllipticCurvePublicKey) -> bytes:
    """The key as SubjectPublicKeyInfo in PEM; its SHA-256 names it in signatures."""
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def statement(
    name: str, files: Mapping[str, str], ignored: tuple[str, ...], claims: Mapping[str, Any]
) -> bytes:
    """The in-toto statement to sign; the same for the same arguments, byte for byte.

    name: of the model.  files: path -> SHA-256.  ignored: paths left out, with everything below.  claims:
    goes into the predicate as "stablesig".
    """
    order = sorted(files)
    joined = b"".join(bytes.fromhex(files[path]) for path in order)
    content = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": hashlib.sha256(joined).hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(ignored),
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in order],
            "stablesig": dict(claims),
        },
    }
    return json.dumps(content, indent=1, sort_keys=True).encode()


def sign(payload: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """A bundle with `payload` and its signature: deterministic ECDSA (RFC 6979), so reruns change nothing."""
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithm = ec.ECDSA(_hash(key.public_key()), deterministic_signing=True)
    signature = key.sign(_signed_bytes(payload), algorithm)
    hint = hashlib.sha256(public_pem(key.public_key())).hexdigest()
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle).encode() + b"\n"


def verified(bundle: bytes, key: EllipticCurvePublicKey) -> SignedStatement | None:
    """What the bundle says, or None if `key` did not sign it. Raises SignatureFormatError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        content = json.loads(bundle)
        envelope = content["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        (entry,) = envelope["signatures"]
        signature = base64.b64decode(entry["sig"], validate=True)
        payload_type = envelope["payloadType"]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise SignatureFormatError("the signature is no Sigstore bundle; get the release again") from error
    if payload_type != PAYLOAD_TYPE:
        raise SignatureFormatError(f"the signature is over {payload_type!r}, not over an in-toto statement")
    try:
        key.verify(signature, _signed_bytes(payload), ec.ECDSA(_hash(key)))
    except InvalidSignature:
        return None
    return _parsed(payload, hashlib.sha256(public_pem(key)).hexdigest())


def read_bundle(path: Path) -> bytes:
    """The bytes of a bundle. Raises SignatureFormatError, UsageError."""
    content = _read(path, "signature")
    if len(content) > _MAX_BYTES:
        raise SignatureFormatError(f"{path} is larger than any signature; get the release again")
    return content


def _parsed(payload: bytes, signer: str) -> SignedStatement:
    try:
        content = json.loads(payload)
        kinds = content["_type"], content["predicateType"]
        predicate = content["predicate"]
        files = {str(one["name"]): str(one["digest"]) for one in predicate["resources"]}
        algorithms = {one["algorithm"] for one in predicate["resources"]}
        joined = b"".join(bytes.fromhex(one["digest"]) for one in predicate["resources"])
        (subject,) = content["subject"]
        whole = subject["digest"]["sha256"]
        ignored = tuple(str(path) for path in predicate["serialization"].get("ignore_paths", ()))
        method = predicate["serialization"]["method"]
        claims = predicate.get("stablesig", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SignatureFormatError(
            "what is signed is no statement of a model; get the release again"
        ) from error
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE) or method != "files" or algorithms - {"sha256"}:
        raise SignatureFormatError(
            f"this signature is a {kinds[1]!r} over {method!r}; only SHA-256 of files is checked here"
        )
    if hashlib.sha256(joined).hexdigest() != whole:
        raise SignatureFormatError(
            "the signed list of files contradicts its own digest; do not use the release"
        )
    return SignedStatement(files, ignored, claims if isinstance(claims, dict) else {}, signer)


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: type and payload with their lengths, so neither can be moved."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _hash(key: EllipticCurvePublicKey) -> Any:
    from cryptography.hazmat.primitives import hashes

    bits = _CURVES[key.curve.name]
    return {256: hashes.SHA256(), 384: hashes.SHA384(), 512: hashes.SHA512()}[bits]


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"the {what} {path} cannot be read: {error.strerror or error}; check the path"
        ) from None
