# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad situations: each ends with an error of its own that says how to mend it, and leaves the node as it was.

All of them come one after the other in one lab, each undone at its end, and the last test takes over once more.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.lab import cluster
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Job, Node, Result
from tests.lab.witness import Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

#: What a run of nlmfo could leave behind; the daemons' logs and the lock of the last run may stay.
STATE = r"""
cut -d' ' -f1-4 /proc/mounts
ip -o -br address
ls /run/netns
find /run/nlmfo -mindepth 1 ! -path '*/log*' ! -name '*.lock' ! -name keep.pid
cat /var/lib/nfs/etab 2> /dev/null || true
cat /proc/locks
ps -eo comm= | grep -E '^(rpcbind|rpc\.|nfsdcld|nfsd|lockd|nlmfo|python3)' | sort
find /srv | sort
"""
TOML = "/etc/nlmfo/services.d/home.toml"
SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Ground:
    """The server ``a``, its neighbour ``x``, and a service with two partitions."""

    lab: Lab
    service: Service
    a: Node
    x: Node

    def state(self) -> str:
        return self.a.shell(STATE)

    def standing(self) -> str:
        """What the newest owner record says, read where it is kept."""
        newest = max((self.lab.registry / "services/home/owner").glob("[0-9]*"))
        return str(json.loads(newest.read_text())["standing"])

    def fails(self) -> Result:
        """A takeover that has to fail, and to leave nothing behind."""
        before = self.state()
        result = cluster.nlmfo(self.a, "takeover", "home")
        assert result.status != 0, str(result)
        assert self.state() == before, str(result)
        return result

    def nothing_is_left(self) -> None:
        """Nobody serves it, nothing has to be resumed, and another node may take over."""
        assert self.standing() == "released"
        status = cluster.nlmfo(self.a, "status", "home")
        assert (status.status, "released on a" in status.out) == (5, True), str(status)
        assert "WARNING" not in status.out
        assert "PARTLY" not in status.out


@pytest.fixture(scope="module")
def prepared(shared_lab: Lab) -> Ground:
    """Booted, and everything that the first takeover makes for good is there."""
    service = cluster.make_service(shared_lab, "home", ["10.10.0.100/24", "fd00::100/64"], 1234)
    a, x = shared_lab.node("a", disks=cluster.disks(service)), shared_lab.node("x")
    cluster.prepare(shared_lab, [a], service)
    cluster.takeover(a, service)
    cluster.release(a, service)
    return Ground(shared_lab, service, a, x)


@pytest.fixture
def ground(prepared: Ground) -> Iterator[Ground]:
    """The same for each test: what one that failed has left is cleared away for the next."""
    yield prepared
    if prepared.standing() != "released" or "/srv" in prepared.a.shell("cat /proc/mounts"):
        cluster.nlmfo(prepared.a, "release", "home")


@contextmanager
def provoked(node: Node, script: str, undo: str) -> Iterator[None]:
    node.shell(script)
    try:
        yield
    finally:
        node.shell(undo)


@dataclass(frozen=True, slots=True)
class Situation:
    """``script`` provokes it on node a (or ``x``), ``undo`` ends it; ``error`` and ``hint`` have to match."""

    name: str
    script: str
    undo: str
    status: int
    error: str
    hint: str
    x: bool = False


def edited(command: str) -> tuple[str, str]:
    """Change the service's file with a command of sed's, and change it back."""
    return f"cp {TOML} /tmp/home.toml; sed -i '{command}' {TOML}", f"cp /tmp/home.toml {TOML}"


def replaced(program: str, script: str) -> tuple[str, str]:
    """Something else in the place of a program."""
    write = f"printf '#!/bin/sh\\n%s\\n' '{script}' > {program}; chmod 755 {program}"
    return f"mv {program} {program}.away; {write}", f"mv {program}.away {program}"


def on_state(script: str) -> str:
    return f"mount UUID={{state}} /mnt; {script}; umount /mnt"


#: A disk that was wiped, and one whose group descriptors were overwritten. udev looks again when it is told to.
WIPE = "dd if={device} of=/tmp/head bs=1k count=8 status=none; dd if=/dev/zero of={device} bs=1k status=none "
UNWIPE = "dd if=/tmp/head of={device} bs=1k conv=fsync status=none"
LOOK_AGAIN = "udevadm trigger --subsystem-match=block; udevadm settle"

SITUATIONS = (
    Situation(
        "a UUID that no disk has",
        *edited("s/{data}/11111111-2222-3333-4444-555555555555/"),
        1,
        "partition 11111111-2222-3333-4444-555555555555: no block device on this node carries it",
        "shared disk is connected.*uuid in the service's file",
    ),
    Situation(
        "a disk without a file system",
        WIPE + f"count=8 conv=notrunc,fsync; {LOOK_AGAIN}",
        f"{UNWIPE}; {LOOK_AGAIN}",
        1,
        "partition {data}: (no block device on this node carries it|/dev/ubda carries nothing)",
        "shared disk is connected.*uuid in the service's file",
    ),
    Situation(
        "a damaged file system",
        WIPE + "seek=2 count=1 conv=notrunc,fsync",
        UNWIPE,
        1,
        "partition {data}: the file system on {device} is damaged: .*Structure needs cleaning",
        "run 'e2fsck -f {device}'",
    ),
    Situation(
        "mounted somewhere else on the node",
        "mount UUID={data} /media",
        "umount /media",
        3,
        r"refused \(device-held\).*partition {data}: {device} is in use on this node already: held by .*at /media",
        "umount /media",
    ),
    Situation(
        "a mount point that is not empty",
        "mkdir -p /srv/home; touch /srv/home/left-behind",
        "rm /srv/home/left-behind",
        1,
        "mountpoint not empty: /srv/home has left-behind in it",
        "move it away",
    ),
    Situation(
        "a file in the place of the mount point",
        "rmdir /srv/home; touch /srv/home",
        "rm /srv/home; mkdir /srv/home",
        1,
        "/srv/home: .* is a file and not a directory",
        "move it away",
    ),
    Situation(
        "the IPv4 address answers",
        "ip address add 10.10.0.100/24 dev eth0",
        "ip address del 10.10.0.100/24 dev eth0",
        3,
        r"refused \(address-answers\).*address 10.10.0.100: somebody on the network has it \(02:00:00:00:00:02\)",
        "release the service there, or fence it",
        x=True,
    ),
    Situation(
        "the IPv6 address answers",
        "ip address add fd00::100/64 dev eth0 nodad",
        "ip address del fd00::100/64 dev eth0",
        3,
        r"refused \(address-answers\).*address fd00::100: somebody on the network has it \(02:00:00:00:00:02\)",
        "release the service there, or fence it",
        x=True,
    ),
    Situation(
        "an exported path that is missing",
        *edited("s,/srv/home/data,/srv/home/missing,"),
        1,
        "/srv/home/missing",
        "path must exist on the partition",
    ),
    Situation(
        "an option that exportfs does not know",
        *edited("s/no_root_squash,sync/no_root_squash,syncc/"),
        1,
        "make namespaces: .*exportfs does not export /srv/home/data to each of its clients: .*syncc",
        "correct the export's 'clients'",
    ),
    Situation(
        "nfsd does not start",
        "echo 111 > /proc/sys/fs/nfs/nlm_tcpport",  # rpcbind's
        "echo 0 > /proc/sys/fs/nfs/nlm_tcpport",
        1,
        "start nfsd in grace: .*nfsd does not start: running 8 nfsd threads: the port is taken",
        "nlm_tcpport",
    ),
    Situation(
        "rpcbind is not installed",
        "mv /usr/sbin/rpcbind /usr/sbin/rpcbind.away",
        "mv /usr/sbin/rpcbind.away /usr/sbin/rpcbind",
        1,
        "start daemons: .*rpcbind ended as soon as it was started: .*No such file",
        "installed.*/run/nlmfo/home/log/rpcbind.log",
    ),
    Situation(
        "rpc.statd fails when it is started",
        *replaced("/usr/sbin/rpc.statd", "echo rpc.statd: cannot go on; exit 1"),
        1,
        "start daemons: .*rpc.statd ended as soon as it was started: .*cannot go on",
        "/run/nlmfo/home/log/rpc.statd.log",
    ),
    Situation(
        "the file system of the records is full",
        on_state("dd if=/dev/zero of=/mnt/full bs=1k status=none || true"),
        on_state("rm /mnt/full"),
        1,
        "open records: .*/srv/nlmfo/home.*No space left on device",
        "make room",
    ),
    Situation(
        "the file system of the records is read-only",
        *edited('/mountpoint = .*nlmfo/a options = "ro"'),
        1,
        "open records: .*/srv/nlmfo/home.*Read-only file system",
        "",
    ),
)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name.replace(" ", "-"))
def test_a_takeover_says_what_is_wrong_and_leaves_the_node_as_it_was(ground: Ground, situation: Situation) -> None:
    uuids = {"data": ground.service.data.uuid, "state": ground.service.state.uuid, "device": "/dev/ubda"}

    def filled(text: str) -> str:
        for name, value in uuids.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    with provoked(ground.x if situation.x else ground.a, filled(situation.script), filled(situation.undo)):
        result = ground.fails()
    ground.nothing_is_left()
    error, _, hint = result.err.partition("nlmfo: hint: ")
    assert result.status == situation.status, str(result)
    assert re.search(filled(situation.error), error), str(result)
    assert hint, str(result)
    assert re.search(filled(situation.hint), hint), str(result)
    if situation.status == 3:  # found before anything was touched
        assert "mount: " not in result.out
        assert "claim: " not in result.out


def test_a_partition_that_is_mounted_in_another_mount_namespace_is_refused_and_its_process_named(
    ground: Ground,
) -> None:
    script = f"mount UUID={ground.service.data.uuid} /media; echo mounted; exec sleep 9999"
    job = ground.a.start("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
    await_true("the mount", lambda: not job.lines.empty(), 20)
    pid = ground.a.check("pgrep", "-x", "sleep").strip()
    try:
        result = ground.fails()
    finally:
        job.signal(signal.SIGKILL)
        job.wait(10)
    assert result.status == 3
    held = f"held by process {pid} (sleep): mount namespace that has it mounted at /media"
    assert f"/dev/ubda is in use on this node already: {held}" in result.err, str(result)
    assert "refused (device-held)" in result.err


def test_a_wrong_command_line_is_an_error_of_usage_and_says_what_would_be_right(ground: Ground) -> None:
    lines = {
        ("takeover",): "required: SERVICE",
        ("takeover", "hone"): "there is no service 'hone'; the services are: home\nnlmfo: hint: did you mean 'home'?",
        ("takeover", "home", "--fen", "b"): "unrecognized arguments: --fen b",
        ("takeover", "home", "--force", "still-served"): "invalid choice: 'still-served'",
    }
    before = ground.state()
    for words, said in lines.items():
        result = cluster.nlmfo(ground.a, *words)
        assert (result.status, said in result.err) == (2, True), f"{words}: {result}"
    edit, undo = edited('1i versions = ["5"]')
    with provoked(ground.a, edit, undo):
        result = cluster.nlmfo(ground.a, "takeover", "home")
    assert result.status == 2
    assert f"{TOML}: versions[1]: '5' is not a version of NFS\nnlmfo: hint: choose from 3, 4" in result.err
    assert ground.state() == before


def when_told(job: Job, *lines: str) -> None:
    """Until the program has said lines with each of these in them, in this order."""
    wanted = list(lines)

    def told() -> bool:
        while wanted and not job.lines.empty():
            if wanted[0] in job.lines.get()[1]:
                wanted.pop(0)
        assert not (wanted and job.ended()), f"it never said {wanted}: {job.wait(1)}"
        return not wanted

    await_true(f"{lines}", told, 60)


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGTERM, "claim: home"),
        (signal.SIGINT, "export: /srv/home/data"),
        (signal.SIGTERM, "start nfsd in grace: "),
    ],
    ids=["term-while-mounting", "interrupt-while-starting-nfsd", "term-while-the-address-comes-up"],
)
def test_a_takeover_that_is_stopped_by_a_signal_takes_everything_down_again(
    ground: Ground, number: int, after: str
) -> None:
    before = ground.state()
    job = ground.a.start("nlmfo", "takeover", "home", deadline=SECONDS)
    when_told(job, after)
    job.signal(number)
    result = job.wait(SECONDS)
    assert result.status == 1, str(result)
    assert "nlmfo: interrupted" in result.err
    assert "home: taking down what was begun" in result.out
    done = result.out.partition("home: taking down what was begun")[0]
    assert "notify clients" not in done
    assert "owner: released: home" in result.out
    assert ground.state() == before
    ground.nothing_is_left()


def test_whoever_stops_to_watch_the_clients_come_back_does_not_take_the_service_down(ground: Ground) -> None:
    job = ground.a.start("nlmfo", "takeover", "home", deadline=SECONDS)
    when_told(job, "notify clients: ")
    job.signal(signal.SIGINT)
    result = job.wait(SECONDS)
    assert result.status == 0, str(result)
    assert "home: served here now" in result.out
    assert cluster.nlmfo(ground.a, "status", "home").status == 0
    cluster.release(ground.a, ground.service)
    ground.nothing_is_left()


def test_a_release_that_is_stopped_by_a_signal_says_so_and_is_resumed(ground: Ground) -> None:
    before = ground.state()
    cluster.takeover(ground.a, ground.service)
    shell = ground.a.start("sh", "-c", "cd /srv/home && sleep 9999", stream=False)  # it keeps the unmount busy
    job = ground.a.start("nlmfo", "release", "home", deadline=SECONDS)
    when_told(job, "address down: ")
    second = cluster.nlmfo(ground.a, "takeover", "home")
    assert second.status == 1
    assert "service 'home': another nlmfo is at work on it on this node" in second.err
    job.signal(signal.SIGTERM)
    result = job.wait(SECONDS)
    assert result.status == 4, str(result)
    assert "interrupted" in result.err
    assert "'nlmfo resume home' goes on from here" in result.err
    assert "PARTLY up here: run 'nlmfo resume' or 'nlmfo abort'" in cluster.nlmfo(ground.a, "status").out
    assert ground.standing() == "serving"
    shell.signal(signal.SIGKILL)
    shell.wait(10)
    assert ground.a.check("nlmfo", "resume", "home", deadline=SECONDS).endswith("home: done\n")
    assert ground.state() == before
    ground.nothing_is_left()


def test_whatever_of_a_service_does_not_answer_any_more_is_named_by_monitor(ground: Ground) -> None:
    a, before = ground.a, ground.state()
    assert cluster.nlmfo(a, "monitor", "home").status == 5
    cluster.takeover(a, ground.service)
    well = cluster.nlmfo(a, "monitor", "home")
    assert (well.status, well.out) == (0, "home: all is well\n"), str(well)
    inside = "for pid in $(ip netns pids nlmfo-home); do echo $pid $(cat /proc/$pid/comm); done"
    for name in ("rpc.mountd", "rpc.statd"):
        a.shell(f"{inside} | awk '$2 == \"{name}\" {{ print $1 }}' | xargs kill -9")
        ill = cluster.nlmfo(a, "monitor", "home")
        assert ill.status == 1
        assert f"home: {name} does not answer at 10.10.0.100: see /run/nlmfo/home/log/{name}.log\n" in ill.out, str(ill)
    cluster.release(a, ground.service)
    assert ground.state() == before
    ground.nothing_is_left()


def test_a_run_goes_on_when_nobody_reads_what_it_says_and_when_its_journal_cannot_be_written(ground: Ground) -> None:
    a, before = ground.a, ground.state()
    full = "mount -t tmpfs -o size=4k tmpfs /var/lib/nlmfo/runs; yes > /var/lib/nlmfo/runs/full 2> /dev/null || true"
    with provoked(a, full, "umount /var/lib/nlmfo/runs"):
        reader = "{ nlmfo takeover home; echo $? > /tmp/status; } | head -n 1"
        gone = a.run("sh", "-c", reader, deadline=SECONDS)
        assert gone.out.startswith("warning: the journal of this run has gaps: /var/lib/nlmfo/runs/"), str(gone)
        assert gone.out.endswith("No space left on device\n"), str(gone)
        assert gone.err == ""
        assert a.check("cat", "/tmp/status") == "0\n"
    # The copy beside the records is whole all the same.
    copy = a.shell("cat $(ls /srv/nlmfo/home/runs/* | tail -1)")
    assert copy.startswith('{"event": "begun"')
    assert copy.rstrip().endswith('"outcome": "served", "error": ""}')
    assert cluster.nlmfo(a, "status", "home").status == 0

    closed = a.run("sh", "-c", "nlmfo release home >&-", deadline=SECONDS)
    assert (closed.status, closed.err) == (0, ""), str(closed)
    assert ground.state() == before
    ground.nothing_is_left()


def test_records_and_runs_survive_a_clock_that_is_wrong_by_a_day(ground: Ground) -> None:
    a, x, service = ground.a, ground.x, ground.service
    before = ground.state()
    with provoked(a, *[part.replace("/tmp/home", "/tmp/clock") for part in edited('1i consistency = "snapshot"')]):
        cluster.takeover(a, service)
        holder = Holder(x, cluster.mount(x, service))
        holder.wait_until_writing(len(LOCKS))
        a.shell("date -s '+1 day'")
        cluster.release(a, service)
        job = a.start("nlmfo", "takeover", "home", deadline=SECONDS)
        when_told(job, "look for another server")
        a.shell("date -s '-1 day'")
        when_told(job, "1 clients on record, from a snapshot")
        a.shell("date -s '+1 day'")
        assert job.wait(SECONDS).status == 0
        a.shell("date -s '-1 day'")
        await_true("the locks to come back", lambda: holder.held <= held_on(a, service), 30)
        assert lost_by(x) == []
        # In grace, not even an unlock is granted, and the process that holds the locks could not end.
        a.shell("ip netns exec nlmfo-home sh -c 'echo Y > /proc/fs/lockd/nlm_end_grace'")
        holder.job.signal(signal.SIGKILL)
        holder.job.wait(60)
        x.shell("umount /mnt/home")
        cluster.release(a, service)
    assert ground.state() == before
    ground.nothing_is_left()


def test_after_all_of_that_the_service_is_taken_over_also_from_a_file_system_that_has_to_recover(
    ground: Ground,
) -> None:
    a, service = ground.a, ground.service
    cluster.takeover(a, service)
    a.shell(f"echo kept > {service.export}/file; sync; touch {service.export}/lost")
    a.cut_power()
    ground.lab.boot(a)
    cluster.configure(a, service)
    assert "needs_recovery" in a.check("dumpe2fs", "-h", "/dev/ubda")
    a.check("debugfs", "-w", "-R", "ssv state 2", "/dev/ubda")
    assert "its owner is this node itself, in an earlier boot" in cluster.takeover(a, service)
    assert a.get(f"{service.export}/file") == b"kept\n"
    cluster.release(a, service)
