# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation as tests read it: pages, their headings, links and blocks, and the commands in these.

Commands stand in blocks ``console``, each behind the machine that it is typed on; lines without one are answers, in
which ``...`` stands for anything::

    ```console
    server-a# nlmfo check
    client# flock --nonblock /mnt/db true || echo "still held"
        still held
    ```

Blocks without a language may hold commands of nlmfo as well, among other text: a line that begins with ``nlmfo``, also
behind a machine, up to two blanks or a ``#``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.deflist import deflist_plugin

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
MANUAL = DOCS / "man/nlmfo.8.md"
REFERENCE = DOCS / "man/nlmfo.toml.5.md"
TROUBLESHOOTING = DOCS / "troubleshooting.md"
GUIDE = DOCS / "two-nodes.md"

_MARKDOWN = MarkdownIt("commonmark").enable("table").use(deflist_plugin)
_TYPED = re.compile(r"(?P<machine>[a-z][a-z0-9-]*)# (?P<line>.+)")
_OF_NLMFO = re.compile(r"\s*(?:[a-z][a-z0-9-]*# )?(?P<line>nlmfo(?: .*?)?)(?:  .*| #.*|)")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of text to be copied. ``language`` is empty where none is named; ``heading`` is the last one above it."""

    heading: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Definition:
    """A term of a definition list and what is said of it; ``above`` is the first code of the paragraph before it."""

    heading: str
    above: str
    term: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a ``console`` block, and what it answers."""

    heading: str
    machine: str
    line: str
    answers: tuple[str, ...]

    def missing_in(self, output: str) -> list[str]:
        """The answers that ``output`` does not have, in this order; blanks are all alike."""
        lines = iter([" ".join(line.split()) for line in output.splitlines()])
        wanted = [" ".join(answer.split()) for answer in self.answers if answer.strip() != "..."]
        return [answer for answer in wanted if not any(_fits(answer, line) for line in lines)]


def pages() -> list[Path]:
    """Everything that is for readers."""
    built = DOCS / "build"
    return [CHECKOUT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if built not in page.parents)]


def blocks(page: Path) -> list[Block]:
    found = []
    heading = ""
    tokens = _MARKDOWN.parse(page.read_text(encoding="utf-8"))
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open":
            heading = token.content
        elif token.type in ("fence", "code_block"):
            found.append(Block(heading, token.info, token.content))
    return found


def commands(page: Path) -> list[Command]:
    """What the ``console`` blocks of a page tell to type, in order."""
    found: list[Command] = []
    for block in (each for each in blocks(page) if each.language == "console"):
        for line in block.text.splitlines():
            typed = _TYPED.fullmatch(line)
            if typed:
                found.append(Command(block.heading, typed["machine"], typed["line"], ()))
            else:
                last = found.pop()
                found.append(Command(last.heading, last.machine, last.line, (*last.answers, line)))
    return found


def commands_of_nlmfo(page: Path) -> list[str]:
    """Every command line of nlmfo in the blocks of a page that are neither TOML nor JSON."""
    shown = (block for block in blocks(page) if block.language in ("", "console") and not _is_synopsis(block))
    lines = (line for block in shown for line in block.text.splitlines())
    return [found["line"] for line in lines if (found := _OF_NLMFO.fullmatch(line))]


def links(page: Path) -> Iterator[str]:
    """Where the links and pictures of a page lead."""
    for token in _inline(page):
        target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
        if token.type in ("link_open", "image") and target:
            yield str(target)


def code(page: Path) -> Iterator[str]:
    """What stands between backticks in the text of a page."""
    return (token.content for token in _inline(page) if token.type == "code_inline")


def definitions(page: Path) -> list[Definition]:
    """Every definition of a page, in order."""
    found, heading, above = [], "", ""
    tokens = _MARKDOWN.parse(page.read_text(encoding="utf-8"))
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            heading, above = token.content, ""
        elif before.type == "dt_open":
            found.append(Definition(heading, above, token.content, ""))
        elif before.type == "paragraph_open" and before.level == 0:
            above = next(iter(codes(token.content)), "")
        elif token.type == "inline" and found and before.level > 0:
            found[-1] = replace(found[-1], text=f"{found[-1].text}{token.content}\n")
    return found


def terms(page: Path, heading: str | None = None) -> list[str]:
    """What is defined on a page, or below one of its headings."""
    return [each.term for each in definitions(page) if heading in (None, each.heading)]


def codes(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def anchors(page: Path) -> set[str]:
    """What a link may name behind a '#': headings as their readers' programs call them."""
    tokens = _MARKDOWN.parse(page.read_text(encoding="utf-8"))
    heads = (inside.content for before, inside in pairwise(tokens) if before.type == "heading_open")
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def _inline(page: Path) -> Iterator[Token]:
    for token in _MARKDOWN.parse(page.read_text(encoding="utf-8")):
        yield from token.children or ()


def _is_synopsis(block: Block) -> bool:
    """Of a man page: it has a notation of its own."""
    return block.heading == "Synopsis" or block.heading.startswith("nlmfo ")


def _fits(answer: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, answer.split("..."))), line) is not None
