"""The commands that prove an image's membership in the training set."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stablesig.cli import main
from stablesig.membership import load_proof, prove, training_digests
from stablesig.merkle import image_leaves, merkle_root
from stablesig_detector.errors import UsageError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Seven image files; the list of the first six as embed writes it; the root as a release publishes it."""
    digests = []
    for number in range(7):
        content = f"image {number}".encode()
        (tmp_path / f"{number}.png").write_bytes(content)
        digests.append(hashlib.sha256(content).hexdigest())
    listed = {"images": {"training_sha256": sorted(digests[:6])}}
    (tmp_path / "embed.json").write_text(json.dumps(listed))
    root = merkle_root(image_leaves(digests[:6])).hex()
    (tmp_path / "watermark.json").write_text(
        json.dumps({"images": {"training": 6}, "release": {"training_merkle_root": root}})
    )
    (tmp_path / "sums.txt").write_text("".join(f"{digest}  a name.png\n" for digest in digests[:6]))
    return tmp_path


@pytest.mark.parametrize("listing", ["embed.json", "sums.txt"])
@pytest.mark.parametrize("number", range(6))
def test_every_training_image_can_be_proven(
    number: int, listing: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, proof = place / f"{number}.png", place / "proof.json"
    assert main(["prove-image", str(image), "--training", str(place / listing), "--out", str(proof)]) == 0
    assert main(["verify-proof", str(proof), str(image), "--release", str(place)]) == 0
    assert f"proven, leaf {load_proof(proof).index} of 6 under the root" in capsys.readouterr().out
    assert f"{number}.png" not in proof.read_text()


def test_an_image_that_was_not_used_cannot(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, proof = str(place / "embed.json"), place / "proof.json"
    assert main(["prove-image", str(place / "6.png"), "--training", training, "--out", str(proof)]) == 1
    assert "not among the 6 training images" in capsys.readouterr().out
    assert not proof.exists()
    assert main(["prove-image", str(place / "0.png"), "--training", training, "--out", str(proof)]) == 0
    assert main(["verify-proof", str(proof), str(place / "6.png"), "--release", str(place)]) == 1
    assert "the proof is for another file" in capsys.readouterr().out
    assert main(["verify-proof", str(proof), str(place / "0.png"), "--root", "00" * 32]) == 1
    assert "does not lead to the root" in capsys.readouterr().out
    assert main(["verify-proof", str(proof), str(place / "0.png")]) == 2
    fewer = json.loads((place / "watermark.json").read_text()) | {"images": {"training": 5}}
    (place / "fewer.json").write_text(json.dumps(fewer))
    assert (
        main(["verify-proof", str(proof), str(place / "0.png"), "--release", str(place / "fewer.json")]) == 1
    )
    assert "the proof is for 6 images, the release has 5" in capsys.readouterr().out
    assert main(["prove-image", str(place / "1.png"), "--training", training, "--out", str(proof)]) == 8


def test_a_changed_proof_does_not_hold(place: Path) -> None:
    digests = training_digests(place / "embed.json")
    proof = prove(digests[2], digests)
    assert proof is not None
    assert proof.holds(proof.root)
    for changed in (
        replace(proof, index=3),
        replace(proof, size=2),
        replace(proof, path=proof.path[::-1]),
        replace(proof, path=()),
        replace(proof, image_sha256=digests[1]),
    ):
        assert not changed.holds(proof.root)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": "stablesig-membership-proof", "version": 1}',
        '{"format": "stablesig-membership-proof", "version": 1, "image_sha256": "00", "index": -1, '
        '"size": 1, "path": [], "root": ""}',
    ],
)
def test_what_is_no_proof_list_or_release_is_explained(content: str, place: Path) -> None:
    path = place / "bad.json"
    path.write_text(content)
    with pytest.raises(UsageError):
        load_proof(path)
    assert (
        main(["verify-proof", str(place / "embed.json"), str(place / "0.png"), "--release", str(path)]) == 2
    )
    for listing in ("watermark.json", "0.png", "none.json"):
        with pytest.raises(UsageError):
            training_digests(place / listing)


def commands_of_the_page(program: str) -> list[list[str]]:
    page = Path(__file__).parents[2] / "docs" / "chain-of-custody.md"
    return [shlex.split(line) for line in page.read_text().splitlines() if line.startswith(f"{program} ")]


def test_the_page_on_the_chain_of_custody_can_be_followed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "0.png").rename(place / "photo.jpg")
    for folder, file in (("marked", "embed.json"), ("marked-release", "watermark.json")):
        (place / folder).mkdir()
        (place / file).rename(place / folder / "watermark.json")
    monkeypatch.chdir(place)
    followed = []
    for command in commands_of_the_page("stablesig"):
        if command[1] in ("prove-image", "verify-proof") or (
            command[1] == "signing-key" and importlib.util.find_spec("cryptography")
        ):
            assert main(command[1:]) == 0, command
            followed.append(command[1])
    assert {"prove-image", "verify-proof"} <= set(followed)


def test_a_time_stamp_is_made_and_verified_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "provenance").mkdir()
    (tmp_path / "provenance" / "model.sig").write_text("a signature")
    (tmp_path / "serial").write_text("01")
    digests = "digests = sha256\nsigner_digest = sha256\ness_cert_id_alg = sha256\n"
    files = "serial = ./serial\nsigner_cert = ./tsa.crt\nsigner_key = ./tsa.key\n"
    (tmp_path / "tsa.cnf").write_text(
        f"[tsa]\ndefault_tsa = t\n[t]\n{files}default_policy = 1.2.3.4\n{digests}"
    )

    def run(command: list[str]) -> int:
        named = ["tsa.crt" if word == "TSA_CERTIFICATE" else word for word in command]
        return subprocess.run(named, capture_output=True, timeout=60, check=False).returncode

    query, verify = commands_of_the_page("openssl")
    purpose = "extendedKeyUsage=critical,timeStamping"
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tsa.key"
    assert run(f"openssl req -x509 {key} -out tsa.crt -subj /CN=tsa -addext {purpose}".split()) == 0
    assert run(query) == 0
    reply = "openssl ts -reply -config tsa.cnf -queryfile model.sig.tsq -out provenance/model.sig.tsr"
    assert run(reply.split()) == 0
    assert run(verify) == 0
    (tmp_path / "provenance" / "model.sig").write_text("another signature")
    assert run(verify) != 0
