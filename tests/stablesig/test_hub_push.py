"""Pushing a release to a Hub that misbehaves: nothing lost, nothing half-published, no token shown."""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path

import pytest

from stablesig.hub_client import HubError, connect, make_public
from stablesig.hub_push import PushStep, local_files, push_release
from stablesig_detector.errors import OutputError, UsageError

from ..hub_server import READER, TOKEN, Fault, HubServer
from .hub_fixture import hub as hub
from .hub_fixture import release
from .hub_fixture import waits as waits

NAME = "org/tiny"
# httpx2 deprecates how huggingface_hub 2.4 itself hands it a file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def content(folder: Path) -> dict[str, bytes]:
    return {path: file.path.read_bytes() for path, file in local_files(folder).items()}


def held(hub: HubServer, ref: str = "main") -> dict[str, bytes]:
    return {
        path: text for path, text in hub.repositories[NAME].files(ref).items() if path != ".gitattributes"
    }


def chain(error: BaseException | None) -> list[BaseException]:
    """An error and what a traceback would print with it."""
    return [] if error is None else [error, *chain(error.__context__)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return release(tmp_path / "release")


def test_a_release_becomes_one_commit_in_a_new_private_repository(hub: HubServer, folder: Path) -> None:
    steps: list[PushStep] = []
    pushed = push_release(folder, NAME, progress=steps.append)
    assert (pushed.created, pushed.changed, pushed.public) == (True, True, False)
    assert held(hub) == content(folder)
    assert hub.repositories[NAME].private
    assert len(hub.repositories[NAME].commits) == 2  # the Hub's own first one, and this
    assert pushed.commit == pushed.revision == hub.repositories[NAME].refs["main"]
    assert [step.stage for step in steps] == ["compare", "push", "done"]
    assert steps[1].bytes == sum(len(text) for text in content(folder).values())
    assert "pushed      5 files in one commit, 0 unchanged" in str(pushed)


def test_nothing_changed_means_no_commit_and_no_upload(hub: HubServer, folder: Path) -> None:
    first = push_release(folder, NAME)
    hub.requests.clear()
    second = push_release(folder, NAME)
    assert (second.changed, second.created, second.commit) == (False, False, first.commit)
    assert second.unchanged == 5
    assert {request.method for request in hub.requests} == {"GET"}
    assert "pushed      nothing: all 5 files are there already" in str(second)


def test_only_what_changed_is_sent_and_only_the_last_release_files_go(hub: HubServer, tmp_path: Path) -> None:
    push_release(release(tmp_path / "old", old_txt=b"of the release before"), NAME)
    repository = hub.repositories[NAME]
    parent = repository.commits[repository.refs["main"]]
    note = {"theirs.txt": parent.files[".gitattributes"]}
    repository.add("main", type(parent)({**parent.files, **note}, "a note", parent.oid))
    hub.requests.clear()
    pushed = push_release(release(tmp_path / "new", vae_config_json=b'{"a": 1}'), NAME)
    assert pushed.added == ("vae/config.json",)
    assert pushed.removed == ("old.txt",)
    assert "theirs.txt" in held(hub)
    assert "old.txt" not in held(hub)
    assert not hub.asked("^PUT /lfs/")


def test_a_file_that_is_in_the_way_of_atomicity_stops_everything(folder: Path, tmp_path: Path) -> None:
    (folder / "vae" / ".hidden").write_bytes(b"")
    with pytest.raises(OutputError, match="hidden or a special file"):
        local_files(folder)
    with pytest.raises(OutputError, match="is no folder"):
        local_files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="is empty"):
        local_files(tmp_path / "empty")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "key.json").symlink_to(folder / "README.md")
    with pytest.raises(OutputError, match="is a link"):
        local_files(tmp_path / "linked")


# What may go wrong once and must not be noticed, by the request that it hits.
PASSING = {
    "create 500": Fault("POST /api/repos/create", status=500),
    "create answer lost": Fault("POST /api/repos/create", "lose"),
    "info 503": Fault("GET /api/models/", status=503, times=2),
    "tree dropped": Fault("GET .*/tree/", "drop"),
    "yaml 502": Fault("POST /api/validate-yaml", status=502),
    "preupload 429": Fault("POST .*/preupload/", status=429, headers={"Retry-After": "7"}),
    "batch 500": Fault("POST .*/objects/batch", status=500),
    "upload dropped midway": Fault("PUT /lfs/", "drop", after=3000, times=2),
    "upload 500": Fault("PUT /lfs/", status=500),
    "upload answer lost": Fault("PUT /lfs/", "lose"),
    "upload slow": Fault("PUT /lfs/", "slow", seconds=0.01),
    "verify 500": Fault("POST .*/lfs/verify", status=500),
    "commit 429": Fault("POST .*/commit/", status=429, headers={"Retry-After": "9"}),
    "commit 500": Fault("POST .*/commit/", status=500, times=2),
    "commit 409": Fault("POST .*/commit/", status=409),
    "commit dropped": Fault("POST .*/commit/", "drop", after=10),
    "commit answer lost": Fault("POST .*/commit/", "lose"),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_not_noticed(
    name: str, hub: HubServer, folder: Path, waits: list[float]
) -> None:
    fault = PASSING[name]
    hub.faults.append(fault)
    pushed = push_release(folder, NAME)
    assert fault.hits >= fault.times
    assert pushed.changed
    assert held(hub) == content(folder)
    assert len(hub.repositories[NAME].commits) == 2, "the release was committed more than once"
    asked_for = fault.headers.get("Retry-After")
    if asked_for is not None:
        assert max(waits) >= float(asked_for)
    fault.hits = 0
    hub.faults.clear()
    assert not push_release(folder, NAME).changed


# What lasts: the exit is an error, the repository is as it was, and the next push completes it.
LASTING = {
    "401": (Fault("(POST|GET) /api/", status=401, times=999), "the token is missing or not valid"),
    "403 create": (Fault("POST /api/repos/create", status=403, times=999), "write access"),
    "403 commit": (Fault("POST .*/commit/", status=403, times=999), "write access"),
    "429 for an hour": (
        Fault("POST .*/commit/", status=429, times=999, headers={"Retry-After": "3600"}),
        "wait 3600 s",
    ),
    "500 commit": (Fault("POST .*/commit/", status=500, times=999), "the Hub has a fault"),
    "409 commit": (Fault("POST .*/commit/", status=409, times=999), "somebody else changed it"),
    "upload cut off": (Fault("PUT /lfs/", "drop", after=5000, times=999, skip=1), "did not answer properly"),
    "upload 403": (Fault("PUT /lfs/", status=403, times=999, skip=1), "HTTP 403"),
    "commit dropped": (Fault("POST .*/commit/", "drop", after=10, times=999), "did not answer properly"),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_leaves_the_repository_as_it_was(name: str, hub: HubServer, folder: Path) -> None:
    fault, words = LASTING[name]
    hub.create(NAME, files={"README.md": b"---\nlicense: mit\n---\nbefore"})
    before = dict(hub.repositories[NAME].refs)
    if name == "403 create":
        del hub.repositories[NAME]
        before = {}
    hub.faults.append(fault)
    with pytest.raises(HubError, match=re.escape(words)) as caught:
        push_release(folder, NAME)
    assert caught.value.exit_code == 8
    refs = hub.repositories[NAME].refs if NAME in hub.repositories else {}
    assert refs == before, "something was published"
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert all(isinstance(error, HubError) for error in chain(caught.value))
    hub.faults.clear()
    hub.requests.clear()
    arrived = set(hub.objects)
    assert push_release(folder, NAME).changed
    assert held(hub) == content(folder)
    sent_again = {request.path.removeprefix("/lfs/") for request in hub.asked("^PUT /lfs/")}
    assert not sent_again & arrived, "an object that had arrived was sent again"


def test_objects_in_parts_survive_a_dropped_part(hub: HubServer, folder: Path) -> None:
    hub.part_bytes = 3000
    hub.faults.append(Fault("PUT /lfs/.*/2$", "drop", after=100))
    push_release(folder, NAME)
    assert held(hub) == content(folder)
    assert len(hub.asked("PUT /lfs/.*/1$")) == 2  # the two large files, their first part once each


def test_somebody_elses_commit_meanwhile_is_kept(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create(NAME)
    repository = hub.repositories[NAME]
    original = hub.respond

    def respond(method: str, target: str, headers: object, body: bytes) -> object:
        if "/preupload/" in target and len(repository.commits) == 1:
            parent = repository.commits[repository.refs["main"]]
            blob = parent.files[".gitattributes"]
            repository.add("main", type(parent)({**parent.files, "theirs.txt": blob}, "theirs", parent.oid))
        return original(method, target, headers, body)  # type: ignore[arg-type]

    monkeypatch.setattr(hub, "respond", respond)
    push_release(folder, NAME)
    assert held(hub).keys() == {*content(folder), "theirs.txt"}
    assert len(repository.commits) == 3


def test_a_public_repository_is_not_changed_before_it_is_verified(hub: HubServer, folder: Path) -> None:
    hub.create(NAME, private=False)
    before = dict(hub.repositories[NAME].refs)
    with pytest.raises(UsageError, match="--create-pr"):
        push_release(folder, NAME)
    assert hub.repositories[NAME].refs == before
    assert not hub.asked("^PUT /lfs/")
    pushed = push_release(folder, NAME, private=False)
    assert pushed.public
    assert not push_release(folder, NAME).changed  # nothing to change: nothing to refuse


def test_a_branch_is_made_and_main_is_left_alone(hub: HubServer, folder: Path) -> None:
    hub.create(NAME, private=False)
    main = hub.repositories[NAME].refs["main"]
    pushed = push_release(folder, NAME, revision="v2/rc")
    assert hub.repositories[NAME].refs == {"main": main, "v2/rc": pushed.commit}
    assert held(hub, "v2/rc") == content(folder)
    assert not push_release(folder, NAME, revision="v2/rc").changed


@pytest.mark.parametrize("fault", [None, Fault("POST .*/commit/", "lose")])
def test_a_pull_request_is_opened_once(fault: Fault | None, hub: HubServer, folder: Path) -> None:
    hub.create(NAME, private=False)
    main = hub.repositories[NAME].refs["main"]
    if fault is not None:
        hub.faults.append(fault)
    first = push_release(folder, NAME, create_pr=True)
    second = push_release(folder, NAME, create_pr=True)
    assert (first.changed, second.changed) == (True, False)
    assert first.revision == second.revision == "refs/pr/1"
    assert first.pull_request == second.pull_request == f"{hub.url}/{NAME}/discussions/1"
    assert hub.repositories[NAME].refs == {"main": main, "refs/pr/1": first.commit}
    hub.repositories[NAME].pull_requests[1] = "closed"
    assert push_release(folder, NAME, create_pr=True).revision == "refs/pr/2"


def test_a_pull_request_against_a_branch_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="against main"):
        push_release(folder, NAME, create_pr=True, revision="v2")


def test_a_repository_is_made_public_once(hub: HubServer, folder: Path) -> None:
    push_release(folder, NAME)
    hub.faults.append(Fault("PUT .*/settings", status=500))
    assert make_public(NAME) is True
    assert not hub.repositories[NAME].private
    assert make_public(NAME) is False


def test_a_repository_that_changed_since_it_was_verified_stays_private(hub: HubServer, folder: Path) -> None:
    pushed = push_release(folder, NAME)
    repository = hub.repositories[NAME]
    parent = repository.commits[pushed.commit]
    repository.add("main", type(parent)(parent.files, "meanwhile", parent.oid))
    with pytest.raises(HubError, match=f"main has moved from {pushed.commit}"):
        make_public(NAME, commit=pushed.commit)
    assert repository.private
    assert make_public(NAME, commit=repository.refs["main"])


def test_a_record_and_its_time_stamp_stay_while_they_hold(hub: HubServer, tmp_path: Path) -> None:
    signed = release(tmp_path / "signed")
    (signed / "provenance").mkdir()
    (signed / "provenance" / "model.sig").write_bytes(b"signature")
    (signed / "provenance" / "model.sig.tsr").write_bytes(b"time stamp")
    push_release(signed, NAME)
    (signed / "provenance" / "model.sig.tsr").unlink()  # as on another machine
    assert not push_release(signed, NAME).changed
    assert not push_release(release(tmp_path / "unsigned"), NAME).changed
    (signed / "provenance" / "model.sig.ots").write_bytes(b"another time stamp")
    assert push_release(signed, NAME).removed == ()
    assert "provenance/model.sig.tsr" in held(hub)
    (signed / "provenance" / "model.sig").write_bytes(b"another signature")
    assert push_release(signed, NAME).removed == ("provenance/model.sig.tsr",)
    changed = release(tmp_path / "changed", vae_config_json=b"{ }")
    assert "provenance/model.sig" in push_release(changed, NAME).removed


@pytest.mark.parametrize("listed", [b"5", b"[[1, 2]]", b"[5]", b'"ab"', b"null"])
def test_a_declaration_of_nothing_takes_nothing_away(listed: bytes, hub: HubServer, folder: Path) -> None:
    declared = b'{"release": {"files": ' + listed + b"}}"
    hub.create(NAME, files={"watermark.json": declared, "theirs.txt": b"theirs"})
    push_release(folder, NAME)
    assert "theirs.txt" in held(hub)


def test_a_full_disk_is_not_blamed_on_the_network(hub: HubServer) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/somewhere")

    with pytest.raises(HubError, match="No space left on device; free some space"):
        connect("verify-release").ask("downloading org/tiny", full)


def test_what_the_hub_refuses_in_the_card_is_said(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r'refuses the metadata of README[.]md: - "license" is required'):
        push_release(release(tmp_path / "release", README_md=b"# no metadata"), NAME)
    assert held(hub) == {}


def test_tokens_without_rights_change_nothing(hub: HubServer, folder: Path) -> None:
    hub.create(NAME)
    with pytest.raises(HubError, match=r"HTTP 403 .*write access"):
        push_release(folder, NAME, token=READER)
    with pytest.raises(HubError, match="HTTP 401"):
        push_release(folder, NAME, token="hf_thisOneWasRevoked0123456")
    assert held(hub) == {}


def test_no_token_shows_in_any_error(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for status in (400, 418, 500):
        hub.faults[:] = [
            Fault(
                "POST .*/commit/", status=status, times=99, message=f"your token {TOKEN} and hf_other0987654"
            )
        ]
        with pytest.raises(HubError) as caught:
            push_release(folder, NAME)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert "your token ***" in shown
        assert TOKEN not in shown
        assert "other0987654" not in shown
    with pytest.raises(UsageError) as refused:
        push_release(folder, NAME, token=f"{TOKEN}\n")
    assert TOKEN not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="hf auth login"):
        push_release(folder, NAME)
    assert TOKEN not in "".join(capfd.readouterr())


def test_without_a_hub_the_error_says_so(
    folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.close()
    with pytest.raises(HubError, match=r"did not answer properly .*check the network and HF_ENDPOINT"):
        push_release(folder, NAME)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        push_release(folder, NAME)
