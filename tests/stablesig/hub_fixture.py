"""A running Hub on loopback with the real client pointed at it, whose waits are noted instead of waited."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ..hub_server import TOKEN, HubServer, running

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that client and package would have slept."""
    noted: list[float] = []
    instead = SimpleNamespace(sleep=noted.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time", instead)
    monkeypatch.setattr("stablesig.hub_client.time", instead)
    return noted


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: list[float]) -> Iterator[HubServer]:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    close_session()
    with running() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server
    close_session()


def release(folder: Path, **changes: bytes | None) -> Path:
    """A small release folder; `changes` by the names below with "_" for "/" and "." replace or leave out."""
    files: dict[str, bytes | None] = {
        "README.md": b"---\nlicense: mit\n---\n# tiny\n",
        "watermark.json": b'{"release": {"files": {"README.md": "", "old.txt": ""}}}',
        "vae/config.json": b"{}",
        "vae/model.safetensors": WEIGHTS,
        "report/table.png": WEIGHTS[::-1],
    }
    named = {path.replace("/", "_").replace(".", "_"): path for path in files}
    for name, content in changes.items():
        files[named.get(name, name.replace("_", "."))] = content
    for path, content in files.items():
        if content is not None:
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    return folder
