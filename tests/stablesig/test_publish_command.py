"""`stablesig publish`: its options, what it sends and to whom, and that nothing unproven becomes public."""

from __future__ import annotations

import hashlib
import io
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from stablesig.gate import ReleaseRefusedError, Thresholds
from stablesig.publish_command import _base_licence, _looked_up, parse_required, publish
from stablesig.release_signature import make_signing_key
from stablesig.secret_scan import scan_bytes
from stablesig.verify_release import ReleaseCheck
from stablesig_detector.errors import OutputError, UsageError

from ..hub_server import HubServer
from .hub_fixture import hub as hub
from .hub_fixture import waits as waits
from .release_fixture import Publishable, make_publishable

# huggingface_hub uploads with an argument that its HTTP client would rather see named otherwise
pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")
APP = typer.Typer()
APP.command()(publish)


@pytest.fixture
def case(tmp_path: Path) -> Publishable:
    case = make_publishable(tmp_path)
    case.key.save(tmp_path / "publisher.json")
    return case


def run(case: Publishable, *options: str) -> tuple[int, str]:
    """Exit code and standard output of the command; what it raises passes through."""
    words = [str(case.folder), "--repo-id", "org/marked-vae", "--report", str(case.report)]
    words += ["--key", str(case.folder.parent / "publisher.json"), "--out", str(case.out)]
    words += ["--base-model", "org/vae", "--license", "apache-2.0", "--base-license", "mit"]
    command: Any = typer.main.get_command(APP)
    output = io.StringIO()
    with redirect_stdout(output):
        code = command.main(args=[*words, *options], standalone_mode=False)
    return int(code or 0), output.getvalue()


def passing(check: ReleaseCheck) -> ReleaseCheck:
    """As it would be of a decoder that was trained."""
    return replace(check, problems=())


def test_a_dry_run_writes_the_folder_and_sends_nothing(case: Publishable, hub: HubServer) -> None:
    code, output = run(case, "--dry-run")
    assert code == 0
    assert hub.repositories == {}
    assert (case.out / "README.md").is_file()
    assert "pass  detection: 24 of 24" in output
    assert hashlib.sha256((case.out / "README.md").read_bytes()).hexdigest()[:16] in output
    assert "nothing was sent" in output


def test_what_is_not_proven_stays_private(case: Publishable, hub: HubServer) -> None:
    code, output = run(case, "--public")  # weights that nobody trained: no watermark will be found
    assert code == 10
    assert "not proven" in output
    repository = hub.repositories["org/marked-vae"]
    assert repository.private
    head = repository.files()
    sent = {path: content for path, content in head.items() if path != ".gitattributes"}
    assert sent == {
        path.relative_to(case.out).as_posix(): path.read_bytes()
        for path in case.out.rglob("*")
        if path.is_file()
    }
    assert not any(scan_bytes(content, case.key) for content in sent.values())


def test_what_is_proven_is_opened_only_if_asked(
    case: Publishable, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stablesig import verify_release as module

    really = module.verify_release
    asked: list[dict[str, Any]] = []

    def verify(repo_id: str, **options: Any) -> ReleaseCheck:
        asked.append(options)
        return passing(really(repo_id, **options))

    monkeypatch.setattr(module, "verify_release", verify)
    code, output = run(case)
    assert (code, hub.repositories["org/marked-vae"].private) == (0, True)
    assert "still private" in output
    assert asked[0]["key"] == case.key.public()
    assert asked[0]["expected"].keys() >= {"README.md", "watermark.json"}
    commits = len(hub.repositories["org/marked-vae"].commits)
    code, output = run(case, "--public")
    assert (code, hub.repositories["org/marked-vae"].private) == (0, False)
    assert output.splitlines()[-1].startswith("published: ")
    assert len(hub.repositories["org/marked-vae"].commits) == commits  # nothing had changed


def test_a_refused_release_reaches_nobody(case: Publishable, hub: HubServer) -> None:
    case.change("report.json", quality__psnr_db__mean=31.0)
    with pytest.raises(ReleaseRefusedError):
        run(case)
    assert hub.repositories == {}
    assert not case.out.exists()


def test_the_licence_of_the_base_is_looked_up_where_it_was_not_given(
    case: Publishable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import ModelCardData

    def info(_: Any, repo_id: str) -> Any:
        if repo_id == "org/nowhere":
            raise ConnectionError("http://user:password@host")
        return SimpleNamespace(
            card_data=ModelCardData(license="openrail++") if repo_id == "org/vae" else None
        )

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    assert _looked_up(case.folder, "org/vae") == "openrail++"
    assert _looked_up(case.folder, "org/no-card") is None
    assert _looked_up(case.folder, "org/nowhere") is None
    warning = capsys.readouterr().err
    assert "org/nowhere could not be looked up" in warning
    assert "password" not in warning
    assert _looked_up(case.folder, None) is None  # embed was given a local folder
    case.change("watermark.json", autoencoder__source="org/vae", autoencoder__revision="1" * 40)
    assert _looked_up(case.folder, None) == "openrail++"


def test_a_licence_that_the_base_model_s_page_contradicts_is_refused(
    case: Publishable, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "cc-by-nd-4.0"
    monkeypatch.setattr("stablesig.publish_command._looked_up", lambda *_: page)
    with pytest.raises(ReleaseRefusedError, match=r"says cc-by-nd-4\.0, --base-license says mit"):
        run(case)
    assert _base_licence(case.folder, "org/vae", "mit", "bought another licence", ask=True) == "mit"
    assert _base_licence(case.folder, "org/vae", "mit", None, ask=False) == "mit"
    assert _base_licence(case.folder, "org/vae", None, None, ask=False) == page


def test_what_lies_beside_the_record_is_searched_before_it_is_sent(case: Publishable, hub: HubServer) -> None:
    run(case, "--dry-run")
    (case.out / "provenance").mkdir()
    (case.out / "provenance" / "model.sig.tsr").write_bytes(b"x" + case.key.seed)
    for options in ([], ["--dry-run"]):
        with pytest.raises((ReleaseRefusedError, OutputError)) as refused:
            run(case, *options)
        assert case.key.seed.hex() not in str(refused.value)
    assert hub.repositories == {}


def test_a_private_key_beside_the_record_is_not_sent(
    case: Publishable, hub: HubServer, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    signing_key = tmp_path / "me.pem"
    make_signing_key(signing_key)
    run(case, "--signing-key", str(signing_key), "--dry-run")
    (case.out / "provenance" / "me.pem").write_bytes(signing_key.read_bytes())
    with pytest.raises(ReleaseRefusedError, match=r"me\.pem holds a private key"):
        run(case, "--signing-key", str(signing_key))
    assert hub.repositories == {}


def test_notes_in_the_repository_that_hold_the_secret_keep_it_private(
    case: Publishable, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stablesig import verify_release as module

    really = module.verify_release

    def verify(repo_id: str, **options: Any) -> ReleaseCheck:
        check = really(repo_id, **options)
        return replace(check, problems=tuple(one for one in check.problems if "holds" in one))

    monkeypatch.setattr(module, "verify_release", verify)
    hub.create("org/marked-vae", files={"notes.txt": case.key.seed.hex().encode()})
    code, output = run(case, "--public")
    assert (code, hub.repositories["org/marked-vae"].private) == (10, True)
    assert "notes.txt holds the secret key's seed" in output
    assert case.key.seed.hex() not in output


@pytest.mark.parametrize(
    ("private", "said"), [(False, "not on main, which is public"), (True, "so still private")]
)
def test_a_pull_request_is_not_called_published(
    private: bool, said: str, case: Publishable, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stablesig import verify_release as module

    really = module.verify_release
    monkeypatch.setattr(module, "verify_release", lambda *names, **more: passing(really(*names, **more)))
    hub.create("org/marked-vae", private=private)
    code, output = run(case, "--create-pr", "--public")
    assert code == 0
    assert said in output.splitlines()[-1]
    assert "published:" not in output
    assert hub.repositories["org/marked-vae"].private == private


def test_thresholds_are_those_given(case: Publishable, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def stop(settings: Any, **options: Any) -> None:
        seen.append((settings, options))
        raise UsageError("enough")

    monkeypatch.setattr("stablesig.publishing.publish", stop)
    monkeypatch.setattr("stablesig.publish_command._looked_up", lambda *_: None)
    with pytest.raises(UsageError, match="enough"):
        run(
            case,
            *("--require", "JPEG 50=0.7", "--min-psnr", "40", "--verification", "commitment"),
            *("--layout", "root", "--fp16", "--no-pictures", "--override-reason", "why", "--create-pr"),
        )
    [(settings, options)] = seen
    assert settings.thresholds == Thresholds(psnr_db=40, attacks={"JPEG 50": 0.7})
    assert (settings.verification, settings.layout, settings.fp16) == ("commitment", "root", True)
    assert (settings.pictures, settings.override_reason) == (False, "why")
    assert (options["create_pr"], options["public"], options["dry_run"]) == (True, False, False)


@pytest.mark.parametrize("option", ["JPEG 50", "=0.5", "JPEG 50=much", ""])
def test_a_requirement_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="ATTACK=SHARE"):
        parse_required([option])


def test_an_attack_s_name_may_hold_an_equals_sign() -> None:
    assert parse_required(["a=b=0.5", " JPEG 50 = 1"]) == {"a=b": 0.5, "JPEG 50": 1.0}
