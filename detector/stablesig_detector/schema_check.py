"""Holding decoded JSON against a JSON Schema that ships with the package.

The part of draft 2020-12 that those schemas use; tests hold it to the jsonschema package. It is here so that
the schema is what is checked, in every installation, and not a description of the check. No value is ever
quoted: the file may hold a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import cache
from importlib import resources
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_SAID_ONLY = {"$schema", "$defs", "title", "description", "contentEncoding", "examples"}


@cache
def _schema(name: str) -> dict[str, Any]:
    text = (resources.files(__package__) / "data" / name).read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def schema_problems(value: Any, reference: str) -> list[str]:
    """What in `value` does not fit a shipped schema, "field: what is wrong"; empty if all fits.

    reference: file in data/ and place in it, such as "key.schema.json#/$defs/public".
    """
    name, _, place = reference.partition("#")
    return list(_problems(value, _resolved(name, place), name, ""))


def _resolved(name: str, place: str) -> dict[str, Any]:
    schema = _schema(name)
    for step in place.split("/")[1:]:
        schema = schema[step]
    return schema


def _problems(value: Any, schema: Mapping[str, Any], name: str, at: str) -> Iterator[str]:
    here = f"{at}: " if at else ""
    for keyword, wanted in schema.items():
        if keyword == "$ref":
            file, _, place = wanted.partition("#")
            yield from _problems(value, _resolved(file or name, place), file or name, at)
        elif keyword == "properties":
            for field in wanted.keys() & value.keys() if isinstance(value, dict) else ():
                yield from _problems(value[field], wanted[field], name, f"{at}.{field}" if at else field)
        elif keyword == "additionalProperties":
            if isinstance(value, dict) and (extra := len(value.keys() - schema["properties"].keys())):
                yield f"{here}holds {extra} more {'field' if extra == 1 else 'fields'} than it may"
        elif keyword not in _SAID_ONLY and (problem := _PROBLEMS[keyword](value, wanted)):
            yield f"{here}{problem}"


def _lacking(value: Any, wanted: list[str]) -> str:
    missing = [f'"{field}"' for field in wanted if field not in value] if isinstance(value, dict) else []
    return f"lacks {', '.join(missing)}" if missing else ""


def _of_type(value: Any, wanted: str | list[str]) -> str:
    names = [wanted] if isinstance(wanted, str) else wanted
    fits = any(isinstance(value, _TYPES[n]) and (n == "boolean" or type(value) is not bool) for n in names)
    return "" if fits else f"is not of type {' or '.join(names)}"


def _dated(value: Any, wanted: str) -> str:
    if wanted != "date" or not isinstance(value, str):
        return ""
    try:
        date.fromisoformat(value)
    except ValueError:
        return "is not a day of the calendar, YYYY-MM-DD"
    return ""


def _matching(value: Any, wanted: str) -> str:
    fits = not isinstance(value, str) or re.search(wanted, value)
    return "" if fits else f"is not of the form {wanted}"


def _at_least(value: Any, wanted: float) -> str:
    return f"is less than {wanted}" if _is_number(value) and value < wanted else ""


def _at_most(value: Any, wanted: float) -> str:
    return f"is more than {wanted}" if _is_number(value) and value > wanted else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_PROBLEMS: Mapping[str, Callable[[Any, Any], str]] = {
    "type": _of_type,
    "required": _lacking,
    "const": lambda value, wanted: (
        "" if value == wanted and type(value) is type(wanted) else f"is not {json.dumps(wanted)}"
    ),
    "format": _dated,
    "pattern": _matching,
    "minimum": _at_least,
    "maximum": _at_most,
    "minLength": lambda value, wanted: (
        f"is shorter than {wanted} characters" if isinstance(value, str) and len(value) < wanted else ""
    ),
    "maxLength": lambda value, wanted: (
        f"is longer than {wanted} characters" if isinstance(value, str) and len(value) > wanted else ""
    ),
}
