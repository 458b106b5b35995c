# SPDX-License-Identifier: GPL-2.0-or-later
"""sm-notify of nfs-utils tells the clients for us, each is accounted for, and our records stay as they are."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import inotify_simple
import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import CommandFailed, NlmfoError
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.view import statd_user
from nlmfo.kernel import syscalls
from nlmfo.notify import Notice, Outcome, Settings, names_for, notify, smnotify
from nlmfo.notify.smnotify import LINE, _Account, sm_notify
from nlmfo.records.directory import Directory
from nlmfo.records.store import Store
from nlmfo.run import run
from tests.unit import namespaced
from tests.unit.nsm_client_fake import Behaviour, FakeClients

SERVER, NAME, STATE = IPv4Address("127.9.9.9"), "nfs100.example", 41
SENT = [(NAME, STATE), ("nfs100", STATE)]
CLIENTS = ("127.1.0.1", "127.1.0.2", "127.1.0.3")
SILENT = Behaviour(udp=False, tcp=False)
SHORT = 2.0  # seconds, where a test has to run into the deadline: it takes sm-notify far less to tell three
NFSWITCH = "hosts: files\nservices: files\n"


@dataclass
class Stand:
    """A network with simulated clients, a name service made of one file, and a directory for sm-notify."""

    namespaces: Namespaces
    directory: Path

    def tell(self, *clients: str, **different: Any) -> tuple[Notice, ...]:
        user = statd_user()
        usual: dict[str, Any] = {
            "source": SERVER,
            "name": NAME,
            "state": STATE,
            "user": (user.uid, user.gid),
            "deadline": namespaced.SECONDS,
            "command": self.namespaces.command,
        }
        return sm_notify(different.pop("directory", self.directory), clients, **usual | different)

    def clients(self, behaviours: dict[str, Behaviour] | None = None, *, ipv6: bool = False) -> FakeClients:
        return FakeClients(behaviours, rpcbind_port=111, open_socket=self.namespaces.open_socket, ipv6=ipv6)


@contextmanager
def stand(hosts: str = f"{SERVER} {NAME}\n") -> Iterator[Stand]:
    with namespaced.made() as namespaces:
        directory = namespaces.directory / "notices"
        directory.mkdir(mode=0o755)
        for file, content in (("hosts", hosts), ("nsswitch.conf", NFSWITCH)):
            source, target = namespaces.directory / file, Path("/etc") / file
            source.write_text(content)
            namespaces.call(partial(syscalls.mount, os.fspath(source), target, "none", syscalls.MS_BIND))
        yield Stand(namespaces, directory)


# --- the real one ------------------------------------------------------------------------------------------


def test_each_client_hears_both_names_with_exactly_our_state_from_the_floating_address() -> None:
    heard_of: list[Notice] = []
    with stand() as here, here.clients() as clients:
        notices = here.tell(*CLIENTS, on_notice=heard_of.append)
        assert list(here.directory.iterdir()) == []
    assert [notice.client for notice in notices] == [*CLIENTS]
    assert {(notice.outcome, notice.names) for notice in notices} == {(Outcome.TOLD, (NAME, "nfs100"))}
    assert sorted(heard_of, key=str) == sorted(notices, key=str)
    assert {client: clients.heard[client].notices for client in CLIENTS} == dict.fromkeys(CLIENTS, SENT)
    assert [clients.heard[client].callers for client in CLIENTS] == [{str(SERVER)}] * 3


@pytest.mark.parametrize(
    "hosts", [f"::1 {NAME}\n", f"{SERVER} {NAME}\n::1 real.example\n"], ids=["by name", "by address"]
)
def test_an_ipv6_client_is_told_from_an_ipv6_address(hosts: str) -> None:
    with stand(hosts) as here, here.clients(ipv6=True) as clients:
        (notice,) = here.tell("::1", source=IPv6Address("::1"))
    name = hosts.rsplit(maxsplit=1)[-1]
    assert (notice.outcome, notice.names) == (Outcome.TOLD, (name, name.partition(".")[0]))
    assert clients.heard["::1"].notices == [(sent, STATE) for sent in notice.names]
    assert clients.heard["::1"].callers == {"::1"}


def test_who_does_not_answer_is_left_over_at_the_deadline_and_sm_notify_does_not_go_on() -> None:
    heard_of: list[str] = []
    with stand() as here, here.clients({CLIENTS[0]: SILENT, CLIENTS[1]: Behaviour(statd_after=-1)}):
        notices = here.tell(*CLIENTS, deadline=SHORT, on_notice=lambda notice: heard_of.append(notice.client))
        assert here.namespaces.processes() == []
        assert list(here.directory.iterdir()) == []
    assert [notice.outcome for notice in notices] == [Outcome.UNREACHABLE, Outcome.NO_STATD, Outcome.TOLD]
    assert heard_of[0] == CLIENTS[2]
    assert [notice.detail for notice in notices[:2]] == [
        "no answer to sm-notify",
        "statd is not registered with rpcbind",
    ]


@pytest.mark.parametrize(
    "hosts",
    [f"{SERVER} real.example\n", f"127.8.8.8 {NAME}\n{SERVER} real.example\n"],
    ids=["a name that resolves to nothing", "a name that resolves to another address"],
)
def test_notices_come_from_the_floating_address_whatever_the_name_resolves_to(hosts: str) -> None:
    with stand(hosts) as here, here.clients() as clients:
        (notice,) = here.tell(CLIENTS[0])
    assert (notice.outcome, notice.names) == (Outcome.TOLD, ("real.example", "real"))
    assert clients.heard[CLIENTS[0]].callers == {str(SERVER)}
    assert clients.heard[CLIENTS[0]].notices == [("real.example", STATE), ("real", STATE)]


def test_the_name_that_we_are_configured_with_is_sent_though_the_address_has_another() -> None:
    with stand(f"{SERVER} real.example\n{SERVER} {NAME}\n") as here, here.clients() as clients:
        (notice,) = here.tell(CLIENTS[0])
    assert notice.names == (NAME, "nfs100")
    assert clients.heard[CLIENTS[0]].notices == SENT


def test_a_client_on_record_by_name_is_told_if_it_can_be_found_and_otherwise_we_know_why() -> None:
    known, unknown = "client2.example", "nosuch.example"
    with stand(f"{SERVER} {NAME}\n{CLIENTS[1]} {known}\n") as here, here.clients() as clients:
        notices = here.tell(known, unknown, deadline=SHORT)
    assert [notice.outcome for notice in notices] == [Outcome.TOLD, Outcome.UNREACHABLE]
    assert notices[1].detail == "sm-notify cannot resolve its name"
    assert clients.heard[CLIENTS[1]].notices == SENT


def test_an_address_without_a_name_is_an_error_that_says_what_to_do() -> None:
    with stand("127.0.0.1 localhost\n") as here, here.clients() as clients:
        with pytest.raises(CommandFailed, match=r"my_name '127\.9\.9\.9' is unusable") as caught:
            here.tell(*CLIENTS)
        assert list(here.directory.iterdir()) == []
    assert "/etc/hosts" in (caught.value.hint or "")
    assert not clients.heard


def test_an_address_that_is_not_up_is_an_error_that_says_so() -> None:
    away = IPv4Address("192.0.2.1")
    with stand(f"{away} {NAME}\n") as here, pytest.raises(CommandFailed, match="Cannot assign") as caught:
        here.tell(*CLIENTS, source=away)
    assert "must be up" in (caught.value.hint or "")


def test_a_program_that_is_not_installed_is_an_error_that_says_so(tmp_path: Path) -> None:
    with stand() as here:
        with pytest.raises(CommandFailed, match="No such file") as caught:
            here.tell(*CLIENTS, command=lambda *argv: here.namespaces.command(tmp_path / argv[0], *argv[1:]))
        assert "install" in (caught.value.hint or "")
        with pytest.raises(NlmfoError, match="cannot start") as caught_here:
            here.tell(*CLIENTS, command=lambda *argv: [os.fspath(tmp_path / argv[0])])
        assert "install" in (caught_here.value.hint or "")


def test_a_node_that_has_no_inotify_left_tells_its_clients_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(inotify_simple, "INotify", none_left)
    with stand() as here, here.clients():
        notices = here.tell(*CLIENTS)
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}


def test_a_node_without_the_library_for_inotify_tells_its_clients_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)  # an import of it raises ImportError now
    with stand() as here, here.clients():
        notices = here.tell(*CLIENTS)
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}


def test_two_at_once_do_not_get_in_each_others_way() -> None:
    with stand() as here, here.clients({CLIENTS[0]: SILENT}) as clients:
        inner: list[Notice] = []

        def tell_another(notice: Notice) -> None:
            if notice.client == CLIENTS[1]:
                inner.extend(here.tell(CLIENTS[2]))

        (silent, told) = here.tell(*CLIENTS[:2], deadline=SHORT, on_notice=tell_another)
    assert (silent.outcome, told.outcome, inner[0].outcome) == (Outcome.UNREACHABLE, Outcome.TOLD, Outcome.TOLD)
    assert clients.heard[CLIENTS[2]].notices == SENT


def test_sm_notify_does_not_outlive_us_and_tell_of_a_state_that_is_past() -> None:
    with stand() as here, here.clients({CLIENTS[0]: SILENT}) as clients:
        program = (
            "import sys; from ipaddress import ip_address; from pathlib import Path\n"
            "from nlmfo.host.namespaces import Namespaces; from nlmfo.notify.smnotify import sm_notify\n"
            "service, directory, uid, gid = sys.argv[1:]\n"
            f"sm_notify(Path(directory), {CLIENTS[:2]!r}, source=ip_address('{SERVER}'), name={NAME!r},\n"
            f"  state={STATE}, user=(int(uid), int(gid)), deadline=600, command=Namespaces(service).command,\n"
            "  on_notice=lambda notice: print(notice.client, flush=True))\n"
        )
        user = statd_user()
        words = (here.namespaces.service, here.directory, str(user.uid), str(user.gid))
        with subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True) as ours:
            assert ours.stdout is not None
            assert ours.stdout.readline() == f"{CLIENTS[1]}\n"
            assert here.namespaces.processes() != []
            ours.kill()
        limit = Deadline(namespaced.SECONDS)
        poll_until("the end of sm-notify", lambda: not here.namespaces.processes(), limit)
        assert len(list(here.directory.iterdir())) == 1
        here.tell(CLIENTS[2])
        assert list(here.directory.iterdir()) == []  # what the killed one left is gone as well
    assert clients.heard[CLIENTS[2]].notices == SENT


# --- our records -------------------------------------------------------------------------------------------


@contextmanager
def store(here: Stand) -> Iterator[tuple[Store, Path]]:
    """The store of a service whose three clients are owed a notice."""
    state, user = here.namespaces.directory / "state", statd_user()
    state.mkdir(mode=0o755)
    found = Store(state, (SERVER,))
    found.prepare(user.uid, user.gid)
    for client in CLIENTS:
        found.add(SERVER, client, "node")
    found.begin_generation()
    yield found, state / f"sm_{SERVER}"


def contents(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below: owner, mode and content."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    found = [(str(path.relative_to(directory)), path.stat(), path.read_bytes()) for path in files]
    return {name: (status.st_uid, status.st_mode, content) for name, status, content in found}


def test_the_records_are_as_they_were_though_all_have_answered_and_the_callout_goes_on() -> None:
    with stand() as here, here.clients(), store(here) as (ours, home):
        ours.add(SERVER, "127.1.0.9", "node")
        before = contents(home)
        notices = here.tell(*ours.owed_names(SERVER), directory=home)
        assert contents(home) == before
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}
    assert len(before) == 5  # three that are owed, one that is current, the state


def test_sm_notify_by_hand_finishes_what_ours_began_when_nobody_serves() -> None:
    told, silent = CLIENTS[:2], CLIENTS[2]
    with stand() as here, store(here) as (ours, home):
        number = ours.state_number()
        with here.clients({silent: SILENT}) as clients:
            ours_said = notify(
                CLIENTS, source=SERVER, names=names_for((NAME,), SERVER), state=number, deadline=1.0,
                open_socket=here.namespaces.open_socket, settings=Settings(rpcbind_port=111),
            )  # fmt: skip
        assert [notice.outcome for notice in ours_said] == [Outcome.TOLD, Outcome.TOLD, Outcome.UNREACHABLE]
        for client in told:
            ours.add(SERVER, client, "node")  # it is back
        assert ours.settle(SERVER, {*told}) == told
        with here.clients() as clients:
            by_hand = ("sm-notify", "-d", "-f", "-m", "1", "-P", home, "-v", NAME)
            run(here.namespaces.command(*by_hand), deadline=namespaced.SECONDS)
        assert clients.heard[silent].notices == [(NAME, number + 2), ("nfs100", number + 2)]
        assert ours.owed(SERVER) == ours.current(SERVER) == ()
        assert ours.state_number() == number + 2
        assert ours.begin_generation() > number + 2


# --- never for nobody, and never led astray ----------------------------------------------------------------


def not_to_be_run(*argv: str | os.PathLike[str]) -> Sequence[str]:
    raise AssertionError(f"{argv} was to be run")


def test_it_is_never_run_for_nobody_because_it_would_end_grace(tmp_path: Path) -> None:
    here = Stand(Namespaces("none"), tmp_path)
    assert here.tell(command=not_to_be_run) == ()
    (notice,) = here.tell("../../../etc/passwd", command=not_to_be_run)
    assert (notice.outcome, notice.names) == (Outcome.UNREACHABLE, ())


@pytest.mark.parametrize("state", [0, -1, 42, 2**31 + 1])
def test_a_state_that_it_would_change_or_cannot_send_is_refused(state: int, tmp_path: Path) -> None:
    with pytest.raises(NlmfoError, match="odd"):
        Stand(Namespaces("none"), tmp_path).tell(*CLIENTS, state=state, command=not_to_be_run)


def script(text: str) -> Any:
    """What runs instead of sm-notify, with ``$dir`` for its directory."""

    def command(*argv: str | os.PathLike[str]) -> list[str]:
        if argv[0] == sys.executable:  # what the name resolves to
            return ["echo", str(SERVER)]
        place = argv[argv.index("-P") + 1]
        return ["sh", "-c", f"dir='{os.fspath(place)}'; {text}"]

    return command


def test_a_failure_is_an_error_with_its_last_words_and_tells_of_nobody(tmp_path: Path) -> None:
    heard_of: list[Notice] = []
    failing = script("echo 'sm-notify: out of \x1b[2J luck' >&2; rm $dir/sm.bak/*; exit 1")
    with pytest.raises(CommandFailed, match=r"out of \?\[2J luck"):
        Stand(Namespaces("none"), tmp_path).tell(*CLIENTS, command=failing, on_notice=heard_of.append)
    assert list(tmp_path.iterdir()) == []


def test_records_that_vanish_before_it_begins_are_no_answers(tmp_path: Path) -> None:
    empty = script("rm $dir/sm.bak/*; echo 'sm-notify: No hosts to notify; exiting' >&2")
    with pytest.raises(NlmfoError, match="has ended lockd's grace period"):
        Stand(Namespaces("none"), tmp_path).tell(*CLIENTS, command=empty)


def test_records_that_are_left_when_it_ends_are_of_clients_that_were_not_told(tmp_path: Path) -> None:
    notices = Stand(Namespaces("none"), tmp_path).tell(*CLIENTS, command=script(f"rm $dir/sm.bak/{CLIENTS[1]}"))
    assert [notice.outcome for notice in notices] == [Outcome.UNREACHABLE, Outcome.TOLD, Outcome.UNREACHABLE]


def test_what_hangs_is_killed_at_the_deadline_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    hanging = script(f"trap '' TERM; echo $$ > {note}; sleep 600 & sleep 600")
    notices = Stand(Namespaces("none"), tmp_path).tell(*CLIENTS, command=hanging, deadline=SHORT)
    assert {notice.outcome for notice in notices} == {Outcome.UNREACHABLE}
    group = int(note.read_text())
    poll_until("the end of its children", lambda: not alive(group), Deadline(namespaced.SECONDS))


def alive(group: int) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[2]) == group and words[0] != "Z":
                return True
    return False


def test_more_words_than_a_pipe_holds_do_not_stop_it(tmp_path: Path) -> None:
    chatty = script("yes 'sm-notify: Received packet...' | head -c 300000 >&2; printf %9000s x >&2; rm $dir/sm.bak/*")
    notices = Stand(Namespaces("none"), tmp_path).tell(*CLIENTS, command=chatty)
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}


def test_what_it_works_on_is_statds_and_the_way_there_is_roots(tmp_path: Path) -> None:
    note = tmp_path / "note"
    look = f"stat -c '%n %u:%g %a' $dir $dir/* $dir/sm.bak/* > {note}; rm $dir/sm.bak/*"
    here = Stand(Namespaces("none"), tmp_path / "directory")
    here.directory.mkdir()
    here.tell(CLIENTS[0], command=script(look), user=(1234, 4321))
    assert note.read_text().replace(f"{here.directory}/notify.1", "DIR").splitlines() == [
        "DIR 0:0 755",
        "DIR/sm 1234:4321 700",
        "DIR/sm.bak 1234:4321 700",
        "DIR/state 0:0 600",
        f"DIR/sm.bak/{CLIENTS[0]} 1234:4321 600",
    ]


def test_the_kernel_tells_us_at_once_who_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smnotify, "LOOK", 1000.0)
    seen = tmp_path / "seen"
    waiting = script(f"rm $dir/sm.bak/{CLIENTS[0]}; while ! test -e {seen}; do sleep 0.02; done; rm $dir/sm.bak/*")
    here = Stand(Namespaces("none"), tmp_path)
    notices = here.tell(*CLIENTS, command=waiting, on_notice=lambda _: seen.touch())
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}


def test_who_has_answered_before_the_deadline_was_told_though_we_look_at_it_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smnotify, "LOOK", 1000.0)
    monkeypatch.setattr(smnotify, "GATHER", 1000.0)
    hanging = script(f"rm $dir/sm.bak/{CLIENTS[0]}; sleep 600")
    notices = Stand(Namespaces("none"), tmp_path).tell(*CLIENTS[:2], command=hanging, deadline=SHORT)
    assert [notice.outcome for notice in notices] == [Outcome.TOLD, Outcome.UNREACHABLE]


def test_of_a_line_without_an_end_only_the_beginning_is_kept() -> None:
    account = _Account(CLIENTS, NAME, Deadline(SHORT), lambda _: None)
    for _ in range(100):
        account.hear(b"x" * 10_000)
    assert len(account._unread) <= LINE
    account.hear(b"\nsm-notify: No statd on host 127.1.0.1\nsm-no")
    account.hear(b"tify: No statd on host 127.1.0.2\n")
    assert [notice.outcome for notice in account.close()] == [Outcome.NO_STATD, Outcome.NO_STATD, Outcome.UNREACHABLE]


def test_what_lies_in_the_way_leads_nowhere(tmp_path: Path) -> None:
    victim, directory = tmp_path / "victim", tmp_path / "directory"
    victim.mkdir()
    (victim / "precious").write_text("kept")
    directory.mkdir()
    (directory / "notify.1").symlink_to(victim)
    (directory / "notify.2").write_text("a file")
    stale = directory / "notify.3"
    stale.mkdir()
    (stale / "sm.bak").symlink_to(victim)
    (stale / "state").symlink_to(victim / "precious")
    notices = Stand(Namespaces("none"), directory).tell(*CLIENTS, command=script("rm $dir/sm.bak/*"))
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}
    assert (victim / "precious").read_text() == "kept"
    assert not stale.exists()


def test_the_directory_of_another_that_is_at_work_is_left_alone(tmp_path: Path) -> None:
    here, inside = Stand(Namespaces("none"), tmp_path), script("rm $dir/sm.bak/*")

    def tell_another(_: Notice) -> None:
        (others,) = tmp_path.iterdir()
        here.tell(CLIENTS[1], command=inside)
        assert list(tmp_path.iterdir()) == [others]

    here.tell(CLIENTS[0], command=inside, on_notice=tell_another)
    assert list(tmp_path.iterdir()) == []


def test_nobody_but_root_could_come_in_before_everything_was_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    own = Directory.own

    def watched(self: Directory, uid: int, gid: int, mode: int) -> None:
        modes.append((self.path.parent if self.path.name != "notify.1" else self.path).stat().st_mode & 0o777)
        own(self, uid, gid, mode)

    monkeypatch.setattr(Directory, "own", watched)
    Stand(Namespaces("none"), tmp_path).tell(CLIENTS[0], command=script("rm $dir/sm.bak/*"))
    assert modes == [0o700] * 3
