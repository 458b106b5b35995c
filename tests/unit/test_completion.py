# SPDX-License-Identifier: GPL-2.0-or-later
"""Each shell offers the commands, options and services that there are: asked of the shells themselves."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from nlmfo.cli import completion
from nlmfo.cli.main import main

SECONDS = 30
COMMANDS = {command.name: command for command in completion.commands() if command.name}


@pytest.fixture
def services(tmp_path: Path) -> Path:
    directory = tmp_path / "services.d"
    directory.mkdir()
    for name in ("home", "mail"):
        (directory / f"{name}.toml").touch()
    return directory


def script(shell: str, services: Path) -> str:
    return completion.script(shell).replace("/etc/nlmfo/services.d", str(services))


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def in_bash(services: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    typed = " ".join(map(shlex.quote, ("nlmfo", *words)))
    ask = f"COMP_WORDS=({typed}) COMP_CWORD={len(words)}; _nlmfo; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return run("bash", "-uc", f"{script('bash', services)}\n{ask}").split()


def in_fish(services: Path, *words: str) -> list[str]:
    typed = shlex.quote(" ".join(("nlmfo", *words)))
    offered = run("fish", "--no-config", "-c", f"{script('fish', services)}\ncomplete -C {typed}")
    return [line.partition("\t")[0] for line in offered.splitlines()]


ASK = {"bash": in_bash, "fish": in_fish}


@pytest.mark.parametrize("shell", ASK)
def test_every_command_is_offered(shell: str, services: Path) -> None:
    assert set(COMMANDS) <= set(ASK[shell](services, ""))
    assert set(ASK[shell](services, "rel")) == {"release", "reload"}


@pytest.mark.parametrize("shell", ASK)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_is_offered(shell: str, command: str, services: Path) -> None:
    wanted = {name for option in COMMANDS[command].options for name in option.names if name.startswith("--")}
    assert wanted == {word for word in ASK[shell](services, command, "--") if word.startswith("--")}


@pytest.mark.parametrize("shell", ASK)
@pytest.mark.parametrize("words", [("takeover", ""), ("plan", "takeover", ""), ("history", "--service", "")])
def test_services_are_offered_where_one_is_asked_for(shell: str, words: tuple[str, ...], services: Path) -> None:
    assert {"home", "mail"} <= set(ASK[shell](services, *words))


@pytest.mark.parametrize("shell", ASK)
def test_where_there_are_only_some_words_these_are_offered(shell: str, services: Path) -> None:
    assert set(ASK[shell](services, "takeover", "--force", "")) >= {"own-client", "stale-records"}
    assert set(ASK[shell](services, "completion", "")) >= set(completion.SHELLS)


@pytest.mark.parametrize("shell", ASK)
def test_without_a_service_nothing_is_made_up(shell: str, tmp_path: Path) -> None:
    offered = ASK[shell](tmp_path / "away", "takeover", "")
    assert [word for word in offered if not word.startswith("-")] == []


def test_the_zsh_script_is_zsh_and_has_every_command_and_option(services: Path) -> None:
    made = script("zsh", services)
    run("zsh", "-fnc", made)
    assert made.startswith("#compdef nlmfo\n")
    for command in COMMANDS.values():
        assert f"'{command.name}:" in made
        for option in command.options:
            assert all(f"'{name}[" in made for name in option.names)
    assert run(
        "zsh", "-fc", f"compadd() {{ print -l $found }}\n{made.split('_nlmfo() {')[0]}_nlmfo_services"
    ).split() == [
        "home",
        "mail",
    ]


def test_a_script_is_printed_without_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shell in completion.SHELLS:
        assert main(["--config", str(tmp_path / "away"), "completion", shell]) == 0
        assert capsys.readouterr().out == completion.script(shell)
