"""What of an address may stand in a row."""

from __future__ import annotations

import pytest

from stablesig.scanning.addresses import (
    ending,
    file_path,
    has_password,
    public_address,
    scheme_of,
    without_secrets,
)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:secret@h/x.png", "https://***@h/x.png"),
        ("https://secret@h:80/x.png?a=b@c", "https://***@h:80/x.png?a=b@c"),
        ("s3://AKIA:secret@bucket/x.png", "s3://***@bucket/x.png"),
        ("s3://AKIA:sec/ret+x@bucket/x@y.png", "s3://***@bucket/x@y.png"),
        ("https://user:se@cret@h/x", "https://***@h/x"),
        ("https://h/x?id=7&X-Amz-Signature=secret&w=2", "https://h/x?id=7&X-Amz-Signature=***&w=2"),
        ("https://h/x?X-Amz-Security-Token=sec%2Fret", "https://h/x?X-Amz-Security-Token=***"),
        ("https://h/x?x-goog-credential=secret&y", "https://h/x?x-goog-credential=***&y"),
        ("https://h/x?se=2030&sig=secret%3D", "https://h/x?se=2030&sig=***"),
        ("https://h/x?access_token=secret#t", "https://h/x?access_token=***#t"),
        ("https://h/x?TOKEN=secret;b=1", "https://h/x?TOKEN=***;b=1"),
        ("https://h/x?api-key=secret", "https://h/x?api-key=***"),
        ("https://h/x?accessToken=secret&w=2", "https://h/x?accessToken=***&w=2"),
        (
            "https://h/x?access_key=secret&OSSAccessKeyId=secret",
            "https://h/x?access_key=***&OSSAccessKeyId=***",
        ),
        ("https://h/x#access_token=secret", "https://h/x#access_token=***"),
    ],
)
def test_nothing_that_opens_the_file_is_left(address: str, shown: str) -> None:
    assert public_address(address) == shown
    assert "sec" not in public_address(address).lower().replace("security", "")


@pytest.mark.parametrize(
    "address",
    [
        "https://h/x.png?key=7&size=large&design=3",
        "https://h/a?signed=1&tokens=2",
        "hf://org/name@refs/pr/1/x.png",
        "https://h/user@home/x.png",
        "memory:///a@b/x.png",
        "https://h:80/@user/x.png",
        "https://[::1]:80/@user/x.png",
        "https://h//a@b",
        "s3://bucket/token=abc.png",
    ],
)
def test_what_says_which_image_is_meant_stays(address: str) -> None:
    assert public_address(address) == address
    assert not has_password(address)


def test_paths_have_no_scheme() -> None:
    assert [scheme_of(name) for name in ("a/b", "C:/x", "C:\\x", "a::b", "://x")] == [None] * 5
    assert scheme_of("S3://b") == "s3"
    assert scheme_of("simplecache::https://h/x") == "simplecache"


def test_a_file_address_is_a_path_with_its_escapes_undone() -> None:
    assert file_path("file:///a%20b/%C3%BC.png") == "/a b/ü.png"
    assert file_path("file://localhost/x") == "/x"
    assert file_path("file://elsewhere/x") is None
    assert file_path("file:///%FF.png") == "/\udcff.png"


def test_the_suffix_of_an_address_stands_before_its_query() -> None:
    assert ending("https://h/Shard.TAR?x=list.csv").endswith(".tar")
    assert ending("s3://b/what?.csv").endswith(".csv")


def test_what_is_said_of_an_address_stays_apart_from_it() -> None:
    assert without_secrets("https://h/x?sig=a:b: is not there") == "https://h/x?sig=***: is not there"
