# SPDX-License-Identifier: GPL-2.0-or-later
"""From a file to tables, and from a table to typed values: every complaint names the file and the key."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nlmfo.config.hints import did_you_mean
from nlmfo.config.values import Invalid, array, mapping
from nlmfo.errors import ConfigError

T = TypeVar("T")
D = TypeVar("D")


class Table:
    """One TOML table and the keys that may stand in it.

    ``name`` is how the file spells it: "" for the whole file, "node", "export[2]" (counted from 1, as people
    do). A key that is not ``known`` is refused at once, before a misspelt required key is called missing.
    """

    def __init__(
        self,
        file: Path,
        name: str,
        content: dict[str, object],
        known: tuple[str, ...],
        *,
        outer: tuple[str, ...] = (),
    ) -> None:
        self.file, self.name, self.content, self.known, self.outer = file, name, content, known, outer
        for key in content:
            if key not in known:
                raise self.error(key, "unknown key", hint=self._hint_for(key))

    def error(self, key: str, reason: str, *, hint: str) -> ConfigError:
        return ConfigError(self.file, self._path(key), reason, hint=hint)

    def required(self, key: str, parse: Callable[[object], T], *, example: str) -> T:
        """The value of ``key``; ``example`` is a line of TOML to show to whoever left it out."""
        if key not in self.content:
            raise self.error(key, "is missing", hint=f"add it, for example: {example}")
        return self._parsed(key, parse)

    def optional(self, key: str, parse: Callable[[object], T], default: D) -> T | D:
        return self._parsed(key, parse) if key in self.content else default

    def table(self, key: str, known: tuple[str, ...]) -> Table:
        """The table ``[key]``; one that is not there reads like an empty one."""
        return Table(self.file, self._path(key), self.optional(key, mapping, {}), known)

    def tables(self, key: str, known: tuple[str, ...]) -> tuple[Table, ...]:
        """The tables ``[[key]]``, of which there must be one at least."""
        if isinstance(self.content.get(key), dict):
            raise self.error(key, "is a single table", hint=f"write [[{key}]], in double brackets")
        items = self.optional(key, array(mapping), ())
        if not items:
            raise self.error(key, "is missing", hint=f"add a [[{key}]] with {', '.join(known)}")
        path = self._path(key)
        numbered = enumerate(items, start=1)
        return tuple(Table(self.file, f"{path}[{n}]", item, known, outer=self.known) for n, item in numbered)

    def _parsed(self, key: str, parse: Callable[[object], T]) -> T:
        try:
            return parse(self.content[key])
        except Invalid as invalid:
            raise self.error(key + invalid.within, invalid.reason, hint=invalid.hint) from None

    def _path(self, key: str) -> str:
        shown = key if key and key.isprintable() else repr(key)
        return f"{self.name}.{shown}" if self.name else shown

    def _hint_for(self, key: str) -> str:
        # TOML gives every line after [[export]] to that export, whatever it was meant for.
        if key in self.outer:
            return f"'{key}' is a key of the whole file: move it above the first [[...]]"
        return did_you_mean(key, self.known)


def read_toml(file: Path) -> dict[str, object]:
    """The content of a TOML file; ConfigError when it cannot be read, is not UTF-8 or is not TOML."""
    try:
        text = _read(file).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(file, None, f"is not UTF-8 (line {line})", hint="save it as UTF-8") from error
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: [[[[... a thousand deep
        # tomllib ends its sentence with the line and column.
        raise ConfigError(file, None, f"is not TOML: {error}", hint="mend it; see https://toml.io") from error


def _read(file: Path) -> bytes:
    try:
        # A FIFO would keep us waiting for a writer.
        if not stat.S_ISREG(file.stat().st_mode):
            raise ConfigError(file, None, "is not a regular file", hint="put a TOML file there, or remove it")
        return file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error


def unreadable(path: Path, error: OSError) -> ConfigError:
    """The ConfigError for a path that the system would not let us read."""
    if isinstance(error, FileNotFoundError):
        hint = "create it (nlmfo.toml may be empty), or name another directory with --config"
    else:
        hint = "check its owner, mode and links"
    return ConfigError(path, None, f"cannot be read: {error.strerror}", hint=hint)
