# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs are started in one way only: clean, without a shell, and never for longer than they may."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import CommandFailed, DeadlineExceeded, ExitCode, NlmfoError
from nlmfo.run import ENVIRONMENT, run, spawn

#: Nothing here takes this long unless it hangs.
SECONDS = 30.0
#: Long enough that only a kill ends it.
FOREVER = "1000"
#: For a program that hangs, so this is waited out.
SOON = 0.5


def gone(pid: int) -> bool:
    """Whether the process has ended; one that waits for its parent's attention has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def await_end(pid: int) -> None:
    poll_until(f"process {pid} to end", lambda: gone(pid), Deadline(SECONDS))


def pid_in(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def test_what_the_program_said_comes_back() -> None:
    assert run(["echo", "one", "two"], deadline=SECONDS) == "one two\n"


def test_words_reach_the_program_as_they_are_because_there_is_no_shell() -> None:
    words = ["$HOME", "a  b", "*", "; id", "`id`", "-n", "", "\n"]
    script = "import sys; print(sys.argv[1:])"
    assert run([sys.executable, "-c", script, *words], deadline=SECONDS) == f"{words!r}\n"


def test_paths_may_stand_where_words_stand(tmp_path: Path) -> None:
    assert run(["basename", tmp_path / "x"], deadline=SECONDS) == "x\n"


def test_the_environment_is_ours_and_nothing_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LD_PRELOAD", "/tmp/x.so"), ("LANG", "de_DE.UTF-8"), ("http_proxy", "x"), ("PATH", "/tmp")):
        monkeypatch.setenv(name, value)
    said = run(["env"], deadline=SECONDS)
    assert dict(line.split("=", 1) for line in said.splitlines()) == ENVIRONMENT


def test_a_program_that_asks_gets_no_answer_whoever_sits_at_the_terminal() -> None:
    script = f"from nlmfo.run import run; print(repr(run(['cat'], deadline={SECONDS})))"
    ended = subprocess.run([sys.executable, "-c", script], input="yes\n", capture_output=True, text=True, check=True)
    assert ended.stdout == "''\n"


def test_a_program_inherits_no_descriptors(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        names = run(["ls", "/proc/self/fd"], deadline=SECONDS).split()
        assert str(lock.fileno()) not in names[3:]
        assert len(names) == 4  # and the listing's own


def test_a_failure_carries_command_status_and_what_was_said() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo out; echo 'no such disk' >&2; exit 32"], deadline=SECONDS)
    assert caught.value.returncode == 32
    assert caught.value.stderr == "no such disk\n"
    assert caught.value.argv[0] == "sh"
    assert "ended with status 32: no such disk" in str(caught.value)


def test_a_program_that_a_signal_ended_says_which() -> None:
    with pytest.raises(CommandFailed, match="ended with signal 9"):
        run(["sh", "-c", "kill -9 $$"], deadline=SECONDS)


def test_a_status_that_is_expected_is_no_failure() -> None:
    assert run(["sh", "-c", "echo busy; exit 32"], deadline=SECONDS, ok=(0, 32)) == "busy\n"
    with pytest.raises(CommandFailed):
        run(["true"], deadline=SECONDS, ok=(32,))


def test_bytes_that_are_no_text_do_not_get_in_the_way() -> None:
    assert run(["printf", r"\377ok"], deadline=SECONDS) == "\ufffdok"


def test_a_program_that_is_not_installed_is_named_with_a_hint() -> None:
    with pytest.raises(NlmfoError, match="cannot start 'no-such-program': No such file") as caught:
        run(["no-such-program", "x"], deadline=SECONDS)
    assert caught.value.hint


def test_a_file_that_cannot_be_run_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x", encoding="ascii")
    with pytest.raises(NlmfoError, match="Permission denied"):
        run([tmp_path / "data"], deadline=SECONDS)


def test_at_the_deadline_the_program_is_killed_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded) as caught:
        run(["sh", "-c", f"sleep {FOREVER} & echo $! > {file}; sleep {FOREVER}"], deadline=SOON)
    assert caught.value.exit_code is ExitCode.DEADLINE
    assert "'sh' did not end: not within 0.5 s" in str(caught.value)
    await_end(pid_in(file))


def test_a_program_that_ignores_polite_signals_is_killed_all_the_same() -> None:
    with pytest.raises(DeadlineExceeded):
        run(["sh", "-c", f"trap '' TERM INT HUP; sleep {FOREVER}"], deadline=SOON)


def test_a_grandchild_that_ran_away_with_the_pipe_does_not_keep_us_waiting(tmp_path: Path) -> None:
    """A session of its own takes it out of the reach of the kill: like a process that hangs in the kernel."""
    file = tmp_path / "pid"
    runaway = f"setsid sh -c 'echo $$ > {file}; exec sleep {FOREVER}'"
    try:
        with pytest.raises(DeadlineExceeded):
            run(["sh", "-c", f"{runaway} & sleep {FOREVER}"], deadline=SOON)
    finally:
        os.kill(pid_in(file), signal.SIGKILL)


@pytest.mark.usefixtures("alarm")
def test_a_program_does_not_outlive_the_interruption_of_the_one_who_waits_for_it(tmp_path: Path) -> None:
    """A mount that goes on behind our back would mount what the rollback has just found unmounted."""
    file = tmp_path / "pid"
    signal.setitimer(signal.ITIMER_REAL, SOON)
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", f"echo $$ > {file}; exec sleep {FOREVER}"], deadline=SECONDS)
    assert gone(pid_in(file))


def test_a_program_without_a_deadline_cannot_even_be_written() -> None:
    with pytest.raises(TypeError, match="deadline"):
        run(["true"])  # type: ignore[call-arg]


# Popen warns when it is dropped before its process has ended, which is the point of a program that stays.
stays = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


@stays
def test_a_program_that_stays_writes_to_its_log_after_what_is_there(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    log.write_text("before\n", encoding="ascii")
    await_end(spawn(["sh", "-c", "echo out; echo err >&2"], log=log))
    assert log.read_text(encoding="ascii") == "before\nout\nerr\n"


@stays
def test_a_program_that_stays_is_in_a_session_of_its_own_out_of_reach_of_ctrl_c(tmp_path: Path) -> None:
    pid = spawn(["sleep", FOREVER], log=tmp_path / "log")
    try:
        assert os.getsid(pid) == pid
        assert os.getsid(pid) != os.getsid(0)
    finally:
        os.kill(pid, signal.SIGKILL)
        await_end(pid)


@stays
def test_a_program_that_stays_has_the_clean_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    log = tmp_path / "log"
    await_end(spawn(["env"], log=log))
    assert dict(line.split("=", 1) for line in log.read_text(encoding="utf-8").splitlines()) == ENVIRONMENT


@stays
def test_a_program_that_stays_keeps_none_of_our_pipes_open(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    pid = spawn(["sleep", FOREVER], log=tmp_path / "log")
    try:
        os.close(writing)
        hung_up = select.poll()
        hung_up.register(reading)
        assert hung_up.poll(SECONDS * 1000)
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        await_end(pid)


def test_a_log_that_cannot_be_written_is_an_error_and_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["touch", tmp_path / "started"], log=tmp_path / "missing/log")
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_should_stay_and_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(NlmfoError, match="cannot start 'no-such-daemon'"):
        spawn(["no-such-daemon"], log=tmp_path / "log")


@stays
def test_no_program_keeps_the_directory_busy_in_which_nlmfo_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["pwd"], deadline=10) == "/\n"
    log = tmp_path / "log"
    await_end(spawn(["pwd"], log=log))
    assert log.read_text() == "/\n"
