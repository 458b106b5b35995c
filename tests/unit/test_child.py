# SPDX-License-Identifier: GPL-2.0-or-later
"""What may hang runs in a process that can be left behind, and that keeps nothing of its parent's."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nlmfo.child import in_child
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError, Refused
from nlmfo.helper import Helper
from tests.unit.processes import children

#: Seconds that nothing here takes unless it hangs.
PLENTY = 30.0
#: A deadline that passes, and how late its end may be noticed on a busy machine.
SHORT, LATE = 0.2, 5.0


def hang() -> None:
    """What a process in a file system that hangs does, as far as a signal can still end it."""
    while True:
        signal.pause()


def gone(pid: int) -> bool:
    """Whether a process has ended. Of one that is nobody's child here, what is left may wait for init."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"


#: Who was there before the test.
others: set[int] = set()


def no_child_is_left() -> bool:
    """Neither one that runs nor one that has ended and that nobody has waited for."""
    return children() <= others


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    others.clear()
    others.update(children())
    yield
    assert no_child_is_left()


# Once: in_child


def test_what_it_returns_comes_back_however_long_it_is() -> None:
    assert in_child("work", lambda: (os.getppid(), "x" * (3 << 20)), deadline=PLENTY) == (os.getpid(), "x" * (3 << 20))


def test_what_it_does_to_itself_is_done_to_nobody_else() -> None:
    before = Path.cwd()
    in_child("work", lambda: os.chdir("/proc"), deadline=PLENTY)
    assert Path.cwd() == before


def raiser(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_its_error_is_raised_here_with_all_that_it_carries() -> None:
    with pytest.raises(Refused, match="it is in use") as caught:
        in_child("work", raiser(Refused("device-held", "it is in use", hint="free it", forcible=True)), deadline=PLENTY)
    assert (caught.value.code, caught.value.hint, caught.value.forcible) == ("device-held", "free it", True)
    assert "in work" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error", "/srv"), KeyboardInterrupt(), SystemExit(3)])
def test_errors_of_other_kinds_come_back_as_what_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        in_child("work", raiser(error), deadline=PLENTY)
    assert caught.value.args == error.args


def test_an_error_that_does_not_fit_through_the_pipe_comes_back_as_its_text() -> None:
    class Local(Exception):
        pass

    with pytest.raises(NlmfoError, match=r"^Local: of this test$"):
        in_child("work", raiser(Local("of this test")), deadline=PLENTY)


def test_one_that_hangs_is_left_behind_at_the_deadline() -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"^reading /srv: not within 0\.2 s$"):
        in_child("reading /srv", hang, deadline=SHORT)
    assert SHORT <= time.monotonic() - begun < SHORT + LATE


def test_one_that_hangs_half_way_through_its_answer_is_left_behind_too(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def first_part_only(descriptor: int, content: bytes) -> int:
        write(descriptor, content[:10])
        hang()
        return 10

    monkeypatch.setattr(os, "write", first_part_only)
    with pytest.raises(DeadlineExceeded):
        in_child("work", lambda: None, deadline=SHORT)


def test_one_that_is_killed_has_not_returned_nothing() -> None:
    with pytest.raises(NlmfoError, match=r"^work: the process that did it died$"):
        in_child("work", lambda: os.kill(os.getpid(), signal.SIGKILL), deadline=PLENTY)


@pytest.mark.usefixtures("alarm")
def test_when_the_wait_is_interrupted_what_it_still_did_does_not_go_on(tmp_path: Path) -> None:
    started, done = tmp_path / "started", tmp_path / "done"

    def work() -> None:
        started.touch()
        time.sleep(1)
        done.touch()

    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with pytest.raises(KeyboardInterrupt):
        in_child("work", work, deadline=PLENTY)
    assert no_child_is_left()
    assert started.exists()
    assert not done.exists()


def test_it_may_have_a_child_and_a_helper_of_its_own() -> None:
    def nested() -> tuple[int, bytes]:
        helper = Helper("writing", lambda request: request * 2)
        try:
            return in_child("inner", os.getppid, deadline=SHORT * 10), helper.ask(b"ab", deadline=SHORT * 10)
        finally:
            helper.close()

    inner, answer = in_child("outer", nested, deadline=PLENTY)
    assert inner != os.getpid()
    assert answer == b"abab"


def test_two_that_begin_at_the_same_moment_do_not_keep_each_others_pipe_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that hangs would keep the other, which has long ended, from being seen to end."""
    make_pipe, fork = os.pipe, os.fork
    other_may_fork, other_has_forked = threading.Event(), threading.Event()

    def slowly() -> tuple[int, int]:
        ends = make_pipe()
        if threading.current_thread().name == "quick":
            other_may_fork.set()
            other_has_forked.wait(0.5)
        return ends

    def watched() -> int:
        pid = fork()
        if pid and threading.current_thread().name == "hangs":
            other_has_forked.set()
        return pid

    monkeypatch.setattr(os, "pipe", slowly)
    monkeypatch.setattr(os, "fork", watched)
    answers: list[object] = []

    def quick() -> None:
        answers.append(in_child("quick", lambda: "done", deadline=2))

    def hangs() -> None:
        other_may_fork.wait(PLENTY)
        with pytest.raises(DeadlineExceeded):
            in_child("hangs", hang, deadline=4)
        answers.append("given up")

    threads = [threading.Thread(target=work, name=work.__name__) for work in (quick, hangs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PLENTY)
    assert answers == ["done", "given up"]


# Again and again: nlmfo.helper


@pytest.fixture
def helped() -> Iterator[Callable[[Callable[[bytes], bytes]], Helper]]:
    made: list[Helper] = []

    def make(work: Callable[[bytes], bytes]) -> Helper:
        made.append(Helper("writing the journal", work))
        return made[-1]

    yield make
    for helper in made:
        if helper._socket.fileno() != -1:
            helper.close()


Make = Callable[[Callable[[bytes], bytes]], Helper]


def pid_of(helper: Helper) -> int:
    return helper._child


def test_one_process_does_all_that_it_is_asked_and_remembers(helped: Make) -> None:
    seen: list[bytes] = []

    def work(request: bytes) -> bytes:
        seen.append(request)
        return b"%d %d" % (os.getpid(), len(seen))

    helper = helped(work)
    assert [helper.ask(b"x", deadline=PLENTY) for _ in range(3)] == [b"%d %d" % (pid_of(helper), n) for n in (1, 2, 3)]
    assert pid_of(helper) != os.getpid()
    assert seen == []


def test_requests_and_answers_are_whole_however_long_they_may_be(helped: Make) -> None:
    helper = helped(lambda request: request[::-1])
    for content in (b"x", bytes(range(256)) * 500):
        assert helper.ask(content, deadline=PLENTY) == content[::-1]


def test_its_work_may_have_a_child_of_its_own(helped: Make) -> None:
    helper = helped(lambda _: b"%d" % in_child("inner", os.getppid, deadline=SHORT * 10))
    assert helper.ask(b"x", deadline=PLENTY) == b"%d" % pid_of(helper)


def test_an_empty_answer_is_an_answer(helped: Make) -> None:
    assert helped(lambda _: b"").ask(b"x", deadline=PLENTY) == b""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NlmfoError("no space left"), "no space left"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (NlmfoError("a name that is no text: \udcff"), "a name that is no text: "),
    ],
)
def test_work_that_fails_is_an_error_with_its_text_and_the_next_may_succeed(
    helped: Make, error: Exception, said: str
) -> None:
    requests = iter(range(10))

    def work(_: bytes) -> bytes:
        if next(requests) == 0:
            raise error
        return b"fine"

    helper = helped(work)
    with pytest.raises(NlmfoError) as caught:
        helper.ask(b"x", deadline=PLENTY)
    assert caught.value.text.startswith(f"writing the journal: {said}")
    assert helper.ask(b"x", deadline=PLENTY) == b"fine"


def test_a_mistake_in_the_work_ends_it_and_is_no_answer(helped: Make) -> None:
    helper = helped(lambda _: b"%d" % (1 // 0))
    for _ in range(2):
        with pytest.raises(NlmfoError, match=r"^writing the journal: the process that did it died$"):
            helper.ask(b"x", deadline=PLENTY)


def test_one_that_was_killed_is_said_to_have_died(helped: Make) -> None:
    helper = helped(lambda request: request)
    os.kill(pid_of(helper), signal.SIGKILL)
    poll_until("its end", lambda: gone(pid_of(helper)), Deadline(PLENTY))
    with pytest.raises(NlmfoError, match="the process that did it died"):
        helper.ask(b"x", deadline=PLENTY)


def test_work_that_hangs_is_given_up_at_the_deadline_and_so_is_the_helper(
    helped: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nlmfo.helper.PATIENCE", SHORT)

    def work(_: bytes) -> bytes:
        hang()
        return b""

    helper = helped(work)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"^writing the journal: not within 0\.2 s$"):
        helper.ask(b"x", deadline=SHORT)
    helper.close()
    assert time.monotonic() - begun < 2 * SHORT + LATE
    assert gone(pid_of(helper))


def test_what_it_had_open_is_closed_when_it_has_been_ended(helped: Make, tmp_path: Path) -> None:
    """An open file keeps its file system from being unmounted."""
    kept: list[int] = []

    def work(_: bytes) -> bytes:
        kept.append(os.open(tmp_path / "journal", os.O_WRONLY | os.O_CREAT))
        fcntl.flock(kept[0], fcntl.LOCK_EX)
        return b""

    helper = helped(work)
    helper.ask(b"open it", deadline=PLENTY)
    with (tmp_path / "journal").open("w") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        helper.close()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_it_keeps_nothing_open_of_what_its_parent_has_open(helped: Make, tmp_path: Path) -> None:
    """With the lock of a run, it would keep every later run out for as long as it hangs."""
    one, other = socket.socketpair()
    with (tmp_path / "home.lock").open("w") as lock, one, other:
        fcntl.flock(lock, fcntl.LOCK_EX)
        helper = helped(lambda _: " ".join(os.listdir("/proc/self/fd")).encode())  # noqa: PTH208
        open_there = set(map(int, helper.ask(b"x", deadline=PLENTY).split()))
    # Standard input and output, the line to its parent, and the listing itself.
    assert open_there <= {0, 1, 2, 3, 4}
    with (tmp_path / "home.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_that_ends_the_run_does_not_end_it_before_its_parent_has_had_the_last_word(
    helped: Make, number: int
) -> None:
    helper = helped(lambda request: request)
    helper.ask(b"it is at work", deadline=PLENTY)
    os.kill(pid_of(helper), number)
    assert helper.ask(b"it was interrupted", deadline=PLENTY) == b"it was interrupted"


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_it_ends_when_its_parent_does(how: str) -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            helper = Helper("writing", lambda request: request)
            helper.ask(b"it lives", deadline=PLENTY)
            os.write(writing, b"%d" % pid_of(helper))
            if how == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(parent, 0)
    with os.fdopen(reading) as line:
        orphan = int(line.read())
    poll_until("the end of the helper", lambda: gone(orphan), Deadline(PLENTY))


def test_it_is_ended_although_another_child_holds_its_line_open(helped: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs has inherited it, so that the helper does not hear that its parent has hung up."""
    monkeypatch.setattr("nlmfo.helper.PATIENCE", SHORT)
    helper = helped(lambda request: request)
    forked = threading.Event()
    fork = os.fork

    def watched() -> int:
        pid = fork()
        forked.set()
        return pid

    def other() -> None:
        with pytest.raises(DeadlineExceeded):
            in_child("hangs", hang, deadline=SHORT + LATE)

    monkeypatch.setattr(os, "fork", watched)
    thread = threading.Thread(target=other)
    thread.start()
    assert forked.wait(PLENTY)
    begun = time.monotonic()
    helper.close()
    assert time.monotonic() - begun < LATE
    assert gone(pid_of(helper))
    thread.join(PLENTY)
