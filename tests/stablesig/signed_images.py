"""Images that are really signed with C2PA, by a certificate authority that lives as long as the test."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CREATED = {
    "label": "c2pa.actions.v2",
    "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": TRAINED}]},
}


def image_bytes(form: str = "PNG", seed: int = 0) -> bytes:
    """A small image file without a manifest."""
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@dataclass(frozen=True)
class Authority:
    """chain: PEM certificates, the signer's first.  key: the signer's, PEM."""

    chain: bytes
    key: bytes

    def sign(
        self,
        image: bytes,
        assertions: Sequence[dict[str, Any]],
        form: str = "PNG",
        parent: bytes | None = None,
        remote: str | None = None,
    ) -> bytes:
        """The image with a manifest. parent: what it was made from.  remote: keep the manifest there."""
        import c2pa

        settings = c2pa.Settings.from_dict(
            {"builder": {"thumbnail": {"enabled": False}}, "verify": {"remote_manifest_fetch": False}}
        )
        mime = f"image/{form.lower()}"
        manifest = {
            "claim_generator_info": [{"name": "test generator", "version": "1.0"}],
            "title": "a picture",
            "assertions": list(assertions),
        }
        with c2pa.Context(settings) as context, c2pa.Builder(json.dumps(manifest), context) as builder:
            if parent is not None:
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)  # begins with the action c2pa.opened
                ingredient = {"title": "before", "relationship": "parentOf"}
                builder.add_ingredient(json.dumps(ingredient), mime, io.BytesIO(parent))
            if remote is not None:
                builder.set_no_embed()
                builder.set_remote_url(remote)
            signed = io.BytesIO()
            info = c2pa.C2paSignerInfo("es256", self.chain, self.key, None)
            with c2pa.Signer.from_info(info) as signer:
                builder.sign(signer, mime, io.BytesIO(image), signed)
        return signed.getvalue()


def new_authority() -> Authority:
    """A root and a signer's certificate under it, in the profile that C2PA asks for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    root_key, signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def name(common: str) -> x509.Name:
        texts = ((NameOID.ORGANIZATION_NAME, "Test organisation"), (NameOID.COMMON_NAME, common))
        return x509.Name([x509.NameAttribute(oid, text) for oid, text in texts])

    def certificate(common: str, key: ec.EllipticCurvePrivateKey, root: bool) -> bytes:
        usage = dict.fromkeys(
            (
                *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("encipher_only", "decipher_only"),
            ),
            False,
        )
        builder = (
            x509.CertificateBuilder(
                issuer_name=name("Root"),
                subject_name=name(common),
                public_key=key.public_key(),
                serial_number=x509.random_serial_number(),
                not_valid_before=now - datetime.timedelta(days=1),
                not_valid_after=now + datetime.timedelta(days=2),
            )
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not root, key_cert_sign=root, crl_sign=root, **usage),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
            )
        )
        if not root:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
            )
        return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    chain = certificate("Signer", signer_key, root=False) + certificate("Root", root_key, root=True)
    private = signer_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Authority(chain, private)
