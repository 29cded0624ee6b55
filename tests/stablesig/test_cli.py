"""What a person or a script meets at the command line: output, exit codes, one line for each mistake."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stablesig import __version__
from stablesig.cli import main
from stablesig.detect_output import ABSENCE, format_p
from stablesig_detector.key import PublicKey, SecretKey, load_key

from .conftest import Gallery

Capture = pytest.CaptureFixture[str]


def error_line(capsys: Capture) -> str:
    """The one line that a mistake may print, less its prefix."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stablesig: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    return err.removeprefix("stablesig: error: ").rstrip("\n")


class TestProgram:
    def test_prints_its_version(self, capsys: Capture) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"stablesig {__version__}\n"

    def test_without_a_command_shows_help_as_a_usage_error(self, capsys: Capture) -> None:
        assert main([]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Usage: stablesig" in err
        assert "keygen" in err

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["paint"], "paint"),
            (["detect", "a.png"], "--key"),
            (["detect", "a.png", "--key", "k.json", "--colour"], "--colour"),
            (["detect", "a.png", "--key", "k.json", "--fpr", "low"], "--fpr"),
            (["keygen"], "SECRET.json"),
        ],
    )
    def test_wrong_usage_is_one_line_and_exit_code_2(
        self, arguments: list[str], named: str, capsys: Capture
    ) -> None:
        assert main(arguments) == 2
        line = error_line(capsys)
        assert named in line
        assert "--help" in line

    def test_is_a_module_too(self) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "stablesig", "--version"], capture_output=True, text=True, check=True
        )
        assert run.stdout == f"stablesig {__version__}\n"

    def test_an_interruption_is_one_line_and_exit_code_130(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("stablesig.keypair.keygen", interrupted)
        assert main(["keygen", "k.json"]) == 130
        assert error_line(capsys).startswith("interrupted")

    @pytest.mark.parametrize(
        ("number", "named"),
        [(errno.ENOSPC, "free some space"), (errno.EACCES, "permissions"), (errno.EROFS, "can be written")],
    )
    def test_what_the_system_refuses_is_one_line_and_exit_code_8(
        self, number: int, named: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: Any, **__: Any) -> None:
            raise OSError(number, "refused", "k.json")

        monkeypatch.setattr("stablesig.keypair.keygen", refused)
        assert main(["keygen", "k.json"]) == 8
        line = error_line(capsys)
        assert line.startswith("refused: k.json; ")
        assert named in line

    def test_a_fault_of_ours_is_not_dressed_up_as_a_mistake(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("by nothing")

        monkeypatch.setattr("stablesig.keypair.keygen", broken)
        assert main(["keygen", "k.json"]) == 9  # 1 would say of an image that it is not detected
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("Traceback (most recent call last):\n")
        assert err.endswith("ZeroDivisionError: by nothing\n")

    @pytest.mark.parametrize("arguments", [["detect", "IMAGE", "--key", "KEY"], ["--help"]])
    def test_a_broken_pipe_is_quiet_and_not_the_exit_code_of_not_detected(
        self, arguments: list[str], gallery: Gallery
    ) -> None:
        paths = {"IMAGE": str(gallery.first), "KEY": str(gallery.finds_first)}
        read, write = os.pipe()
        os.close(read)
        try:
            run = subprocess.run(
                [sys.executable, "-m", "stablesig", *(paths.get(given, given) for given in arguments)],
                stdout=write,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        finally:
            os.close(write)
        assert (run.returncode, run.stderr) == (141, "")

    def test_a_broken_standard_error_is_not_that_exit_code_either(self) -> None:
        read, write = os.pipe()
        os.close(read)
        try:
            run = subprocess.run([sys.executable, "-m", "stablesig", "paint"], stderr=write, check=False)
        finally:
            os.close(write)
        assert run.returncode == 141

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            RuntimeError("[enforce fail] CPUAllocator: can't allocate memory: you tried to allocate 9"),
            RuntimeError("MPS backend out of memory"),
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),  # torch's class, by its name
        ],
        ids=repr,
    )
    def test_too_little_memory_is_one_line_and_exit_code_9(
        self, error: Exception, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def exhausted(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr("stablesig.keypair.keygen", exhausted)
        assert main(["keygen", "k.json"]) == 9
        assert error_line(capsys).startswith("there is not enough memory")

    def test_an_error_cannot_steer_the_terminal(self, tmp_path: Path, capsys: Capture) -> None:
        assert main(["keygen", str(tmp_path / "no\x1b[2Jwhere\u202e" / "k.json")]) == 8
        line = error_line(capsys)
        assert "no\ufffd[2Jwhere\ufffd" in line
        assert line.isprintable()


class TestKeygen:
    def test_writes_both_files_and_names_them(self, tmp_path: Path, capsys: Capture) -> None:
        secret_path = tmp_path / "publisher.json"
        assert main(["keygen", str(secret_path)]) == 0
        public_path = tmp_path / "publisher.pub.json"
        secret, public = load_key(secret_path), load_key(public_path)
        assert isinstance(secret, SecretKey)
        assert isinstance(public, PublicKey)
        assert secret.public() == public
        assert secret.n_bits == 48
        assert stat.S_IMODE(secret_path.stat().st_mode) == 0o600
        out, err = capsys.readouterr()
        assert secret.id in out
        assert str(secret_path) in out
        assert str(public_path) in out
        assert "private" in err
        assert secret.seed.hex() not in out + err

    def test_takes_a_message_the_most_significant_bit_first(self, tmp_path: Path) -> None:
        path = tmp_path / "k.json"
        assert main(["keygen", str(path), "--message", "a5F0"]) == 0
        key = load_key(path)
        assert isinstance(key, SecretKey)
        assert key.message == (1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0)

    @pytest.mark.parametrize(
        "options",
        [
            ["--message", "5ecret"],  # r and t are no digits
            ["--message", ""],
            ["--message", "c0ffee", "--bits", "48"],
            ["--bits", "0"],
            ["--bits", "100000"],
        ],
    )
    def test_an_impossible_message_leaves_no_file_and_is_not_shown(
        self, options: list[str], tmp_path: Path, capsys: Capture
    ) -> None:
        assert main(["keygen", str(tmp_path / "k.json"), *options]) == 2
        line = error_line(capsys)
        assert "5ecret" not in line
        assert "c0ffee" not in line
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("taken", ["k.json", "k.pub.json"])
    def test_overwrites_nothing(self, taken: str, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / taken).write_text("precious")
        assert main(["keygen", str(tmp_path / "k.json")]) == 8
        assert taken in error_line(capsys)
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(taken, "precious")]

    def test_a_missing_folder_is_named(self, tmp_path: Path, capsys: Capture) -> None:
        assert main(["keygen", str(tmp_path / "nowhere" / "k.json")]) == 8
        assert "nowhere" in error_line(capsys)


class TestDetect:
    def test_an_image_with_the_watermark(self, gallery: Gallery, capsys: Capture) -> None:
        assert main(["detect", str(gallery.first), "--key", str(gallery.finds_first)]) == 0
        out, err = capsys.readouterr()
        line, meaning = out.splitlines()
        assert line.startswith("detected ")
        assert "identity" in line
        assert load_key(gallery.finds_first).id in line
        assert line.endswith(str(gallery.first))
        assert "p <= 1e-06" in meaning
        assert "4 geometries and 1 key" in meaning
        assert err == ""

    def test_an_image_without_it_is_not_called_proof(self, gallery: Gallery, capsys: Capture) -> None:
        assert main(["detect", str(gallery.first), "--key", str(gallery.secret)]) == 1
        line, _, caveat = capsys.readouterr().out.splitlines()
        assert line.startswith("not detected ")
        assert caveat == ABSENCE

    def test_a_secret_key_reads_bits_and_a_public_one_does_not(
        self, gallery: Gallery, capsys: Capture
    ) -> None:
        keys = ["--key", str(gallery.secret), "--key", str(gallery.finds_first)]
        main(["detect", str(gallery.first), *keys])
        secret_line, public_line = capsys.readouterr().out.splitlines()[:2]
        assert re.search(r"bits \d+/48 \(uncorrected p [0-9.e-]+\)  key", secret_line)
        assert "bits" not in public_line

    def test_one_matching_key_of_two_is_enough(self, gallery: Gallery, capsys: Capture) -> None:
        keys = ["--key", str(gallery.finds_second), "--key", str(gallery.finds_first)]
        assert main(["detect", str(gallery.first), *keys]) == 0
        other, own, meaning, caveat = capsys.readouterr().out.splitlines()
        assert other.startswith("not detected")
        assert own.startswith("detected")
        assert "2 keys" in meaning
        assert caveat == ABSENCE

    def test_an_unreadable_image_does_not_stop_the_others(self, gallery: Gallery, capsys: Capture) -> None:
        images = [str(gallery.broken), str(gallery.second), str(gallery.first), "no-such-file.png"]
        assert main(["detect", *images, "--key", str(gallery.finds_first)]) == 3
        broken, second, first, missing, *_ = capsys.readouterr().out.splitlines()
        assert broken.startswith(f"unreadable    {gallery.broken}: ")
        assert second.startswith("not detected")
        assert first.startswith("detected")
        assert "no-such-file.png" in missing

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

    def test_json_carries_the_evidence(self, gallery: Gallery, capsys: Capture) -> None:
        images = [str(gallery.first), str(gallery.second), str(gallery.broken)]
        keys = ["--key", str(gallery.finds_first), "--key", str(gallery.secret)]
        assert main(["detect", *images, *keys, "--json", "--fpr", "1e-5"]) == 3
        out, err = capsys.readouterr()
        assert err == ""
        document = json.loads(out)
        assert document["schema"] == "stablesig-detections"
        assert document["schema_version"] == 1
        assert document["fpr"] == 1e-5
        assert document["search"] == "fast"
        assert document["note"] == ABSENCE
        assert [key["kind"] for key in document["keys"]] == ["public", "secret"]
        assert [result["verdict"] for result in document["results"]] == [
            "detected",
            "not detected",
            "unreadable",
        ]
        first, second, broken = document["results"]
        assert (first["width"], first["height"]) == (320, 256)
        own, other = first["detections"]
        assert own["detected"] is True
        assert own["key_id"] == document["keys"][0]["id"]
        assert 0.95 < own["statistic"] <= 1.0
        assert own["log10_p_value"] <= -100
        assert own["matches"] is None
        assert (own["hypotheses"], own["n_keys"]) == (4, 2)
        assert (own["hypothesis_factor"], own["scale"], own["rotation"]) == (4, 1.0, 0.0)
        assert other["detected"] is False
        assert 0 <= other["matches"] <= other["n_bits"] == 48
        assert other["p_value"] == pytest.approx(10 ** other["log10_p_value"])
        assert second["detections"][0]["detected"] is False
        assert broken["detections"] == []
        assert str(gallery.broken) in broken["error"]

    def test_json_fields_are_those_documented(self, gallery: Gallery, capsys: Capture) -> None:
        main(["detect", str(gallery.first), "--key", str(gallery.secret), "--json"])
        document = json.loads(capsys.readouterr().out)
        reference = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
        fields = {*document, *document["keys"][0], *document["results"][0]}
        fields |= set(document["results"][0]["detections"][0])
        assert {field for field in fields if f"`{field}`" not in reference} == set()

    def test_search_none_tries_one_geometry(self, gallery: Gallery, capsys: Capture) -> None:
        main(["detect", str(gallery.first), "--key", str(gallery.finds_first), "--search", "none"])
        assert "1 geometry and 1 key" in capsys.readouterr().out

    def test_search_full_shows_scale_and_rotation(self, gallery: Gallery, capsys: Capture) -> None:
        search = ["--key", str(gallery.finds_first), "--search", "full"]
        assert main(["detect", str(gallery.first), *search]) == 0
        line, meaning = capsys.readouterr().out.splitlines()
        assert "  identity   scale 1.00  rotation  +0  key" in line
        assert "p pays for 4,920 geometries and 1 key" in meaning

    @pytest.mark.parametrize("options", [["--search", "wide"], ["--fpr", "0"], ["--fpr", "nan"]])
    def test_values_outside_their_range(self, options: list[str], gallery: Gallery, capsys: Capture) -> None:
        assert main(["detect", str(gallery.first), "--key", str(gallery.finds_first), *options]) == 2
        assert options[1] in error_line(capsys)

    def test_a_missing_key_is_named(self, gallery: Gallery, capsys: Capture) -> None:
        assert main(["detect", str(gallery.first), "--key", "no-such-key.json"]) == 4
        assert "no-such-key.json" in error_line(capsys)

    def test_a_key_for_other_features_is_refused(
        self, gallery: Gallery, tmp_path: Path, capsys: Capture
    ) -> None:
        SecretKey.draw(feature_version="spectrum-0").save(tmp_path / "old.json")
        assert main(["detect", str(gallery.first), "--key", str(tmp_path / "old.json")]) == 4
        assert "spectrum-0" in error_line(capsys)


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.5, "0.5"), (0.0123, "0.012"), (1e-6, "1.0e-06"), (9.99e-7, "1.0e-06"), (3.14e-21, "3.1e-21")],
)
def test_p_values_keep_two_digits(p: float, text: str) -> None:
    assert format_p(math.log10(p)) == text


def test_p_values_below_the_smallest_float_are_shown() -> None:
    assert format_p(-2000.5) == "3.2e-2001"


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "vae", "--key", "KEY", "--images", "photos", "--out", "out"],
        ["reconstruct", "vae", "KEY", "--out", "out"],
        ["demo", "--out", "out"],
    ],
)
def test_without_torch_the_training_commands_say_how_to_get_it(
    arguments: list[str], gallery: Gallery, tmp_path: Path
) -> None:
    arguments = [str(gallery.secret) if argument == "KEY" else argument for argument in arguments]
    code = "import sys\nsys.modules['torch'] = None\nfrom stablesig.cli import main\n"
    code += f"sys.exit(main({arguments!r}))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 2
    assert run.stderr.startswith("stablesig: error: ")
    assert run.stderr.count("\n") == 1
    assert "pip install 'stablesig[train]'" in run.stderr
    assert list(tmp_path.iterdir()) == []
