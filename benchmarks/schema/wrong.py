"""What is wrong with a record, in a sentence of ours."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

# Kind of error -> what was expected; `{ge}` and the like are the bounds that pydantic gives.
_EXPECTED = {
    "missing": "a value",
    "extra_forbidden": "no such field",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "one of {expected}",
    "too_short": "at least {min_length} values",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "string_type": "a text",
    "bool_type": "true or false",
    "finite_number": "a finite number",
}


def wrong(error: ValidationError) -> str:
    """Say for each field what was expected and what came: 'centre.batch: expected at least 1, got 0'."""
    return "; ".join(_one(one) for one in error.errors(include_url=False))


def _one(one: Any) -> str:
    where = ".".join(map(str, one["loc"])) or "record"
    kind: str = one["type"]
    context = {name: value for name, value in (one.get("ctx") or {}).items() if name != "error"}
    if kind == "value_error":
        return str(one["ctx"]["error"])
    if kind in _EXPECTED:
        expected = _EXPECTED[kind].format(**context)
    elif kind.startswith("int"):
        expected = "a whole number"
    elif kind.startswith("float"):
        expected = "a number"
    else:
        expected = f"another value ({kind.replace('_', ' ')})"
    got = "none" if kind == "missing" else repr(one["input"])
    return f"{where}: expected {expected}, got {got if len(got) <= 80 else got[:77] + '...'}"
