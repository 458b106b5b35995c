# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors say what failed, end with the right status, and survive the way from one process to another."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from nlmfo.errors import (
    CommandFailed,
    ConfigError,
    DeadlineExceeded,
    ExitCode,
    Incomplete,
    NlmfoError,
    NotOwned,
    Refused,
    StepFailed,
)

EVERY_KIND = (
    NlmfoError("it broke", hint="mend it"),
    ConfigError(Path("/etc/nlmfo/nlmfo.toml"), "node.name", "is missing", hint="add it"),
    Refused("no-proof", "nothing proves it", hint="fence it"),
    NotOwned("not served here"),
    StepFailed("mount: /srv/home", Refused("device-held", "in use")),
    Incomplete("half of it is up"),
    DeadlineExceeded("nfsd to stop", 30.0, hint="look at the kernel log"),
    CommandFailed(["mount", "/srv/a b"], 32, "bad superblock\n"),
)


def test_the_documented_exit_statuses() -> None:
    statuses = {type(error).__name__: int(error.exit_code) for error in EVERY_KIND}
    assert statuses == {
        "NlmfoError": 1,
        "ConfigError": 2,
        "Refused": 3,
        "NotOwned": 5,
        "StepFailed": 3,
        "Incomplete": 4,
        "DeadlineExceeded": 124,
        "CommandFailed": 1,
    }
    assert int(ExitCode.OK) == 0


@pytest.mark.parametrize("error", EVERY_KIND, ids=lambda e: type(e).__name__)
def test_an_error_comes_out_of_a_pipe_as_it_went_in(error: NlmfoError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
    assert again.exit_code is error.exit_code
    assert again.hint == error.hint


def test_a_configuration_error_names_file_and_key() -> None:
    assert str(EVERY_KIND[1]) == "/etc/nlmfo/nlmfo.toml: node.name: is missing"
    assert str(ConfigError(Path("/etc/x.toml"), None, "is no TOML")) == "/etc/x.toml: is no TOML"


def test_a_failed_command_shows_how_it_was_called_how_it_ended_and_what_it_said() -> None:
    assert str(EVERY_KIND[-1]) == "'mount '/srv/a b'' ended with status 32: bad superblock"
    assert str(CommandFailed(["mount"], -9, "")) == "'mount' ended with signal 9"
