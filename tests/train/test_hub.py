"""Autoencoders from a Hub: the real client against a server on loopback, then against its own cache."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stablesig_train.hub import is_repo_id
from stablesig_train.layout import needed_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_not_a_real_token_0123456789"
WEIGHTS = "diffusion_pytorch_model.safetensors"

FETCH = """
import json, sys
from stablesig_detector.errors import DecoderError
from stablesig_train.hub import fetch
answers = []
for repo, revision in json.loads(sys.argv[1]):
    try:
        answers.append(str(fetch(repo, revision)))
    except DecoderError as error:
        answers.append(f"DecoderError: {error}")
assert "torch" not in sys.modules
print(json.dumps(answers))
"""
LOAD = """
import json, sys
from stablesig_train.decoders import load_autoencoder
loaded = load_autoencoder(sys.argv[1])
loaded.save(sys.argv[2])
print(json.dumps([loaded.kind, loaded.source, loaded.revision]))
"""


class Hub:
    """The few endpoints of a Hub that listing and downloading a repository ask for."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.requests: list[str] = []  # "METHOD path"
        self.tokens: set[str | None] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"127.0.0.1:{self.server.server_port}"

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request below
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(send_body=True)

            def do_HEAD(self) -> None:
                self.answer(send_body=False)

            def answer(self, send_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                hub.tokens.add(self.headers.get("Authorization"))
                status, headers, body = hub.respond(self.path.partition("?")[0])
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if send_body:
                    self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler

    def respond(self, path: str) -> tuple[int, dict[str, str], bytes]:
        for repo, files in self.repositories.items():
            api = f"/api/models/{repo}"
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                listed = [{"rfilename": name} for name in files]
                return 200, {}, json.dumps({"id": repo, "sha": COMMIT, "siblings": listed}).encode()
            if path == f"{api}/tree/{COMMIT}":
                return 200, {}, json.dumps([entry(name, content) for name, content in files.items()]).encode()
            if path.startswith(f"{api}/revision/"):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            name = path.removeprefix(f"/{repo}/resolve/{COMMIT}/")
            if name in files:
                oid = entry(name, files[name])["oid"]
                return 200, {"ETag": f'"{oid}"', "X-Repo-Commit": COMMIT}, files[name]
        if "gated" in path:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if "teapot" in path:
            return 418, {}, b"{}"
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"


def entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@pytest.fixture
def hub(make_folder: Callable[..., Path]) -> Iterator[Hub]:
    files = {file.name: file.read_bytes() for file in make_folder("AutoencoderTiny").iterdir()}
    decoy = {
        "README.md": b"# hello",
        "diffusion_pytorch_model.fp16.safetensors": b"x" * 999,
        "unet/config.json": b"{}",
    }
    pipeline = {f"vae/{name}": content for name, content in files.items()}
    hub = Hub(
        {
            "org/tiny-vae": files | decoy,
            "org/pipeline": pipeline | {"model_index.json": b"{}", f"unet/{WEIGHTS}": b"x" * 999},
            "org/text": {"config.json": b"{}", "model.safetensors": b"x"},
        }
    )
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


@pytest.fixture
def client(tmp_path: Path) -> Callable[..., Any]:
    """Runs a script in a new interpreter, as huggingface_hub reads its environment when it is imported."""

    def run(script: str, *arguments: str, endpoint: str, offline: bool = False) -> Any:
        settings = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf-home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        inherited = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={name: value for name, value in inherited.items() if not name.startswith("HF_")} | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_only_the_needed_files_are_downloaded_and_the_next_load_needs_no_network(
    hub: Hub, client: Callable[..., Any], tmp_path: Path
) -> None:
    first = client(LOAD, "org/tiny-vae", str(tmp_path / "first"), endpoint=f"http://{hub.address}")
    assert first == ["AutoencoderTiny", "org/tiny-vae", COMMIT]
    assert hub.tokens == {f"Bearer {TOKEN}"}
    downloaded = {request.rpartition("/")[2] for request in hub.requests if request.startswith("GET /org/")}
    assert downloaded == {"config.json", "LICENSE", WEIGHTS}
    for name in downloaded:
        assert (tmp_path / "first" / name).read_bytes() == hub.repositories["org/tiny-vae"][name]
        assert not (tmp_path / "first" / name).is_symlink()

    hub.requests.clear()
    (second,) = client(FETCH, json.dumps([("org/tiny-vae", None)]), endpoint=f"http://{hub.address}")
    assert Path(second).name == COMMIT
    assert hub.requests == []


def test_what_cannot_be_fetched_is_explained(hub: Hub, client: Callable[..., Any]) -> None:
    asked = [
        ("org/pipeline", None),
        ("org/pipeline", "no-such-tag"),
        ("org/missing", None),
        ("org/gated", None),
        ("org/text", None),
        ("org/teapot", None),
        ("org/in--valid", None),
    ]
    answers = client(FETCH, json.dumps(asked), endpoint=f"http://user:hunter2@{hub.address}")
    pipeline, revision, missing, gated, text, teapot, invalid = answers
    assert sorted(file.name for file in (Path(pipeline) / "vae").iterdir()) == [
        "LICENSE",
        "config.json",
        WEIGHTS,
    ]
    assert [entry.name for entry in Path(pipeline).iterdir()] == ["vae"]
    assert Path(pipeline).name == COMMIT
    assert f"org/pipeline at revision no-such-tag on {hub.address} does not exist" in revision
    assert "was not found; check the spelling" in missing
    assert 'is gated; accept its terms on its page, then run "hf auth login"' in gated
    assert "has no autoencoder that can be loaded" in text
    assert "answered HTTP 418" in teapot
    assert "nor a valid Hub id" in invalid
    assert all(answer.startswith("DecoderError: ") for answer in answers[1:])
    assert not any("hunter2" in answer for answer in answers[1:])


def test_offline_only_the_cache_answers(hub: Hub, client: Callable[..., Any]) -> None:
    endpoint = f"http://{hub.address}"
    (online,) = client(FETCH, json.dumps([("org/tiny-vae", None)]), endpoint=endpoint)
    hub.requests.clear()
    asked = [("org/tiny-vae", None), ("org/tiny-vae", COMMIT), ("org/tiny-vae", "v2"), ("org/pipeline", None)]
    same, by_commit, other_revision, unknown = client(
        FETCH, json.dumps(asked), endpoint=endpoint, offline=True
    )
    assert same == by_commit == online
    for answer in (other_revision, unknown):
        assert "is not in the local cache, and HF_HUB_OFFLINE is set" in answer
    assert hub.requests == []


def test_a_hub_that_does_not_answer_is_explained(client: Callable[..., Any]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        (answer,) = client(FETCH, json.dumps([("org/tiny-vae", None)]), endpoint=f"http://{address}")
    assert f"org/tiny-vae on {address} could not be downloaded (Connect" in answer
    assert "check the network and HF_ENDPOINT" in answer


@pytest.mark.parametrize(
    ("source", "is_id"),
    [
        ("org/name", True),
        ("org/na.me-1_x", True),
        ("name", False),
        ("a/b/c", False),
        ("./vae", False),
        ("/tmp/vae", False),
    ],
)
def test_repository_ids_are_told_from_paths(source: str, is_id: bool) -> None:
    assert is_repo_id(source) is is_id


@pytest.mark.parametrize(
    ("files", "needed"),
    [
        ({"config.json", WEIGHTS, "diffusion_pytorch_model.bin"}, ["config.json", WEIGHTS]),
        ({"config.json", "diffusion_pytorch_model.bin"}, ["config.json", "diffusion_pytorch_model.bin"]),
        (
            {"config.json", WEIGHTS, "vae/config.json", f"vae/{WEIGHTS}"},
            ["vae/config.json", f"vae/{WEIGHTS}"],
        ),
        ({"taef2_encoder.pth", "taef2_decoder.pth", "README.md"}, ["taef2_encoder.pth", "taef2_decoder.pth"]),
        ({"taef2_decoder.pth", WEIGHTS}, []),
    ],
)
def test_the_files_of_the_autoencoder_are_picked_from_a_listing(files: set[str], needed: list[str]) -> None:
    assert needed_files(files) == needed
