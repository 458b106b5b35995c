# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent does what a child of its own would do for each call, without a fork for each."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nlmfo.agent import Agent
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from tests.unit.processes import children

SECONDS = 30.0


def nowhere() -> None:
    """Enter nothing."""


@pytest.fixture
def agent() -> Iterator[Agent]:
    found = Agent("the work", nowhere)
    yield found
    found.close()


def test_every_call_is_made_in_the_same_child_and_not_here(agent: Agent) -> None:
    first = agent.call(os.getpid, deadline=SECONDS)
    assert first != os.getpid()
    assert agent.call(os.getpid, deadline=SECONDS) == first


def test_once_started_it_waits_for_no_memory_any_more(agent: Agent) -> None:
    agent.start()
    pid = agent.call(os.getpid, deadline=SECONDS)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    locked, mapped = (int(status[key].split()[0]) for key in ("VmLck", "VmRSS"))
    assert locked > 0.9 * mapped > 0  # it has touched a little since


def test_it_enters_once_and_before_anything_else(tmp_path: Path) -> None:
    entered = tmp_path / "entered"
    agent = Agent("the work", lambda: entered.write_text(f"{os.getpid()}\n{entered.exists()}"))
    try:
        agent.start()
        pid = agent.call(os.getpid, deadline=SECONDS)
        agent.call(os.getpid, deadline=SECONDS)
        assert entered.read_text() == f"{pid}\nFalse"
    finally:
        agent.close()


def test_what_it_cannot_enter_is_said_at_each_call_and_nothing_is_done_outside(tmp_path: Path) -> None:
    def refuse() -> None:
        raise NlmfoError("it is not there", hint="make it")

    agent = Agent("the work", refuse)
    try:
        for _ in range(2):
            with pytest.raises(NlmfoError, match="it is not there") as error:
                agent.call((tmp_path / "made").touch, deadline=SECONDS)
            assert error.value.hint == "make it"
        assert not (tmp_path / "made").exists()
    finally:
        agent.close()


def test_an_exception_is_raised_here_and_the_child_lives_on(agent: Agent) -> None:
    pid = agent.call(os.getpid, deadline=SECONDS)
    with pytest.raises(ZeroDivisionError):
        agent.call(partial(operator.truediv, 1, 0), deadline=SECONDS)
    assert agent.call(os.getpid, deadline=SECONDS) == pid


def test_a_function_without_a_name_gets_a_child_of_its_own_that_has_entered_too(tmp_path: Path) -> None:
    entered, here = tmp_path / "entered", os.getpid()
    agent = Agent("the work", entered.touch)
    try:
        assert agent.call(lambda: (entered.exists(), os.getpid() != here), deadline=SECONDS) == (True, True)
    finally:
        agent.close()


def test_what_hangs_is_killed_at_the_deadline_and_the_next_call_has_another_child(agent: Agent) -> None:
    pid = agent.call(os.getpid, deadline=SECONDS)
    with pytest.raises(DeadlineExceeded, match="the work"):
        agent.call(partial(time.sleep, 3600), deadline=0.1)
    assert pid not in children()
    assert agent.call(os.getpid, deadline=SECONDS) not in (pid, os.getpid())


def test_what_it_has_started_is_killed_with_it(agent: Agent, tmp_path: Path) -> None:
    """A helper of mount(8) that went on would undo what is rolled back by then."""
    note = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded):
        agent.call(partial(subprocess.run, ["sh", "-c", f"echo $$ > {note}; exec sleep 1000"]), deadline=1.0)
    started = int(note.read_text())
    poll_until("its end", lambda: not Path(f"/proc/{started}").exists(), Deadline(SECONDS))


def test_whoever_killed_it_between_two_calls_the_next_one_is_made(agent: Agent) -> None:
    """As the end of all processes of a service does, or an operator."""
    pid = agent.call(os.getpid, deadline=SECONDS)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert agent.call(os.getpid, deadline=SECONDS) != pid


def test_one_that_dies_during_a_call_is_an_error_and_the_call_is_not_made_twice(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(NlmfoError, match="the process that did it died"):
        agent.call(partial(append_and_die, tmp_path / "calls"), deadline=SECONDS)
    assert (tmp_path / "calls").read_text() == "called\n"


def append_and_die(path: Path) -> None:
    with path.open("a") as file:
        file.write("called\n")
    os._exit(1)


def test_a_call_that_comes_while_it_is_at_work_does_not_wait_for_it(agent: Agent, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    busy = threading.Thread(target=partial(agent.call, partial(Path.read_bytes, gate), deadline=SECONDS))
    busy.start()
    try:
        with gate.open("wb"):  # opens when the agent has it open: it is at work
            assert agent.call(os.getpid, deadline=SECONDS) != os.getpid()
            assert busy.is_alive()
    finally:
        busy.join(SECONDS)
    assert not busy.is_alive()


def test_an_answer_may_be_large(agent: Agent) -> None:
    assert len(agent.call(partial(operator.mul, b"x", 5 << 20), deadline=SECONDS)) == 5 << 20


def test_it_is_gone_when_it_is_closed_and_closing_twice_does_no_harm(agent: Agent) -> None:
    pid = agent.call(os.getpid, deadline=SECONDS)
    agent.close()
    agent.close()
    assert pid not in children()


def test_it_holds_nothing_of_its_parents_open(agent: Agent, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w"):
        agent.start()
        found = agent.call(links, deadline=SECONDS)
    assert str(tmp_path / "open") not in found


def links() -> list[str]:
    return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]


def test_ctrl_c_in_the_terminal_does_not_end_it(agent: Agent) -> None:
    pid = agent.call(os.getpid, deadline=SECONDS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert agent.call(os.getpid, deadline=SECONDS) == pid
