# SPDX-License-Identifier: GPL-2.0-or-later
"""`make docs` builds HTML and man pages without a warning, and they need no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests import documentation
from tests.documentation import CHECKOUT, DOCS

MAN_PAGES = ("nlmfo.8", "nlmfo.toml.5", "nlmfo-callout.8")
#: What a browser would fetch by itself.
FETCHED = re.compile(r'<(?:link|script|img|iframe)\b[^>]*\b(?:href|src)="([^"]*)"')
SECONDS = 240


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` makes, with the Sphinx of the tests."""
    directory = tmp_path_factory.mktemp("docs")
    said = run("make", "-s", "docs", f"SPHINX={sys.executable} -m sphinx", f"DOCS={directory}")
    assert said == ""
    return directory


def run(*argv: str) -> str:
    """What it says on standard error; it has to succeed."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    done = subprocess.run(
        argv, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stderr


def test_every_page_becomes_html_that_fetches_nothing_from_elsewhere(built: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in documentation.pages() if page.is_relative_to(DOCS)}
    found = [built / "html" / page for page in pages]
    assert len(found) > 10
    fetched = {address for page in found for address in FETCHED.findall(page.read_text(encoding="utf-8"))}
    assert fetched
    assert [address for address in fetched if re.match(r"(\w+:)?//", address)] == []


@pytest.mark.parametrize("page", MAN_PAGES)
def test_man_pages_are_clean(built: Path, page: Path) -> None:
    file = str(built / "man" / page)
    assert run("man", "--warnings", "--local-file", file) == ""
    assert run("groff", "-ww", "-man", "-t", "-Tutf8", "-Kutf8", file) == ""


def test_no_other_man_page_is_made(built: Path) -> None:
    assert sorted(file.name for file in (built / "man").iterdir()) == sorted(MAN_PAGES)


@pytest.mark.parametrize("picture", sorted(DOCS.glob("*.svg")), ids=lambda file: file.name)
def test_pictures_are_whole_and_say_what_they_show(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    parts = {element.tag.rpartition("}")[2] for element in root}
    assert {"title", "desc"} <= parts
    assert "prefers-color-scheme: dark" in picture.read_text(encoding="utf-8")
