"""What a person or a script meets at the command line: output, exit codes, one line for each mistake."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stablesig import __version__
from stablesig.cli import main
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

    @pytest.mark.parametrize(
        ("words", "completed"), [("detect --search f", ["fast", "full"]), ("key", ["keygen"])]
    )
    def test_shells_complete_commands_and_values(self, words: str, completed: list[str]) -> None:
        typed = ["stablesig", *words.split()]
        environment = {
            **os.environ,
            "_STABLESIG_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(typed),
            "COMP_CWORD": str(len(typed) - 1),
        }
        run = subprocess.run(
            [sys.executable, "-m", "stablesig"], capture_output=True, text=True, check=True, env=environment
        )
        assert run.stdout.split() == completed

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

    def test_an_output_that_lacks_a_letter_gets_an_escape(self, tmp_path: Path) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "stablesig", "keygen", str(tmp_path / "\u65e5.json")],
            env={**os.environ, "PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "\\u65e5.json" in run.stdout


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
