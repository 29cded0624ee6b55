"""Key files: strict to read, private, never overwritten, never by halves; no error tells what is in them."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import stat
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stablesig_detector import key as key_module
from stablesig_detector import new_files
from stablesig_detector.errors import KeyFileError, OutputError, OutputExistsError, UsageError
from stablesig_detector.key import SecretKey, load_key, load_secret_key, public_key_path

SEED = bytes(range(32))
MESSAGE = tuple(int(bit) for bit in "110100111010001011101001110010100011011010011100")
STATISTICS = "ab" * 32
FEATURES = {"feature_version": "spectrum-test", "dimension": 232, "statistics_sha256": STATISTICS}

GOLDEN_ID = "bfad8e82c6d0c4b0"  # see test_key.py


def _secret() -> SecretKey:
    return SecretKey(SEED, MESSAGE, **FEATURES)


def _written(tmp_path: Path) -> tuple[Path, Path]:
    secret_path = tmp_path / "k.json"
    return secret_path, _secret().save_pair(secret_path)


# Files.


def test_both_files_read_back_as_they_were(tmp_path: Path) -> None:
    secret_path, public_path = _written(tmp_path)
    assert public_path == tmp_path / "k.pub.json"
    assert load_key(secret_path) == load_secret_key(secret_path) == _secret()
    assert load_key(public_path) == _secret().public()
    assert hash(load_key(public_path)) == hash(_secret().public())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.json", "k.pub.json"]


def test_the_files_are_those_of_the_format(tmp_path: Path) -> None:
    secret_path, public_path = _written(tmp_path)
    secret = json.loads(secret_path.read_bytes())
    assert secret == {
        "format": "stablesig-secret-key",
        "version": 1,
        "id": GOLDEN_ID,
        **FEATURES,
        "seed": SEED.hex(),
        "message": "".join(map(str, MESSAGE)),
    }
    public = json.loads(public_path.read_bytes())
    assert public["id"] == GOLDEN_ID
    assert public["bits"] == 48
    assert not {"seed", "message"} & set(public)


def test_the_schema_describes_both_files(tmp_path: Path) -> None:
    schema = json.loads(files("stablesig_detector").joinpath("data/key.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in _written(tmp_path):
        fields = json.loads(path.read_bytes())
        validator.validate(fields)
        for name in fields:
            assert not validator.is_valid({key: value for key, value in fields.items() if key != name})
        assert not validator.is_valid({**fields, "extra": 1})
        assert not validator.is_valid({**fields, "version": 2})


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_secret_file_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        _secret().save(tmp_path / "k.json")
        _secret().public().save(tmp_path / "k.pub.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "k.pub.json").stat().st_mode) == 0o644 & ~umask


@pytest.mark.parametrize("taken", ["k.json", "k.pub.json"])
@pytest.mark.parametrize("how", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str, how: str) -> None:
    path = tmp_path / taken
    if how == "file":
        path.write_text("precious")
    elif how == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExistsError, match=re.escape(f"{path}: exists already")):
        _secret().save_pair(tmp_path / "k.json")
    assert [entry.name for entry in tmp_path.iterdir()] == [taken]
    if how == "file":
        assert path.read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _race(tmp_path / "k.pub.json", monkeypatch)
    with pytest.raises(OutputExistsError, match=r"k\.pub\.json: exists already"):
        _secret().save_pair(tmp_path / "k.json")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("k.pub.json", "theirs")]


def _race(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let somebody else create `path` after the check that it is free, and before it is linked."""
    create = new_files._create

    def racing(beside: Path, *rest: Any) -> None:
        create(beside, *rest)
        if not path.exists():
            path.write_text("theirs")

    monkeypatch.setattr(new_files, "_create", racing)


def _no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", [1, 2])
def test_no_space_left_leaves_neither_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            _no_space()

    monkeypatch.setattr(new_files.os, "fsync", fsync)
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        _secret().save_pair(tmp_path / "k.json")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_between_the_files_leaves_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def interrupted(beside: Path, place: Path) -> None:
        if place.name == "k.pub.json":
            raise KeyboardInterrupt
        link(beside, place)

    monkeypatch.setattr(new_files.os, "link", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _secret().save_pair(tmp_path / "k.json")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_hard_links_works_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(beside: Path, place: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(new_files.os, "link", refused)
    secret_path, public_path = _written(tmp_path)
    assert load_key(secret_path).id == load_key(public_path).id
    assert stat.S_IMODE(secret_path.stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OutputExistsError):
        _secret().save(secret_path)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        _secret().save_pair(tmp_path / "nowhere" / "k.json")


@pytest.mark.parametrize(
    ("secret", "public"), [("k.json", "k.pub.json"), ("a/k", "a/k.pub.json"), ("k.txt", "k.txt.pub.json")]
)
def test_where_the_public_key_goes(secret: str, public: str) -> None:
    assert public_key_path(secret) == Path(public)


@pytest.mark.parametrize("name", ["k.pub.json", ".json", ""])
def test_names_that_are_not_for_a_secret_key(name: str) -> None:
    with pytest.raises(UsageError):
        public_key_path(name)


# Reading what is not a key.


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], bytes]:
    def edit(fields: dict[str, Any]) -> bytes:
        change(fields)
        return json.dumps(fields).encode()

    return edit


BOTH = [
    ("is empty", lambda fields: b" \n"),
    ("is not JSON, or only part", lambda fields: json.dumps(fields).encode()[:-40]),
    ("is not JSON", lambda fields: b"\xff\xfe" + json.dumps(fields).encode()),
    ("is not JSON", lambda fields: b"[" * 10_000),
    ("is larger than any key file", lambda fields: json.dumps(fields).encode() + b" " * 70_000),
    ("is not a stablesig key file", lambda fields: b"[]"),
    ("is not a stablesig key file", _edit(lambda fields: fields.update(format="other"))),
    ("is of format version 2, this stablesig reads 1", _edit(lambda fields: fields.update(version=2))),
    ("is of format version something else", _edit(lambda fields: fields.update(version=True))),
    ("lacks id, dimension;", _edit(lambda fields: (fields.pop("id"), fields.pop("dimension")))),
    ("holds 1 more fields", _edit(lambda fields: fields.update(note=""))),
    ("names a field twice", lambda fields: json.dumps(fields).replace("{", '{"version": 1, ', 1).encode()),
    ("its id is not that of its content", _edit(lambda fields: fields.update(id="0" * 16))),
    ("its id is not that of its content", _edit(lambda fields: fields.update(feature_version="spectrum-9"))),
    ("dimension is not an integer", _edit(lambda fields: fields.update(dimension=10**9))),
    ("dimension is not an integer", _edit(lambda fields: fields.update(dimension="232"))),
    ("whitening statistics", _edit(lambda fields: fields.update(statistics_sha256=None))),
]
SECRET_ONLY = [
    ('"seed" is not 64', _edit(lambda fields: fields.update(seed=fields["seed"][1:]))),
    ('"seed" is not 64', _edit(lambda fields: fields.update(seed=fields["seed"] + "\n"))),
    ('"message" is not 1 to 256 digits', _edit(lambda fields: fields.update(message="0121"))),
    ("its id is not that", _edit(lambda fields: fields.update(seed=fields["seed"][::-1]))),
    ("number of bits", _edit(lambda fields: fields.update(dimension=20))),
]
PUBLIC_ONLY = [
    ("is not the base64 of 232", _edit(lambda fields: fields.update(direction=fields["direction"][4:]))),
    ("is not the base64 of 232", _edit(lambda fields: fields.update(direction="é" * 8))),
    ("is not the base64 of 233", _edit(lambda fields: fields.update(dimension=233))),
    ("has norm 1; this one has 0", _edit(lambda fields: fields.update(direction="A" * 1238 + "=="))),
    ("number of bits", _edit(lambda fields: fields.update(bits=0))),
    ("its id is not that of its content", _edit(lambda fields: fields.update(bits=47))),
]


@pytest.mark.parametrize(
    ("half", "problem", "edit"),
    [(0, *case) for case in BOTH + SECRET_ONLY] + [(1, *case) for case in BOTH + PUBLIC_ONLY],
)
def test_a_damaged_or_foreign_file(
    tmp_path: Path, half: int, problem: str, edit: Callable[[dict[str, Any]], bytes]
) -> None:
    path = _written(tmp_path)[half]
    path.write_bytes(edit(json.loads(path.read_bytes())))
    with pytest.raises(KeyFileError) as caught:
        load_key(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert problem in text
    assert "\n" not in text


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"no\.json: no such file; .*stablesig keygen"):
        load_key(tmp_path / "no.json")
    with pytest.raises(KeyFileError, match="is a folder"):
        load_key(tmp_path)
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_key("a\0b")


def test_a_public_key_is_no_secret_key(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=f"holds a public key .id {GOLDEN_ID}"):
        load_secret_key(_written(tmp_path)[1])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELD_NAMES = sorted({name for names in key_module._FIELDS.values() for name in names})


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), secret=st.booleans())
def test_any_change_to_the_json_gives_a_key_file_error(
    tmp_path: Path, data: st.DataObject, secret: bool
) -> None:
    key = _secret()
    original = json.loads(key._file() if secret else key.public()._file())
    changed = copy.deepcopy(original)
    for name in data.draw(st.lists(st.sampled_from(FIELD_NAMES), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            changed.pop(name, None)
        else:
            changed[name] = data.draw(JSON_VALUES)
    path = tmp_path / "mutated.json"
    path.write_text(json.dumps(changed))
    if json.dumps(changed, sort_keys=True) == json.dumps(original, sort_keys=True):
        assert load_key(path) == (key if secret else key.public())
        return
    with pytest.raises(KeyFileError):
        load_key(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), secret=st.booleans())
def test_any_changed_byte_gives_a_key_file_error_or_the_same_key(
    tmp_path: Path, at: int, value: int, secret: bool
) -> None:
    key = _secret() if secret else _secret().public()
    content = bytearray(key._file())
    content[at % len(content)] = value
    path = tmp_path / "mutated.json"
    path.write_bytes(content)
    try:
        loaded = load_key(path)
    except KeyFileError:
        return
    # White space may change, and the statistics' hash is not part of the id.
    assert (loaded.id, loaded.n_bits) == (key.id, key.n_bits)
    assert loaded.direction_q.tobytes() == key.direction_q.tobytes()


# Secrecy.


def _everything_printed(error: BaseException) -> str:
    """The text of an error and of all that it drags along, including the attributes of JSON errors."""
    seen = []
    current: BaseException | None = error
    while current is not None:
        seen += [repr(current), str(current), repr(vars(current)), repr(getattr(current, "doc", ""))]
        frame = current.__traceback__
        while frame is not None:
            if "stablesig_detector" in frame.tb_frame.f_code.co_filename:
                seen.append(repr(frame.tb_frame.f_locals))
            frame = frame.tb_next
        current = current.__cause__ or current.__context__
    return "\n".join(seen)


@pytest.mark.parametrize(("problem", "edit"), BOTH + SECRET_ONLY)
def test_errors_hold_neither_seed_nor_message(
    tmp_path: Path, problem: str, edit: Callable[[dict[str, Any]], bytes]
) -> None:
    path = _written(tmp_path)[0]
    path.write_bytes(edit(json.loads(path.read_bytes())))
    with pytest.raises(KeyFileError) as caught:
        load_key(path)
    printed = _everything_printed(caught.value)
    assert problem in printed
    for secret in (
        SEED.hex()[1:30],
        SEED.hex()[::-1][1:30],
        "".join(map(str, MESSAGE))[:20],
        repr(SEED)[2:20],
    ):
        assert secret not in printed
