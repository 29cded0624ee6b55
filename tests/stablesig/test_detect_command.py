"""What a person or a script gets from `stablesig detect`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from stablesig.c2pa import SOFT_BINDING_ALGORITHM, Manifest, SoftBinding, soft_binding_assertion
from stablesig.cli import main
from stablesig.detect_output import ABSENCE
from stablesig.detect_report import full_report, lines_of
from stablesig.evidence import ALL_KEYS, ImageEvidence, Request, _detections
from stablesig_detector.detection import detect
from stablesig_detector.key import SecretKey, load_key
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet
from stablesig_detector.reading import LoadedImage
from stablesig_detector.statistics import bonferroni_log10

from ..hub_server import HubServer
from .conftest import Gallery, direction_between, textured_image
from .hub_fixture import hub as hub
from .hub_fixture import waits as waits
from .signed_images import CREATED, new_authority

Capture = pytest.CaptureFixture[str]
SCHEMA = json.loads((files("stablesig") / "data" / "detection.schema.json").read_text("utf-8"))


def document(arguments: list[str], capsys: Capture, code: int) -> dict[str, Any]:
    """The JSON object that a command prints, held to the schema."""
    assert main(["detect", *arguments, "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    Draft202012Validator(SCHEMA).validate(found)
    return found


def refused(arguments: list[str], capsys: Capture, code: int) -> str:
    """The one line of an error."""
    assert main(["detect", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("stablesig: error: ")
    return err


class TestReport:
    def test_of_an_image_with_the_watermark(self, gallery: Gallery, capsys: Capture) -> None:
        assert main(["detect", str(gallery.first), "--key", str(gallery.finds_first)]) == 0
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert lines[0] == f"detected  {gallery.first}"
        assert max(map(len, lines[1:])) <= 96
        text = " ".join(out.split())
        assert "made without this key would score this high. It pays for 4 geometries and 1 key." in text
        assert re.search(
            r"threshold p <= 1e-06. The statistic is \+\d\.\d{3}; at least \+\d\.\d{3} was needed", text
        )
        assert "scale and rotation were not searched" in text
        assert f"key {load_key(gallery.finds_first).id}" in text
        assert "320 x 256 px, PNG" in text
        assert "independently of the image" in text
        assert ABSENCE not in text
        assert "bits" not in text
        assert err == ""

    def test_of_an_image_without_it_is_not_called_proof(self, gallery: Gallery, capsys: Capture) -> None:
        assert main(["detect", str(gallery.first), "--key", str(gallery.secret)]) == 1
        out = capsys.readouterr().out
        assert out.startswith("not detected  ")
        text = " ".join(out.split())
        assert text.endswith(ABSENCE)
        assert re.search(r"bits \d+ of 48 bits of the message agree", text)
        assert "none of those tried reaches the threshold" in text

    def test_of_an_unreadable_image(self, gallery: Gallery, capsys: Capture) -> None:
        assert main(["detect", str(gallery.broken), "--key", str(gallery.secret)]) == 3
        assert capsys.readouterr().out.startswith(f"unreadable  {gallery.broken}: ")

    def test_names_the_best_key_first_and_then_the_others(self, gallery: Gallery, capsys: Capture) -> None:
        keys = ["--key", str(gallery.finds_second), "--key", str(gallery.finds_first)]
        assert main(["detect", str(gallery.first), *keys]) == 0
        text = " ".join(capsys.readouterr().out.split())
        best, _, others = text.partition("other key ")
        assert f"key {load_key(gallery.finds_first).id}" in best
        assert "made without these keys" in best
        assert "4 geometries and 2 keys" in best
        assert others.startswith("not detected")
        assert load_key(gallery.finds_second).id in others

    def test_search_none_tries_one_geometry(self, gallery: Gallery, capsys: Capture) -> None:
        main(["detect", str(gallery.first), "--key", str(gallery.finds_first), "--search", "none"])
        assert "1 geometry and 1 key" in " ".join(capsys.readouterr().out.split())

    def test_says_scale_and_rotation_where_they_were_searched_for(self, gallery: Gallery) -> None:
        keys = KeySet.of([KeyEntry(load_key(gallery.finds_first))])
        [found] = detect(gallery.first, keys)
        turned = replace(found, hypotheses=4920, scale=0.707, rotation=-24.0)
        image = ImageEvidence("a.png", datetime(2026, 1, 2, tzinfo=UTC), detections=(turned,))
        lines = ["".join(text for text, _ in line) for line in full_report(image, keys)]
        report = " ".join(" ".join(lines).split())
        assert "scale 0.71, rotation -24 degrees (searched in steps of 6 % and 3 degrees" in report
        [[_, *rest]] = lines_of(image, keys)
        assert "  identity   scale 0.71  rotation -24  key" in "".join(text for text, _ in rest)

    def test_in_a_terminal_is_the_same_text_in_colour(
        self, gallery: Gallery, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = ["detect", str(gallery.first), "--key", str(gallery.finds_first)]
        main(arguments)
        plain = capsys.readouterr().out
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("COLUMNS", "96")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        main(arguments)
        coloured = capsys.readouterr().out
        assert "\x1b[1;32mdetected" in coloured
        assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


class TestLines:
    def test_an_unreadable_image_does_not_stop_the_others(self, gallery: Gallery, capsys: Capture) -> None:
        images = [str(gallery.broken), str(gallery.second), str(gallery.first), "no-such-file.png"]
        assert main(["detect", *images, "--key", str(gallery.finds_first)]) == 3
        broken, second, first, missing, tally, meaning, caveat = capsys.readouterr().out.splitlines()
        assert broken.startswith(f"unreadable    {gallery.broken}: ")
        assert second.startswith("not detected  p ")
        assert first.startswith("detected      p ")
        assert first.endswith(f"identity   key {load_key(gallery.finds_first).id}  {gallery.first}")
        assert "no-such-file.png" in missing
        assert tally == "4 images: 1 detected, 1 not detected, 2 unreadable."
        assert "p <= 1e-06" in meaning
        assert "4 geometries and 1 key" in meaning
        assert caveat == ABSENCE

    def test_a_line_for_each_key_with_bits_of_a_secret_one(self, gallery: Gallery, capsys: Capture) -> None:
        keys = ["--key", str(gallery.secret), "--key", str(gallery.finds_first)]
        assert main(["detect", str(gallery.first), str(gallery.first), *keys]) == 0
        secret, public, _, _, _, meaning = capsys.readouterr().out.splitlines()
        assert re.search(r"^not detected .*bits \d+/48 \(uncorrected p [0-9.e-]+\)  key", secret)
        assert "bits" not in public
        assert "2 keys" in meaning

    def test_names_of_images_cannot_steer_the_terminal(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        odd = tmp_path / "a\x1b[31m\nb\x07.png"
        odd.symlink_to(gallery.first)
        missing = tmp_path / os.fsdecode(b"\xff\x1b]0;.png")
        assert main(["detect", str(odd), str(missing), "--key", str(gallery.finds_first)]) == 3
        found, unreadable, *_ = lines = capsys.readouterr().out.splitlines()
        assert found.endswith("a\ufffd[31m b\ufffd.png")
        assert "\ufffd\ufffd]0;.png: no such file" in unreadable
        assert all(line.isprintable() for line in lines)

    def test_a_folder_is_searched(self, gallery: Gallery, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "one.png").symlink_to(gallery.first)
        (tmp_path / "two.png").symlink_to(gallery.first)
        key = ["--key", str(gallery.finds_first)]
        assert main(["detect", str(tmp_path), *key]) == 0
        assert capsys.readouterr().out.count("\ndetected ") == 1  # one more at the very beginning
        assert main(["detect", str(tmp_path), *key, "--flat"]) == 0
        assert "one.png" not in capsys.readouterr().out


class TestJson:
    def test_carries_the_evidence(self, gallery: Gallery, capsys: Capture) -> None:
        images = [str(gallery.first), str(gallery.second), str(gallery.broken)]
        keys = ["--key", str(gallery.finds_first), "--key", str(gallery.secret)]
        found = document([*images, *keys, "--fpr", "1e-5"], capsys, 3)
        assert (found["fpr"], found["search"], found["note"]) == (1e-5, "fast", ABSENCE)
        assert [key["kind"] for key in found["keys"]] == ["public", "secret"]
        assert [result["verdict"] for result in found["results"]] == [
            "detected",
            "not detected",
            "unreadable",
        ]
        first, second, broken = found["results"]
        assert (first["width"], first["height"], first["format"]) == (320, 256, "PNG")
        assert first["bytes"] == gallery.first.stat().st_size
        own, other = first["detections"]
        assert own["detected"] is True
        assert own["key_id"] == found["keys"][0]["id"]
        assert own["needed_statistic"] < 0.95 < own["statistic"] <= 1.0
        assert own["log10_p_value"] <= -100
        assert own["matches"] is None
        assert (own["hypotheses"], own["hypothesis_factor"], own["n_keys"]) == (4, 4, 2)
        assert (own["scale"], own["rotation"], own["key_state"]) == (1.0, 0.0, "valid")
        assert other["detected"] is False
        assert 0 <= other["matches"] <= other["n_bits"] == 48
        assert other["p_value"] == pytest.approx(10 ** other["log10_p_value"])
        assert second["detections"][0]["detected"] is False
        assert str(gallery.broken) in broken["error"]

    def test_a_name_that_is_not_utf_8_leaves_it_well_formed(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        name = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff \xf0\x9f\x98\x80.png")
        try:
            Path(name).write_bytes(gallery.first.read_bytes())
        except OSError:
            pytest.skip("no such names here")
        found = document([name, "--key", str(gallery.finds_first)], capsys, 0)
        assert found["results"][0]["image"].endswith("/a\ufffd \U0001f600.png")
        json.dumps(found, ensure_ascii=False).encode("utf-8")

    def test_several_processes_keep_the_order(self, gallery: Gallery, capsys: Capture) -> None:
        images = [str(path) for path in (gallery.broken, gallery.first, gallery.second, gallery.first)]
        found = document([*images, "--key", str(gallery.finds_first), "--jobs", "2"], capsys, 3)
        assert [result["image"] for result in found["results"]] == images

    def test_the_hash_is_that_of_the_file(self, gallery: Gallery, capsys: Capture) -> None:
        found = document([str(gallery.second), "--key", str(gallery.finds_first)], capsys, 1)
        assert found["results"][0]["sha256"] == hashlib.sha256(gallery.second.read_bytes()).hexdigest()

    def test_the_schema_describes_every_field_and_forbids_others(self) -> None:
        Draft202012Validator.check_schema(SCHEMA)
        objects = [SCHEMA, *SCHEMA["$defs"].values()]
        objects = [one for one in objects if one.get("type") == "object"]
        assert len(objects) >= 6
        for one in objects:
            assert one["additionalProperties"] is False
            assert one["required"] == list(one["properties"])


class TestSources:
    def test_standard_input(self, gallery: Gallery, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gallery.first.read_bytes())))
        found = document(["-", "--key", str(gallery.finds_first)], capsys, 0)
        assert found["results"][0]["image"] == "standard input"

    @pytest.fixture
    def address(self, gallery: Gallery) -> Iterator[str]:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

        with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=gallery.first.parent)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    def test_addresses_of_this_machine_need_leave(
        self, address: str, gallery: Gallery, capsys: Capture
    ) -> None:
        arguments = [f"{address}/first.png", "--key", str(gallery.finds_first)]
        assert document(arguments, capsys, 3)["results"][0]["verdict"] == "unreadable"
        assert document([*arguments, "--allow-private"], capsys, 0)["results"][0]["format"] == "PNG"

    def test_transparent_parts_are_tried_over_both_grounds_and_paid_for(
        self, tmp_path: Path, capsys: Capture
    ) -> None:
        picture, alpha = textured_image(5, 128, 128), textured_image(6, 128, 128, slope=0.5)[..., :1]
        Image.fromarray(np.concatenate([picture, alpha], axis=2), "RGBA").save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as opened:
            over_white, over_black = (
                np.asarray(
                    Image.alpha_composite(Image.new("RGBA", (128, 128), ground), opened).convert("RGB")
                )
                for ground in ("white", "black")
            )
        key = direction_between(over_black, over_white)
        key.save(tmp_path / "k.pub.json")
        arguments = [str(tmp_path / "a.png"), "--key", str(tmp_path / "k.pub.json")]
        [result] = document(arguments, capsys, 0)["results"]
        assert result["background"] == "black"
        [found] = result["detections"]
        assert (found["hypotheses"], found["hypothesis_factor"]) == (8, 8)
        [alone] = detect(over_black, [key])
        assert found["log10_p_value"] == pytest.approx(bonferroni_log10(alone.log10_p_value, 2), rel=1e-3)

    def test_of_many_keys_one_that_transparency_costs_its_detection_is_not_reported(
        self, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entries = [KeyEntry(SecretKey.draw().public()) for _ in range(ALL_KEYS + 1)]
        [found] = detect(gallery.first, [entries[0].key])
        strong = replace(found, log10_p_value=-9.0)
        weak = replace(found, key_id=entries[1].key.id, log10_p_value=-6.1)  # -5.8 once it is paid for twice
        monkeypatch.setattr("stablesig.evidence.detect", lambda *_, **__: [strong, weak])
        pixels = np.zeros((64, 64, 3), np.uint8)
        image = LoadedImage(pixels, pixels, "PNG", "", (), 0)
        _, _, reported = _detections(image, Request(KeySet.of(entries), 1e-6, "fast"))
        assert [one.key_id for one in reported] == [strong.key_id]


class TestKeys:
    def test_a_missing_key_is_named(self, gallery: Gallery, capsys: Capture) -> None:
        assert "no-such-key.json" in refused([str(gallery.first), "--key", "no-such-key.json"], capsys, 4)

    def test_without_a_key_the_options_are_named(self, gallery: Gallery, capsys: Capture) -> None:
        assert "--key, --keys or --model" in refused([str(gallery.first)], capsys, 2)

    def test_a_named_key_for_other_features_is_refused(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        SecretKey.draw(feature_version="spectrum-0").save(tmp_path / "old.json")
        keys = ["--key", str(tmp_path / "old.json"), "--key", str(gallery.finds_first)]
        assert "spectrum-0" in refused([str(gallery.first), *keys], capsys, 4)

    def test_of_a_folder_such_a_key_is_left_out_with_a_warning(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        SecretKey.draw(feature_version="spectrum-0").public().save(tmp_path / "old.pub.json")
        load_key(gallery.finds_first).save(tmp_path / "new.pub.json")
        assert main(["detect", str(gallery.first), "--keys", str(tmp_path)]) == 0
        out, err = capsys.readouterr()
        assert "1 key." in " ".join(out.split())
        assert "not looked for" in err

    def test_of_many_keys_the_best_and_the_detected_are_reported(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        for number in range(20):
            SecretKey.draw().public().save(tmp_path / f"{number}.pub.json")
        others = document([str(gallery.first), "--keys", str(tmp_path)], capsys, 1)
        assert others["n_keys"] == 20
        assert len(others["keys"]) == len(others["results"][0]["detections"]) == 1
        keys = ["--keys", str(tmp_path), "--key", str(gallery.finds_first)]
        found = document([str(gallery.first), *keys], capsys, 0)
        assert found["n_keys"] == 21
        assert found["results"][0]["detections"][0]["key_id"] == load_key(gallery.finds_first).id

    @pytest.fixture
    def revoked(self, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> KeySet:
        key = load_key(gallery.finds_first)
        entry = KeyEntry(
            key, "Example", "example/vae", revoked=date(2020, 1, 2), reason="leaked", file="r.json"
        )
        keys = KeySet.of([entry])
        monkeypatch.setattr("stablesig.detect_keys.keys_to_look_for", lambda *_: keys)
        return keys

    def test_a_revoked_key_is_matched_and_the_revocation_said(
        self, revoked: KeySet, gallery: Gallery, capsys: Capture
    ) -> None:
        assert main(["detect", str(gallery.first)]) == 0
        out, err = capsys.readouterr()
        text = " ".join(out.split())
        assert "provider Example, model example/vae, r.json, REVOKED since 2020-01-02 (leaked)" in text
        assert "REVOKED since 2020-01-02" in err
        assert main(["detect", str(gallery.first), "--json"]) == 0
        out, err = capsys.readouterr()
        found = json.loads(out)
        Draft202012Validator(SCHEMA).validate(found)
        [detection] = found["results"][0]["detections"]
        assert (detection["key_state"], detection["provider"]) == ("revoked", "Example")
        assert found["keys"][0]["revoked"] == "2020-01-02"


class TestManifest:
    @pytest.fixture
    def manifest(self, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> Manifest:
        binding = SoftBinding(SOFT_BINDING_ALGORITHM, load_key(gallery.finds_first).id, True)
        manifest = Manifest("Valid", (), "camera 1.0", None, "Example", None, (), (), (binding,), 1)
        monkeypatch.setattr("stablesig.evidence.manifest_evidence", lambda _: (manifest, None))
        return manifest

    def test_is_matched_to_the_detected_key(
        self, manifest: Manifest, gallery: Gallery, capsys: Capture
    ) -> None:
        keys = ["--key", str(gallery.finds_first), "--key", str(gallery.secret)]
        [result] = document([str(gallery.first), *keys], capsys, 0)["results"]
        assert result["c2pa"]["claim_generator"] == "camera 1.0"
        assert [found["named_by_c2pa"] for found in result["detections"]] == [True, False]
        for images in ([str(gallery.first)], [str(gallery.first), str(gallery.first)]):
            main(["detect", *images, *keys])
            assert "which was detected" in " ".join(capsys.readouterr().out.split())

    def test_image_manifest_and_model_on_the_hub_name_the_same_key(
        self, hub: HubServer, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        pytest.importorskip("c2pa")
        key = load_key(gallery.finds_first)
        signed = new_authority().sign(gallery.first.read_bytes(), [CREATED, soft_binding_assertion(key)])
        (tmp_path / "signed.png").write_bytes(signed)
        declared = {"id": key.id, "direction": key.direction_q.tolist(), "dimension": key.dimension}
        declared |= {name: key.fields()[name] for name in ("bits", "feature_version", "statistics_sha256")}
        declaration = {"format": "stablesig-watermark", "version": 1, "key": declared}
        hub.create("org/name", private=False, files={"watermark.json": json.dumps(declaration).encode()})
        found = document([str(tmp_path / "signed.png"), "--model", "org/name"], capsys, 0)
        [result] = found["results"]
        assert (result["c2pa"]["state"], result["c2pa_note"]) == ("Valid", None)
        [detection] = result["detections"]
        assert (detection["named_by_c2pa"], detection["model_id"]) == (True, "org/name")
        assert result["sha256"] == hashlib.sha256(signed).hexdigest()


class TestQuiet:
    def test_the_exit_code_is_the_answer(self, gallery: Gallery, capsys: Capture) -> None:
        key = ["--key", str(gallery.finds_first), "--quiet"]
        assert main(["detect", str(gallery.first), *key]) == 0
        assert main(["detect", str(gallery.first), str(gallery.second), *key]) == 1
        assert capsys.readouterr() == ("", "")

    def test_says_what_is_unreadable_on_standard_error(self, gallery: Gallery, capsys: Capture) -> None:
        images = [str(gallery.broken), str(gallery.first)]
        assert main(["detect", *images, "--key", str(gallery.finds_first), "--quiet"]) == 3
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"stablesig: error: {gallery.broken}: ")
        assert err.count("\n") == 1

    def test_is_not_for_json(self, gallery: Gallery, capsys: Capture) -> None:
        refused([str(gallery.first), "--key", str(gallery.finds_first), "--quiet", "--json"], capsys, 2)

    @pytest.mark.parametrize("options", [["--search", "wide"], ["--fpr", "0"], ["--fpr", "nan"]])
    def test_values_outside_their_range(self, options: list[str], gallery: Gallery, capsys: Capture) -> None:
        arguments = [str(gallery.first), "--key", str(gallery.finds_first), *options]
        assert options[1] in refused(arguments, capsys, 2)


class TestExplain:
    def test_writes_the_picture_and_says_what_the_tiles_say(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        out = tmp_path / "why.png"
        found = document(
            [str(gallery.first), "--key", str(gallery.finds_first), "--explain", str(out)], capsys, 0
        )
        with Image.open(out) as picture:
            assert (picture.format, picture.width) == ("PNG", 1500)
        local = found["results"][0]["local"]
        assert local["picture"] == str(out)
        assert 0 <= local["tiles_detected"] <= local["tiles"]
        assert local["best_tile"]["left"] + local["tile_px"] <= 320

    def test_an_image_may_have_a_name_of_two_lines(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        image, out = tmp_path / "new\nline.png", tmp_path / "why.png"
        image.write_bytes(gallery.first.read_bytes())
        arguments = [str(image), "--key", str(gallery.finds_first), "--explain", str(out)]
        assert main(["detect", *arguments]) == 0
        assert out.exists()
        capsys.readouterr()

    def test_overwrites_nothing_and_draws_one_image(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        key = ["--key", str(gallery.finds_first)]
        (tmp_path / "why.png").write_text("precious")
        refused([str(gallery.first), *key, "--explain", str(tmp_path / "why.png")], capsys, 8)
        assert (tmp_path / "why.png").read_text() == "precious"
        refused([str(gallery.first), *key, "--explain", str(tmp_path / "no" / "why.png")], capsys, 8)
        two = [str(gallery.first), str(gallery.second), *key, "--explain", str(tmp_path / "two.png")]
        refused(two, capsys, 2)
        assert not (tmp_path / "two.png").exists()

    def test_an_unreadable_image_leaves_no_picture(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        out = tmp_path / "why.png"
        assert main(["detect", str(gallery.broken), "--key", str(gallery.secret), "--explain", str(out)]) == 3
        assert not out.exists()
