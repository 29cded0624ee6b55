"""C2PA: what is read from files that were really signed, and which key a soft binding names."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from stablesig.c2pa import (
    SOFT_BINDING_ALGORITHM,
    Manifest,
    ManifestError,
    SoftBinding,
    _manifest,
    carries_manifest,
    manifest_evidence,
    read_manifest,
    soft_binding_assertion,
)
from stablesig.c2pa_command import c2pa_assertion
from stablesig.extras import MissingExtraError
from stablesig_detector.carriers import DIRECTION_SCALE
from stablesig_detector.errors import ImageError
from stablesig_detector.key import PublicKey
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION

from .signed_images import CREATED, Authority, image_bytes, new_authority


def key(seed: int) -> PublicKey:
    direction = np.random.default_rng(seed).normal(size=DIMENSION)
    quantised = np.rint(direction / np.linalg.norm(direction) * DIRECTION_SCALE).astype(np.int32)
    return PublicKey(quantised, 48, FEATURE_VERSION, "0" * 64)


@pytest.fixture(scope="module")
def authority() -> Authority:
    pytest.importorskip("c2pa")
    return new_authority()


@pytest.fixture(scope="module")
def signed(authority: Authority) -> bytes:
    return authority.sign(image_bytes(), [CREATED, soft_binding_assertion(key(1))])


class TestReading:
    def test_a_signed_image_says_who_how_and_which_key(self, signed: bytes) -> None:
        manifest = read_manifest(signed)
        assert manifest is not None
        assert (manifest.state, manifest.valid, manifest.problems) == ("Valid", True, ())
        assert manifest.claim_generator == "test generator 1.0"
        assert manifest.title == "a picture"
        assert manifest.signer == "Test organisation"
        assert manifest.actions == ("c2pa.created",)
        assert manifest.source_types == ("trainedAlgorithmicMedia",)
        assert manifest.key_ids == (key(1).id,)
        assert manifest.names(key(1).id)
        assert not manifest.names(key(2).id)
        assert pickle.loads(pickle.dumps(manifest)) == manifest  # it comes back from a guarded process
        assert json.loads(json.dumps(manifest.as_json()))["soft_bindings"][0]["key_id"] == key(1).id

    @pytest.mark.parametrize("form", ["JPEG", "WEBP"])
    def test_other_formats_are_found_out(self, authority: Authority, form: str, tmp_path: Path) -> None:
        path = tmp_path / "picture.dat"
        path.write_bytes(authority.sign(image_bytes(form), [CREATED], form))
        manifest, note = manifest_evidence(path.read_bytes())
        assert note is None
        assert manifest is not None
        assert manifest == read_manifest(path)
        assert manifest.valid

    def test_a_changed_pixel_makes_it_invalid(self, signed: bytes) -> None:
        changed = bytearray(signed)
        changed[-200] ^= 1
        manifest = read_manifest(bytes(changed))
        assert manifest is not None
        assert manifest.state == "Invalid"
        assert manifest.problems == ("assertion.dataHash.mismatch",)
        assert manifest.key_ids == (key(1).id,)
        assert not manifest.names(key(1).id)
        assert "NOT valid: assertion.dataHash.mismatch" in manifest.summary([])[0]

    def test_the_key_of_an_earlier_version_is_found(self, authority: Authority, signed: bytes) -> None:
        edited = authority.sign(image_bytes(seed=1), [], parent=signed)
        manifest = read_manifest(edited)
        assert manifest is not None
        assert manifest.manifests == 2
        assert manifest.actions == ("c2pa.opened", "c2pa.created")
        assert [binding.active for binding in manifest.soft_bindings] == [False]
        assert manifest.names(key(1).id)

    def test_a_manifest_kept_elsewhere_is_not_fetched(self, authority: Authority) -> None:
        away = authority.sign(image_bytes("JPEG"), [CREATED], "JPEG", remote="http://127.0.0.1:9/m.c2pa")
        manifest, note = manifest_evidence(away)
        assert manifest is None
        assert note is not None
        assert "127.0.0.1" in note

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
    def test_an_image_without_a_manifest_has_none(self, form: str) -> None:
        pytest.importorskip("c2pa")
        data = image_bytes(form)
        assert not carries_manifest(data)
        assert manifest_evidence(data) == (None, None)
        assert read_manifest(data) is None

    def test_a_truncated_manifest_is_an_error_and_a_note(self, signed: bytes) -> None:
        cut = signed[: signed.index(b"jumb") + 2000]
        with pytest.raises(ManifestError, match="cannot be read"):
            read_manifest(cut)
        manifest, note = manifest_evidence(cut)
        assert manifest is None
        assert note is not None
        assert note.startswith("the C2PA manifest cannot be read")

    def test_whatever_the_library_raises_costs_the_manifest_only(
        self, signed: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import c2pa

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("gone\nwrong")

        monkeypatch.setattr(c2pa.Reader, "try_create", fail)
        assert manifest_evidence(signed) == (
            None,
            "the C2PA manifest cannot be read (RuntimeError: gone?wrong)",
        )

    def test_any_byte_may_be_wrong(self, signed: bytes) -> None:
        start = signed.index(b"jumb")
        rng = np.random.default_rng(0)
        for place in rng.integers(start, start + 4000, 40).tolist():
            damaged = bytearray(signed)
            damaged[place] ^= int(rng.integers(1, 256))
            manifest, note = manifest_evidence(bytes(damaged))
            assert note is None or "cannot be read" in note
            assert manifest is None or not manifest.valid or manifest.key_ids == (key(1).id,)

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"absent\.png: cannot be read: No such file"):
            read_manifest(tmp_path / "absent.png")

    def test_without_the_extra_it_says_how_to_get_it(
        self, signed: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "c2pa", None)
        missing = ModuleNotFoundError("No module named 'c2pa'", name="c2pa")
        monkeypatch.setattr("builtins.__import__", _failing(missing, __import__))
        with pytest.raises(MissingExtraError, match=r"pip install 'stablesig\[c2pa\]'"):
            read_manifest(signed)
        assert manifest_evidence(image_bytes()) == (None, None)


def _failing(error, importer):
    def replacement(name, *arguments, **options):
        if name == "c2pa":
            raise error
        return importer(name, *arguments, **options)

    return replacement


class TestSoftBinding:
    @pytest.mark.parametrize("spell", [str, lambda text: base64.b64encode(text.encode()).decode()])
    def test_the_value_is_the_key_id_as_text_or_base64(self, spell) -> None:
        binding = SoftBinding(SOFT_BINDING_ALGORITHM, spell(key(1).id), active=True)
        assert binding.key_id == key(1).id

    def test_other_algorithms_and_other_values_name_no_key(self) -> None:
        assert SoftBinding("com.example.watermark.1", key(1).id, active=True).key_id is None
        assert SoftBinding(SOFT_BINDING_ALGORITHM, key(1).id[:-1], active=True).key_id is None
        assert SoftBinding(SOFT_BINDING_ALGORITHM, key(1).id.upper(), active=True).key_id is None

    def test_the_assertion_holds_the_id_and_nothing_else_of_the_key(self) -> None:
        assertion = soft_binding_assertion(key(1))
        assert assertion == {
            "label": "c2pa.soft-binding",
            "data": {"alg": SOFT_BINDING_ALGORITHM, "blocks": [{"scope": {}, "value": key(1).id}]},
        }
        assert soft_binding_assertion(key(1), "com.example.1")["data"]["alg"] == "com.example.1"

    def test_the_name_follows_the_features(self) -> None:
        assert SOFT_BINDING_ALGORITHM.endswith(f".{FEATURE_VERSION}")

    def test_the_command_prints_the_assertion(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "k.pub.json"
        key(1).save(path)
        c2pa_assertion(path)
        assert json.loads(capsys.readouterr().out) == soft_binding_assertion(key(1))
        c2pa_assertion(path, "com.example.1")
        assert json.loads(capsys.readouterr().out)["data"]["alg"] == "com.example.1"


class TestSummary:
    def manifest(self, **changes) -> Manifest:
        bindings = (SoftBinding(SOFT_BINDING_ALGORITHM, key(1).id, active=True),)
        fields = {
            "state": "Valid",
            "problems": (),
            "claim_generator": "camera 1",
            "title": None,
            "signer": "Somebody",
            "signed_at": None,
            "actions": ("c2pa.created",),
            "source_types": ("trainedAlgorithmicMedia",),
            "soft_bindings": bindings,
            "manifests": 1,
        }
        return Manifest(**(fields | changes))

    @pytest.mark.parametrize(
        ("keys", "detected", "words"),
        [
            ([1], None, "one of the keys looked for"),
            ([1], [1], "which was detected"),
            ([1], [], "which was NOT detected"),
            ([2], [], "which was not looked for"),
        ],
    )
    def test_it_says_whether_the_named_key_was_found(self, keys, detected, words) -> None:
        found = None if detected is None else [key(seed).id for seed in detected]
        line = self.manifest().summary([key(seed) for seed in keys], found)[-1]
        assert line == f"its soft binding names key {key(1).id}, {words}"

    def test_an_invalid_manifest_vouches_for_nothing(self) -> None:
        lines = self.manifest(state="Invalid").summary([key(1)], [key(1).id])
        assert lines[0] == "manifest NOT valid: no reason given, signed by Somebody"
        assert lines[-1].endswith("which was detected, but the manifest is not valid")

    @pytest.mark.parametrize(
        "store",
        [
            {},
            [],
            {"manifests": [], "active_manifest": 3},
            {"manifests": {"a": {"assertions": [3, {"label": "c2pa.actions", "data": {"actions": "x"}}]}}},
            {"manifests": {"a": {"claim_generator_info": "x", "signature_info": 7}}, "active_manifest": "a"},
        ],
    )
    def test_odd_stores_say_little_and_are_not_valid(self, store) -> None:
        manifest = _manifest(store)
        assert manifest.state == "Invalid"
        assert manifest.soft_bindings == ()
        manifest.summary([])

    def test_texts_by_strangers_are_made_printable_and_short(self) -> None:
        store = {"manifests": {"a": {"title": "\x1b[31m" + "x" * 1000}}, "active_manifest": "a"}
        title = _manifest(store).title
        assert title is not None
        assert title.startswith("?[31mxxx")
        assert len(title) == 200


DOCS = Path(__file__).parents[2] / "docs" / "c2pa.md"


def test_the_page_shows_an_assertion_as_it_is_printed(tmp_path: Path) -> None:
    shown = json.loads(DOCS.read_text(encoding="utf-8").partition("```json\n")[2].partition("```")[0])
    value = shown["data"]["blocks"][0]["value"]
    assert SoftBinding(shown["data"]["alg"], value, active=True).key_id == value
    shown["data"]["blocks"][0]["value"] = key(1).id
    assert shown == soft_binding_assertion(key(1))


def test_the_code_on_the_page_signs_an_image(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key(1).save("publisher.pub.json")
    code = DOCS.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names = {"chain": authority.chain, "private_key": authority.key, "image": image_bytes()}
    exec(compile(code, str(DOCS), "exec"), names)
    manifest = read_manifest(names["signed"].getvalue())
    assert manifest is not None
    assert manifest.names(key(1).id)
    assert manifest.source_types == ("trainedAlgorithmicMedia",)


def test_the_page_names_every_field_of_the_json() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [name for name in TestSummary().manifest().as_json() if f"`{name}`" not in text] == []
