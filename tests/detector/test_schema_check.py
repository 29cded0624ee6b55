"""The package's own validator against the jsonschema package, on every kind of spoilt entry."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import referencing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stablesig_detector import schema_check
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.registry import entry_bytes
from stablesig_detector.schema_check import schema_problems

from .drawn_keys import drawn_key

ENTRY = json.loads(entry_bytes(KeyEntry(drawn_key(0), "Example", "example/vae")))
NAMES = ("key.schema.json", "registry.schema.json")


def _schema(name: str) -> Any:
    return json.loads(files("stablesig_detector").joinpath("data", name).read_text("utf-8"))


VALIDATOR = jsonschema.Draft202012Validator(
    _schema("registry.schema.json"),
    format_checker=jsonschema.FormatChecker(["date"]),
    registry=referencing.Registry().with_resources(
        (name, referencing.Resource.from_contents(_schema(name))) for name in NAMES
    ),
)


def test_the_schemas_are_schemas_and_use_only_what_is_checked() -> None:
    known = schema_check._SAID_ONLY | schema_check._PROBLEMS.keys()
    known |= {"$ref", "properties", "additionalProperties"}

    def keywords(schema: Any) -> set[str]:
        own = set(schema)
        for name in ("properties", "$defs"):
            for inner in schema.get(name, {}).values():
                own |= keywords(inner)
        return own

    for name in NAMES:
        jsonschema.Draft202012Validator.check_schema(_schema(name))
    assert keywords(_schema("registry.schema.json")) <= known
    assert keywords(_schema("key.schema.json")["$defs"]["public"]) <= known


def test_a_sound_entry_has_no_problems() -> None:
    VALIDATOR.validate(ENTRY)
    assert schema_problems(ENTRY, "registry.schema.json#") == []


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5000),
    st.text(max_size=5),
    st.sampled_from(["2025-02-29", "2025-02-28", "2025-2-3", "20250228", "x" * 201, "x" * 200]),
    st.just([]),
    st.just({}),
)
FIELDS = st.sampled_from([(name,) for name in ENTRY] + [("key", name) for name in ENTRY["key"]] + [("new",)])


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(path=FIELDS, value=VALUES, remove=st.booleans())
def test_it_finds_what_jsonschema_finds(path: tuple[str, ...], value: Any, remove: bool) -> None:
    entry = copy.deepcopy(ENTRY)
    holder = entry["key"] if len(path) == 2 else entry
    if remove:
        holder.pop(path[-1], None)
    else:
        holder[path[-1]] = value
    assert bool(schema_problems(entry, "registry.schema.json#")) == (not VALIDATOR.is_valid(entry))


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_something_that_is_no_object_has_a_problem(value: Any) -> None:
    assert schema_problems(value, "registry.schema.json#") == ["is not of type object"]


def test_problems_name_the_field_and_quote_no_value() -> None:
    entry = copy.deepcopy(ENTRY)
    entry["key"]["id"] = "s3cret"
    entry["not_after"] = "2025-02-30"
    del entry["provider"]
    entry["s3cret"] = 1
    assert sorted(schema_problems(entry, "registry.schema.json#")) == [
        "holds 1 more field than it may",
        "key.id: is not of the form ^[0-9a-f]{16}$",
        'lacks "provider"',
        "not_after: is not a day of the calendar, YYYY-MM-DD",
    ]
