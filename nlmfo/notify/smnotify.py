# SPDX-License-Identifier: GPL-2.0-or-later
"""Notices by sm-notify of nfs-utils, for those who want it, with an account of each client all the same.

sm-notify(8) begins by renaming every record in its directory, and removes each whose client has answered. Ours may
only go when a client is back or has left, and the callout goes on writing them. So it gets a directory of its own::

    DIRECTORY/notify.N/     root's, 0755, locked (flock) as long as it is in use and removed afterwards
      sm/                   statd's, empty: sm-notify drops to the owner of this one
      sm.bak/               statd's: a record for each client; gone when the client has answered
      state                 our NSM state number, which sm-notify -n sends as it is (if it is odd)

The records in it are formed here and not copied: with none that it can read, sm-notify ends lockd's grace period and
reports success (nfs-utils, utils/statd/sm-notify.c). For the same reason it is never run for nobody.

What else is known of it, from there and from running it: without -d its exit status means nothing. With -d it says
what it does on standard error, which is a pipe to us: should we die, its next line ends it, so nobody goes on telling
clients of a state that is past. With ``-v NAME`` it binds to the first address that NAME resolves to, which need not be
the one that was meant; with ``-v ADDRESS`` it sends the name that the address resolves to, and if there is none,
nothing at all. It sends the name and its short form.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from nlmfo.deadline import Deadline
from nlmfo.errors import CommandFailed, NlmfoError
from nlmfo.notify.notice import Notice, Outcome
from nlmfo.notify.sender import OnNotice
from nlmfo.notify.sockets import Address
from nlmfo.plain import plain
from nlmfo.records.directory import Directory
from nlmfo.records.layout import CURRENT, EARLIER, STATE, client_is_safe, format_record
from nlmfo.run import ENVIRONMENT, KILL, run

if TYPE_CHECKING:
    import inotify_simple

#: Makes the command line that runs a program where the service is (``command`` of nlmfo.host.surroundings).
Command = Callable[..., Sequence[str]]

SCRATCH = "notify."
#: Seconds between two looks at what is left, should the kernel tell nothing, and after a change that it tells of:
#: the next ones are not long in coming, and a look is at all that is left.
LOOK, GATHER = 0.5, 0.02
#: Seconds for the name service to say what the name resolves to.
RESOLVE = 5.0
#: Bytes of what sm-notify says that are kept: one line.
LINE = 1024
_REVERSE = 'put a line with the address and its name into /etc/hosts of this node, or set notifier = "nlmfo"'
_MISSING = 'install nfs-common (Debian, Ubuntu) or nfs-utils, or set notifier = "nlmfo"'
_NOT_UP = "the address must be up (and, for IPv6, no longer tentative) before clients are notified"


def sm_notify(
    directory: Path,
    clients: Sequence[str],
    *,
    source: Address,
    name: str,
    state: int,
    user: tuple[int, int],
    deadline: float,
    command: Command = lambda *argv: argv,
    on_notice: OnNotice | None = None,
) -> tuple[Notice, ...]:
    """Have sm-notify tell each client that the server ``name`` at ``source`` has restarted, with this NSM state.

    ``directory`` and all above it belong to root and can be entered by ``user``, statd's uid and gid; it need not
    survive a reboot. ``deadline`` is in seconds from now. ``on_notice`` hears of each client as soon as its outcome is
    known; the result is in the order of ``clients``. How often sm-notify sent to a client, it does not say: a
    Notice has 0 attempts.

    Raises NlmfoError if sm-notify cannot be run or fails. Whoever it was by then is not known to have been told,
    except for those that ``on_notice`` has heard of.
    """
    if not 0 < state < 2**31 or state % 2 == 0:
        raise NlmfoError(f"NSM state {state} cannot be sent by sm-notify: it has to be odd and positive")
    limit = Deadline(deadline)
    account = _Account(clients, name, limit, on_notice or (lambda _: None))
    if account.left:
        shown = name if _leads_to(command, name, source, limit) else str(source)
        with _scratch(directory, sorted(account.left), name, state, user) as scratch:
            minutes = str(math.ceil(deadline / 60) + 1)  # for the case that it is not ended by us
            argv = command("sm-notify", "-d", "-f", "-n", "-m", minutes, "-P", os.fspath(scratch), "-v", shown)
            _follow(argv, scratch, account, limit)
    return account.close()


def _leads_to(command: Command, name: str, source: Address, limit: Deadline) -> bool:
    """Whether sm-notify would send from ``source`` if it were given the name.

    In a process of its own, because the name service is that of the place where sm-notify will run, and may hang.
    """
    try:
        found = run(command(sys.executable, "-I", "-S", "-c", _ASK, name), deadline=min(RESOLVE, limit.remaining()))
        first = ip_address(found.strip())
    except (NlmfoError, ValueError):
        return False
    return (getattr(first, "ipv4_mapped", None) or first) == source


#: The question that sm-notify asks (smn_bind_address), of which it takes the first answer. getent(1) asks another one.
_ASK = """
import socket, sys
found = socket.getaddrinfo(sys.argv[1], "", socket.AF_INET6, 0, socket.IPPROTO_UDP, socket.AI_V4MAPPED)
print(found[0][4][0])
"""


class _Account:
    """Who is left to be told, and what sm-notify has said."""

    def __init__(self, clients: Sequence[str], name: str, limit: Deadline, on_notice: OnNotice) -> None:
        self._clients = tuple(clients)
        self._limit = limit
        self._on_notice = on_notice
        self._notices: dict[str, Notice] = {}
        self._why: dict[str, tuple[Outcome, str]] = {}
        self._name = name
        self._unread = b""
        self.last_words = ""
        self.nobody = False
        self.left = {client for client in clients if client_is_safe(client)}
        for client in dict.fromkeys(clients):
            if client not in self.left:
                self._settle(client, Outcome.UNREACHABLE, "sm-notify takes names of files, and this can be none")

    def look(self, directory: Directory) -> None:
        """Whose record is gone has answered."""
        for client in sorted(self.left.difference(directory.names())):
            self._settle(client, Outcome.TOLD, "sm-notify has its answer")

    def hear(self, said: bytes) -> None:
        """What sm-notify wrote to standard error; of a line that is too long, the beginning counts."""
        *lines, rest = (self._unread + said).split(b"\n")
        self._unread = rest[:LINE]
        for line in lines:
            self._hear_line(plain(line.decode(errors="replace")))

    def _hear_line(self, line: str) -> None:
        self.last_words = line
        if found := _CANONICAL.search(line):
            self._name = found[1]
        elif found := _NO_STATD.search(line):
            self._why[found[1]] = (Outcome.NO_STATD, "statd is not registered with rpcbind")
        elif found := _UNRESOLVED.search(line):
            self._why[found[1]] = (Outcome.UNREACHABLE, "sm-notify cannot resolve its name")
        elif line.endswith(_NOBODY):
            self.nobody = True

    def close(self) -> tuple[Notice, ...]:
        """Nobody else is told any more."""
        for client in sorted(self.left):
            self._settle(client, *self._why.get(client, (Outcome.UNREACHABLE, "no answer to sm-notify")))
        return tuple(self._notices[client] for client in self._clients)

    def _settle(self, client: str, outcome: Outcome, detail: str) -> None:
        self.left.discard(client)
        names = tuple(dict.fromkeys((self._name, self._name.partition(".")[0]))) if outcome is Outcome.TOLD else ()
        seconds = self._limit.seconds - self._limit.remaining()
        self._notices[client] = Notice(client, outcome, names, 0, seconds, detail)
        self._on_notice(self._notices[client])


_CANONICAL = re.compile(r"Canonical name for my_name '.*': (\S+)$")
_NO_STATD = re.compile(r"No statd on host (\S+)$")
_UNRESOLVED = re.compile(r"DNS resolution of (\S+) failed")
_NOBODY = "No hosts to notify; exiting"


# --- its directory -----------------------------------------------------------------------------------------


@contextmanager
def _scratch(directory: Path, clients: Sequence[str], name: str, state: int, user: tuple[int, int]) -> Iterator[Path]:
    """The directory that sm-notify works in; several can be in use at once."""
    with Directory.open(directory) as home:
        _clear(home)
        with _fresh(home) as scratch:
            try:
                with _explained(scratch.path):
                    _fill(scratch, clients, name, state, user)
                yield scratch.path
            finally:
                _remove(home, scratch.path.name)


def _fresh(home: Directory) -> Directory:
    """A new directory, locked, under a name that nobody else has. Raises StoreError."""
    for number in itertools.count(1):
        name = f"{SCRATCH}{number}"
        with _explained(home.path / name), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=home.fd)
            fresh = home.inside(name)
            if _is_ours(home, fresh):
                return fresh
            os.close(fresh.fd)
    raise AssertionError("there is always another number")


def _is_ours(home: Directory, fresh: Directory) -> bool:
    """Lock it; false when somebody who cleans up was faster and has removed it, or will."""
    try:
        fcntl.flock(fresh.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.stat(fresh.path.name, dir_fd=home.fd, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    return found.st_ino == os.fstat(fresh.fd).st_ino


def _fill(scratch: Directory, clients: Sequence[str], name: str, state: int, user: tuple[int, int]) -> None:
    """Nobody else can come in before all is there: it is given away at the end."""
    for each in (CURRENT, EARLIER):
        scratch.make(each, 0o700)
        with scratch.inside(each) as records:
            for client in clients if each == EARLIER else ():
                _write(records, client, format_record(client, name), user)
            records.own(*user, 0o700)
    _write(scratch, STATE, state.to_bytes(4, sys.byteorder), (os.geteuid(), os.getegid()))
    scratch.own(os.geteuid(), os.getegid(), 0o755)


def _write(directory: Directory, name: str, content: bytes, user: tuple[int, int]) -> None:
    """A new file. Unlike the records that it stands for, it need not be durable: thousands of fsync take seconds."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory.fd)
    with os.fdopen(fd, "wb") as file:
        os.fchown(fd, *user)
        file.write(content)


def _clear(home: Directory) -> None:
    """Remove what was left behind by those who were killed: nobody holds a lock on it."""
    for name in home.names():
        if name.startswith(SCRATCH):
            with contextlib.suppress(NlmfoError, OSError), home.inside(name) as old:
                fcntl.flock(old.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(home, name)


def _remove(home: Directory, name: str) -> None:
    """As far as it goes: statd's user can nest directories until nobody can remove them in one go.

    No link in it leads out: rmtree goes by descriptors, and follows none.
    """
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(name, dir_fd=home.fd)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NlmfoError(f"{path}: cannot lay out what sm-notify needs: {error.strerror}") from error


# --- its process -------------------------------------------------------------------------------------------


def _follow(argv: Sequence[str], scratch: Path, account: _Account, limit: Deadline) -> None:
    """Run sm-notify until it ends or time is up, and then end it. Raises NlmfoError when it fails."""
    with (
        Directory.open(scratch / EARLIER) as records,
        selectors.DefaultSelector() as selector,
        _watched(scratch / EARLIER, selector) as changes,
        _started(argv) as process,
    ):
        selector.register(_said(process), selectors.EVENT_READ)
        due = 0.0
        while not limit.passed():
            if due <= (now := time.monotonic()):
                account.look(records)
                due = now + LOOK
            if not account.left:
                limit = Deadline(min(limit.remaining(), KILL))  # it has nothing more to do than to end
            for key, _ in selector.select(min(due - now, limit.remaining())):
                if changes is not None and key.data is changes:
                    changes.read(timeout=0)  # what became of whom is seen in the directory
                    due = min(due, now + GATHER)
                elif not _hear(process, account):
                    _check_end(process, argv, account)
                    account.look(records)
                    return
        account.look(records)


@contextmanager
def _watched(directory: Path, selector: selectors.BaseSelector) -> Iterator[inotify_simple.INotify | None]:
    """Wakes the selector when something in the directory goes; nothing, when the node has no more of these.

    Nor where the library is not installed, as on Debian 12, which has no package of it: clients wait for their notice,
    and that we hear half a second later of their answers is no reason to let them.
    """
    with ExitStack() as stack:
        try:
            import inotify_simple  # noqa: PLC0415

            changes = stack.enter_context(inotify_simple.INotify())
            changes.add_watch(directory, inotify_simple.flags.DELETE | inotify_simple.flags.MOVED_FROM)
        except (ImportError, OSError):  # OSError: fs.inotify.max_user_instances. We look now and then instead
            yield None
            return
        selector.register(changes, selectors.EVENT_READ, changes)
        yield changes


@contextmanager
def _started(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """sm-notify, in a session of its own; it and what it may have started are gone afterwards."""
    words = [os.fspath(word) for word in argv]
    try:
        process = subprocess.Popen(
            words,
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise NlmfoError(f"cannot start '{words[0]}': {error.strerror}", hint=_MISSING) from error
    try:
        os.set_blocking(_said(process), False)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=KILL)
        if process.stderr is not None:
            process.stderr.close()


def _said(process: subprocess.Popen[bytes]) -> int:
    """The descriptor of what it writes to standard error."""
    assert process.stderr is not None
    return process.stderr.fileno()


def _hear(process: subprocess.Popen[bytes], account: _Account) -> bool:
    """Take in what it has said by now; false when it has ended."""
    try:
        said = os.read(_said(process), 1 << 16)
    except BlockingIOError:
        return True
    account.hear(said)
    return bool(said)


def _check_end(process: subprocess.Popen[bytes], argv: Sequence[str], account: _Account) -> None:
    """Raises NlmfoError unless it ended well, after it was given somebody to tell."""
    try:
        status = process.wait(timeout=KILL)
    except subprocess.TimeoutExpired:
        return  # standard error is closed, and it goes on: it is ended by whoever started it
    if status != 0:
        raise CommandFailed(argv, status, account.last_words, hint=_hint(status, account.last_words))
    if account.nobody:
        raise NlmfoError(
            "sm-notify found no record in the directory that was made for it, and has ended lockd's grace period",
            hint="somebody who runs as statd's user removed them: look who; clients are still owed their notices",
        )


def _hint(status: int, last_words: str) -> str | None:
    if status == 127:  # nsenter(1) found no such program
        return _MISSING
    return next((hint for part, hint in _HINTS.items() if part in last_words), None)


_HINTS = {
    "is unusable": _REVERSE,
    "bindresvport on RPC socket failed": _NOT_UP,
    "Invalid bind address": _REVERSE,
}
