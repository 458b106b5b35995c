# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation says what is so: every command, option, key, code and exit status, and none that does not exist."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlmfo.cli import arguments
from nlmfo.cli.arguments import FORCIBLE, FORCIBLE_FORGETTING, parser
from nlmfo.cli.main import main
from nlmfo.config import load
from nlmfo.config.load import CLUSTER_KEYS, EXPORT_KEYS, PARTITION_KEYS, SERVICE_KEYS, TUNING_KEYS, Tuning
from nlmfo.errors import ConfigError, ExitCode
from nlmfo.host.daemons import MOUNT, NFS, NLM, NSM, RPCBIND, TRACKER
from tests import documentation
from tests.documentation import CHECKOUT, DOCS, GUIDE, MANUAL, REFERENCE, TROUBLESHOOTING

PAGES = documentation.pages()
SOURCES = sorted((CHECKOUT / "nlmfo").rglob("*.py"))
NAMES = [str(page.relative_to(CHECKOUT)) for page in PAGES]
#: What has a language: how it is read, below.
LANGUAGES = {"", "conf", "console", "json", "python", "sh", "toml", "{toctree}"}
#: Where a code comes as a value: it was named where the value is made, or it is the name of a program.
PASSED_ON = {"code": [], "unfit.code": [], "refusal.code": [], "daemons.TRACKER": [TRACKER]}
PASSED_ON["program.name"] = [program.name for program in (RPCBIND, NSM, MOUNT, NFS, NLM)]
MAIN_FILE = "/etc/nlmfo/nlmfo.toml"
#: What each of these is called with before its code.
BEFORE_CODE = {"Refused": 0, "Unfit": 0, "Trouble": 0, "_error": 1, "_warning": 1, "_complaint": 1, "Finding": 2}


COMMANDS = {name: arguments.command(name) for name in arguments.COMMANDS}
EXAMPLE = load(CHECKOUT / "contrib/example")


def options(command: argparse.ArgumentParser) -> set[str]:
    return {name for action in command._actions for name in action.option_strings}


def usage(command: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch) -> str:
    """As the parser itself says it, on one line, without what is understood."""
    monkeypatch.setenv("COLUMNS", "1000")
    return " ".join(command.format_usage().removeprefix("usage:").replace("[-h] ", "").split())


# -- nlmfo(8) ------------------------------------------------------------------------------------------------


def test_the_manual_shows_every_command_with_the_arguments_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {block.heading: " ".join(block.text.split()) for block in documentation.blocks(MANUAL)}
    wanted = {f"nlmfo {name}": usage(command, monkeypatch) for name, command in COMMANDS.items()}
    assert {heading: text for heading, text in shown.items() if heading.startswith("nlmfo ")} == wanted
    assert shown["Synopsis"] == usage(parser(), monkeypatch)


def test_the_manual_describes_every_option_once_and_no_other() -> None:
    described = [code for term in documentation.terms(MANUAL, "Options") for code in documentation.codes(term)]
    assert sorted(described) == sorted(options(parser()).union(*map(options, COMMANDS.values())))


def test_the_manual_names_every_refusal_that_can_be_passed() -> None:
    (text,) = (each.text for each in documentation.definitions(MANUAL) if each.term.startswith("`--force`"))
    assert set(documentation.codes(text)) - {"--forget"} == {*FORCIBLE, *FORCIBLE_FORGETTING}


def test_the_manual_has_the_exit_statuses_that_there_are() -> None:
    assert [int(term) for term in documentation.terms(MANUAL, "Exit status")] == [int(code) for code in ExitCode]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_each_argument_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: nlmfo {name}" in capsys.readouterr().out
    assert COMMANDS[name].description
    without = [action.dest for action in COMMANDS[name]._actions if not action.help]
    assert without == []


# -- nlmfo.toml(5) -------------------------------------------------------------------------------------------


def keys(word: str) -> list[str]:
    """The keys that the reference describes below a heading, or below '[word]' in it."""
    found = [each for each in documentation.definitions(REFERENCE) if each.heading.startswith("Keys of")]
    return [code for each in found if each.above == word for code in documentation.codes(each.term)]


def test_the_reference_has_every_key_and_no_other() -> None:
    own = [key for key in SERVICE_KEYS if key not in ("partition", "export")]
    assert keys("[node]") == ["name"]
    assert sorted(keys("[cluster]")) == sorted(CLUSTER_KEYS)
    assert sorted(keys("services.d/NAME.toml")) == sorted(own)
    assert sorted(keys("[[partition]]")) == sorted(PARTITION_KEYS)
    assert sorted(keys("[[export]]")) == sorted(EXPORT_KEYS)


def test_the_reference_names_what_defaults_may_say_for_all_services() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    (sentence,) = re.findall(r"^In `\[defaults\]`: (.*?),\nfor all", text, re.MULTILINE | re.DOTALL)
    assert sorted(documentation.codes(sentence)) == sorted(TUNING_KEYS)


@pytest.mark.parametrize("key", [key for key in TUNING_KEYS if key != "grace"])
def test_the_reference_has_the_default_that_is_used(key: str) -> None:
    (text,) = (each.text for each in documentation.definitions(REFERENCE) if f"`{key}`" == each.term)
    said = re.search(r"Default: (`[^`]*`|[0-9.]*[0-9])", text)
    assert said is not None, text
    assert json.loads(said[1].strip("`")) == getattr(Tuning(), key)


def test_the_reference_says_which_keys_are_required(tmp_path: Path) -> None:
    """Each key of its own example is left out once."""
    whole = tomllib.loads(files(REFERENCE)["/etc/nlmfo/services.d/home.toml"])
    told = {each.term.strip("`"): "Required." in each.text for each in documentation.definitions(REFERENCE)}
    for key in whole:
        assert refused_without(tmp_path, whole, key) == told.get(key, True), key
    for table in ("partition", "export"):
        for key in {key for item in whole[table] for key in item}:
            less = {**whole, table: [{k: v for k, v in item.items() if k != key} for item in whole[table]]}
            assert refused_without(tmp_path, less, None) == told[key], key


def refused_without(directory: Path, service: dict[str, object], key: str | None) -> bool:
    (directory / "services.d").mkdir(exist_ok=True)
    (directory / "nlmfo.toml").write_text(files(REFERENCE)[MAIN_FILE], encoding="utf-8")
    left = {name: value for name, value in service.items() if name != key}
    (directory / "services.d/home.toml").write_text(as_toml(left), encoding="utf-8")
    try:
        load(directory)
    except ConfigError as error:
        return error.reason == "is missing"
    return False


def as_toml(content: dict[str, object]) -> str:
    return "".join(f"{key} = {inline(value)}\n" for key, value in content.items())


def inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(map(inline, value)) + "]" if isinstance(value, list) else json.dumps(value)


# -- troubleshooting -----------------------------------------------------------------------------------------


def codes_in_source() -> Iterator[str]:
    """Every code that a refusal or a finding can have."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in BEFORE_CODE and len(node.args) > BEFORE_CODE[name]:
                yield from _code(file, node.args[BEFORE_CODE[name]])


def _code(file: Path, node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    else:
        assert ast.unparse(node) in PASSED_ON, f"{file}: {ast.unparse(node)}: say in PASSED_ON what it may be"
        yield from PASSED_ON[ast.unparse(node)]


def test_troubleshooting_explains_every_code_and_no_other() -> None:
    explained = {code for term in documentation.terms(TROUBLESHOOTING) for code in documentation.codes(term)}
    found = set(codes_in_source())
    assert len(found) > 40
    assert explained - {"--force"} == found


def test_troubleshooting_says_which_refusals_can_be_passed() -> None:
    terms = [term for term in documentation.terms(TROUBLESHOOTING) if "`--force`" in term]
    assert {documentation.codes(term)[0] for term in terms} == {*FORCIBLE, *FORCIBLE_FORGETTING}


def test_troubleshooting_names_every_class_of_errors() -> None:
    classes: dict[str, list[str]] = {}
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = [ast.unparse(base) for base in node.bases]
    errors = {"NlmfoError"}
    while more := {name for name, bases in classes.items() if errors & set(bases)} - errors:
        errors |= more
    assert len(errors) > 10
    assert errors - {"NlmfoError", "Refused"} - set(documentation.code(TROUBLESHOOTING)) == set()


# -- all pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in documentation.links(page):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert page.name == "README.md" or file.is_file(), f"{link}: in HTML there is no directory to look into"
        assert not anchor or anchor in documentation.anchors(file), link


def test_the_table_of_contents_leads_to_every_page() -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / link).resolve() for link in documentation.links(index)}
    assert linked == {page for page in PAGES if page.is_relative_to(DOCS) and page != index}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_that_are_shown_can_be_typed(page: Path) -> None:
    for line in documentation.commands_of_nlmfo(page):
        words = shlex.split(re.split(r" \|\|? | > ", line)[0])[1:]
        try:
            understood = parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"this cannot be typed: {line}", pytrace=False)
        assert getattr(understood, "service", None) in (None, *EXAMPLE.services), line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_in_the_text_exist_with_their_options(page: Path) -> None:
    for code in (each for each in documentation.code(page) if each.startswith("nlmfo ")):
        name, *words = re.split(r"[ =]", code)[1:]
        command = COMMANDS[name] if not name.startswith("-") else parser()
        unknown = [word for word in words if word.startswith("--") and word not in options(command)]
        assert unknown == [], code


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_are_what_they_claim_to_be(page: Path) -> None:
    for block in documentation.blocks(page):
        assert block.language in LANGUAGES
        if block.language == "python":
            compile(block.text, str(page), "exec")
        elif block.language == "json":
            json.loads(block.text)


def files(page: Path) -> dict[str, str]:
    """The configuration that a page shows, by the path in each block's first line; without one it is nlmfo.toml."""
    shown = [block.text for block in documentation.blocks(page) if block.language == "toml"]
    return {text.splitlines()[0][2:] if text.startswith("# /") else MAIN_FILE: text for text in shown}


WITH_CONFIGURATION = [page for page in PAGES if files(page)]


@pytest.mark.parametrize("page", WITH_CONFIGURATION, ids=str)
def test_configurations_that_are_shown_load_without_a_warning(page: Path, tmp_path: Path) -> None:
    (tmp_path / "services.d").mkdir()
    (tmp_path / "nlmfo.toml").touch()
    for path, text in files(page).items():
        (tmp_path / Path(path).relative_to("/etc/nlmfo")).write_text(text, encoding="utf-8")
    assert load(tmp_path).warnings == ()


def test_the_guide_needs_few_commands() -> None:
    assert 1 < len(documentation.commands(GUIDE)) <= 15
    assert {command.heading for command in documentation.commands(GUIDE)} >= {"Install", "Move", "A server dies"}
