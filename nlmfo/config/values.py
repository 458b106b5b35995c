# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of each type: functions from what TOML gave us to what the model holds.

They know nothing of files and keys: they raise Invalid, and the reader says where it was.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from nlmfo.config.hints import did_you_mean

S = TypeVar("S")
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),  # before int: to Python, True is a number
    (int, "an integer"),
    (float, "a float"),
    (str, "a string"),
    (list, "an array"),
    (dict, "a table"),
)


class Invalid(Exception):
    """A value that will not do, why, and what to write instead; ``within`` is its place inside a list."""

    def __init__(self, reason: str, hint: str, *, within: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.within = within


def text(value: object) -> str:
    """A string with something in it and without control characters."""
    if not isinstance(value, str):
        raise _wrong_type(value, "a string", 'write it in quotes: "..."')
    if not value:
        raise Invalid("is empty", "write something between the quotes, or remove the line")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise Invalid(f"{value!r} has a control character in it", "remove the control character")
    return value


def array(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """An array, each item of which ``parse`` accepts."""

    def parse_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _wrong_type(value, "an array", 'write it in brackets: ["...", "..."]')
        return tuple(parse_within(f"[{n}]", parse, item) for n, item in enumerate(value, start=1))

    return parse_all


def some(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """An array with one item at least."""

    def parse_some(value: object) -> tuple[T, ...]:
        items = array(parse)(value)
        if not items:
            raise Invalid("is an empty array", "name one at least")
        return items

    return parse_some


def mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong_type(value, "a table", 'write { "key" = "value" }, or a line in [brackets] and keys below it')
    return value


def integer(low: int, high: int) -> Callable[[object], int]:
    """A whole number from ``low`` to ``high``, both included."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type(value, "an integer", "write a whole number, without quotes")
        if not low <= value <= high:
            raise Invalid(f"{value} is out of range", f"write a number from {low} to {high}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[object], float]:
    """A number, whole or not, from ``low`` to ``high``, both included."""

    def parse(value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _wrong_type(value, "a number", "write a number, without quotes")
        if not low <= value <= high:  # nor is TOML's nan in any range
            raise Invalid(f"{value} is out of range", f"write a number from {low:g} to {high:g}")
        return float(value)

    return parse


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(value, "a boolean", "write true or false, without quotes")
    return value


def one_of(kind: type[E]) -> Callable[[object], E]:
    def parse(value: object) -> E:
        word = text(value)
        if word not in tuple(kind):
            raise Invalid(f"{word!r} is not one of: {', '.join(kind)}", did_you_mean(word, kind))
        return kind(word)

    return parse


def absolute_path(value: object) -> Path:
    """A path that begins at the root and has only one spelling, so that paths can be compared as text."""
    path = text(value)
    if not path.startswith("/"):
        raise Invalid(f"{path!r} is not absolute", "write the whole path, beginning with '/'")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Invalid(f"{path!r} has '..' in it", "write the path that it leads to")
    if not parts:
        raise Invalid(f"{path!r} is the root of the node itself", "give it a directory of its own")
    plain = "/" + "/".join(parts)
    if path != plain:
        raise Invalid(f"{path!r} is not in its plain form", f'write "{plain}"')
    return Path(path)


def parse_within(place: str, parse: Callable[[S], T], value: S) -> T:
    """What ``parse`` makes of an item of a list; a complaint says which item it is about."""
    try:
        return parse(value)
    except Invalid as invalid:
        raise Invalid(invalid.reason, invalid.hint, within=place + invalid.within) from None


def _wrong_type(value: object, wanted: str, hint: str) -> Invalid:
    kind = next((name for types, name in _KINDS if isinstance(value, types)), "a date or time")
    shown = f": {value!r}" if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    return Invalid(f"must be {wanted}, but is {kind}{shown}", hint)
