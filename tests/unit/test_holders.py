# SPDX-License-Identifier: GPL-2.0-or-later
"""Who holds a file system: real holders on a real ext4, each named, and nobody else."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nlmfo.child import in_child
from nlmfo.host import holders, mounts
from nlmfo.host.holders import Holder, HolderKind, advice, in_words, kernel, proc, processes, views
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import syscalls
from nlmfo.run import run
from tests.unit.namespaced import SECONDS, loop_device, made, own_mounts

#: For all looks together: the one that hangs waits out a quarter of it.
SHARED = 16.0


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted ext4."""

    device: Path
    number: str
    mountpoint: Path

    def held(self, *, deadline: float = SECONDS) -> tuple[Holder, ...]:
        """Who holds it, but for its own mount; nothing may have gone unseen."""
        found = holders.of(self.number, self.device, self.mountpoint, deadline=deadline)
        own = Holder(HolderKind.MOUNT, "this node", str(self.mountpoint))
        return tuple(holder for holder in found if holder != own)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with own_mounts(), loop_device(tmp_path / "image", str(uuid.uuid4())) as device:
        mountpoint = tmp_path / "srv"
        mountpoint.mkdir()
        syscalls.mount(str(device), mountpoint, "ext4")
        number = device.stat().st_rdev
        yield Disk(device, f"{os.major(number)}:{os.minor(number)}", mountpoint)
        while mounts.at(mountpoint):
            syscalls.umount(mountpoint)


@contextmanager
def running(script: str, *arguments: str | Path, inside: tuple[str, ...] = ()) -> Iterator[str]:
    """A process that has done what ``script`` says, and its name; it ends at the end."""
    code = f"import ctypes, os, socket, sys, threading\n{script}\nprint(flush=True)\nsys.stdin.read()"
    words = [*inside, sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        words, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.read(1) == b"\n", "the script failed"
            yield proc.name(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_file_system_that_nobody_uses_is_held_by_its_own_mount_alone(disk: Disk) -> None:
    mount = Holder(HolderKind.MOUNT, "this node", str(disk.mountpoint))
    assert holders.of(disk.number, disk.device, disk.mountpoint, deadline=SECONDS) == (mount,)
    syscalls.umount(disk.mountpoint)
    assert holders.of(disk.number, disk.device, disk.mountpoint, deadline=SECONDS) == ()


# -- processes -------------------------------------------------------------------------------------------


def test_a_working_directory_is_named(disk: Disk) -> None:
    (disk.mountpoint / "in").mkdir()
    with running("os.chdir(sys.argv[1])", disk.mountpoint / "in") as who:
        assert disk.held() == (Holder(HolderKind.DIRECTORY, who, f"{disk.mountpoint}/in"),)


def test_the_working_directory_of_a_single_thread_is_named(disk: Disk) -> None:
    script = (
        "ready = threading.Event()\n"
        "def leave():\n"
        "    assert ctypes.CDLL(None).unshare(0x200) == 0  # CLONE_FS\n"
        "    os.chdir(sys.argv[1]); ready.set(); threading.Event().wait()\n"
        "threading.Thread(target=leave, daemon=True).start(); ready.wait()"
    )
    with running(script, disk.mountpoint) as who:
        assert disk.held() == (Holder(HolderKind.DIRECTORY, who, str(disk.mountpoint)),)


def test_a_changed_root_is_named(disk: Disk) -> None:
    with running("os.chroot(sys.argv[1])", disk.mountpoint) as who:
        assert disk.held() == (Holder(HolderKind.ROOT, who, str(disk.mountpoint)),)


def test_an_open_file_is_named_once(disk: Disk) -> None:
    with running("file = open(sys.argv[1], 'w'); again = os.dup(file.fileno())", disk.mountpoint / "file") as who:
        assert disk.held() == (Holder(HolderKind.FILE, who, f"{disk.mountpoint}/file"),)


def test_what_the_caller_has_open_is_named_as_the_caller_s_and_not_as_that_of_who_looks(disk: Disk) -> None:
    with (disk.mountpoint / "file").open("w"):
        assert disk.held() == (Holder(HolderKind.FILE, proc.name(os.getpid()), f"{disk.mountpoint}/file"),)


def test_a_deleted_file_that_is_still_open_is_named(disk: Disk) -> None:
    with running("file = open(sys.argv[1], 'w'); os.unlink(sys.argv[1])", disk.mountpoint / "file") as who:
        assert disk.held() == (Holder(HolderKind.FILE, who, f"{disk.mountpoint}/file (deleted)"),)


def test_a_file_of_a_process_whose_first_thread_has_ended_is_named(disk: Disk) -> None:
    script = (
        "file = open(sys.argv[1], 'w')\n"
        "def stay():\n"
        "    main.join(0.01)\n"
        "    while open('/proc/self/stat').read().rpartition(')')[2].split()[0] != 'Z': os.sched_yield()\n"
        "    print(flush=True); threading.Event().wait()\n"
        "main = threading.main_thread(); threading.Thread(target=stay).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with running(script, disk.mountpoint / "file") as who:
        assert disk.held() == (Holder(HolderKind.FILE, who, f"{disk.mountpoint}/file"),)


def test_an_executable_is_named_and_its_memory_map_adds_nothing(disk: Disk) -> None:
    program = disk.mountpoint / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "1000"], cwd="/") as process:
        try:
            found = disk.held()
        finally:
            process.kill()
    assert found == (Holder(HolderKind.EXECUTABLE, f"process {process.pid} (sleep)", str(program)),)


def test_a_memory_map_of_a_closed_file_is_named(disk: Disk) -> None:
    script = (
        "import mmap\nwith open(sys.argv[1], 'w+b') as f: f.truncate(4096); m = mmap.mmap(f.fileno(), 4096)\nos.close"
    )
    script += "\nfor name in os.listdir('/proc/self/fd'):\n    if int(name) > 2:\n        try: os.close(int(name))\n"
    script += "        except OSError: pass"
    with running(script, disk.mountpoint / "a map") as who:
        assert disk.held() == (Holder(HolderKind.MAP, who, f"{disk.mountpoint}/a map"),)


def test_a_bound_socket_is_named_by_its_path(disk: Disk) -> None:
    script = "s = socket.socket(socket.AF_UNIX); os.chdir(sys.argv[1]); s.bind(sys.argv[1] + '/socket'); os.chdir('/')"
    with running(script, disk.mountpoint) as who:
        assert disk.held() == (Holder(HolderKind.SOCKET, who, f"{disk.mountpoint}/socket"),)


def test_who_has_the_device_itself_open_is_named_only_where_no_mount_has_it(disk: Disk) -> None:
    """Whoever looks at a mounted device (udev, blkid) keeps nobody from unmounting it."""
    with running("device = os.open(sys.argv[1], os.O_RDONLY)", disk.device) as who:
        assert disk.held() == ()
        syscalls.umount(disk.mountpoint)
        assert disk.held() == (Holder(HolderKind.DEVICE, who, str(disk.device)),)


def test_files_of_a_detached_mount_are_named_though_no_table_has_it(disk: Disk) -> None:
    (disk.mountpoint / "in").mkdir()
    script = "os.chdir(sys.argv[1] + '/in'); file = open(sys.argv[1] + '/file', 'w')"
    with running(script, disk.mountpoint) as who:
        run(["umount", "--lazy", disk.mountpoint], deadline=SECONDS)
        found = disk.held()
    assert [(holder.kind, holder.who) for holder in found] == [(HolderKind.DIRECTORY, who), (HolderKind.FILE, who)]
    assert [holder.what.split(" (")[0] for holder in found] == ["/in", "/file"]
    assert all("umount -l" in holder.what for holder in found)


def test_names_of_files_and_processes_are_made_harmless(disk: Disk) -> None:
    script = (
        "open('/proc/self/comm', 'wb').write(b'a\\x1b[2J\\nb\\xff')\n"
        "file = open(os.fsencode(sys.argv[1]) + b'/c\\x1b\\n\\xe9\\xe2\\x80\\xae', 'w')"
    )
    with running(script, disk.mountpoint):
        (found,) = disk.held()
    assert found.who.endswith(" (a?[2J?b?)")
    assert found.what == f"{disk.mountpoint}/c????"
    assert str(found).isprintable()


def test_processes_that_may_not_be_looked_into_are_told(disk: Disk) -> None:
    def as_nobody() -> processes.Found:
        os.setresuid(65534, 65534, 65534)
        return processes.look(views.gather((), disk.number, disk.device), frozenset())

    found = in_child("a look as nobody", as_nobody, deadline=SECONDS)
    assert found.holders == [Holder(HolderKind.UNSEEN, f"{found.closed} processes", "permission denied")]
    assert found.closed > 0


# -- mounts ----------------------------------------------------------------------------------------------


@contextmanager
def mounted(source: str | Path, target: Path, kind: str = "none", flags: int = syscalls.MS_BIND) -> Iterator[None]:
    target.mkdir(exist_ok=True)
    syscalls.mount(str(source), target, kind, flags)
    try:
        yield
    finally:
        syscalls.umount(target)


def test_a_bind_mount_of_a_part_of_it_is_named(disk: Disk, tmp_path: Path) -> None:
    (disk.mountpoint / "part").mkdir()
    with mounted(disk.mountpoint / "part", tmp_path / "view"):
        assert disk.held() == (Holder(HolderKind.MOUNT, "this node", f"{tmp_path}/view"),)


def test_a_second_mount_of_the_device_is_named(disk: Disk, tmp_path: Path) -> None:
    with mounted(disk.device, tmp_path / "view", "ext4", 0):
        assert disk.held() == (Holder(HolderKind.MOUNT, "this node", f"{tmp_path}/view"),)


def test_what_is_mounted_on_a_directory_of_it_is_named_and_not_its_users(disk: Disk) -> None:
    with (
        mounted("none", disk.mountpoint / "sub", "tmpfs", 0),
        running("os.chdir(sys.argv[1])", disk.mountpoint / "sub"),
    ):
        assert disk.held() == (Holder(HolderKind.NESTED, "tmpfs", f"{disk.mountpoint}/sub"),)


def test_an_overlay_holds_its_layers_after_they_were_unmounted(disk: Disk, tmp_path: Path) -> None:
    for name in ("one,more", "two"):
        (disk.mountpoint / name).mkdir()
    merged = tmp_path / "merged"
    merged.mkdir()
    layers = f"{disk.mountpoint}/two:{disk.mountpoint}/one\\,more"
    run(["mount", "-t", "overlay", "-o", f"lowerdir={layers}", "none", merged], deadline=SECONDS)
    try:
        expected = (Holder(HolderKind.OVERLAY, str(merged), f"{disk.mountpoint}/two"),)
        assert disk.held() == expected
        syscalls.umount(disk.mountpoint)
        assert disk.held() == expected
    finally:
        syscalls.umount(merged)


def test_a_process_in_another_mount_namespace_is_named_with_where_it_sees_it(disk: Disk) -> None:
    with running("", inside=("unshare", "--mount", "--propagation", "private")) as who:
        syscalls.umount(disk.mountpoint)
        assert disk.held() == (Holder(HolderKind.NAMESPACE, who, str(disk.mountpoint)),)


def test_of_many_processes_in_one_mount_namespace_one_is_named(disk: Disk) -> None:
    script = "for _ in range(3):\n    if os.fork() == 0: sys.stdin.read(); os._exit(0)"
    with running(script, inside=("unshare", "--mount", "--propagation", "private")):
        assert [holder.kind for holder in disk.held()] == [HolderKind.NAMESPACE]


def test_a_copy_that_goes_away_with_the_mount_is_no_holder_but_one_of_its_own_is(disk: Disk, tmp_path: Path) -> None:
    """Most namespaces of a node are such: every unit with PrivateTmp= has one."""
    (tmp_path / "other").mkdir()
    slave = ("unshare", "--mount", "--propagation", "slave")
    with running("", inside=slave) as who:
        assert disk.held() == ()
        pid = who.split()[1]
        run(["nsenter", f"--mount=/proc/{pid}/ns/mnt", "mount", disk.device, tmp_path / "other"], deadline=SECONDS)
        expected = (Holder(HolderKind.NAMESPACE, who, f"{tmp_path}/other"),)
        assert disk.held() == expected
        syscalls.umount(disk.mountpoint)
        assert disk.held() == expected


def test_a_copy_that_does_not_go_away_with_the_mount_is_a_holder_while_it_is_there(disk: Disk) -> None:
    with running("", inside=("unshare", "--mount", "--propagation", "private")) as who:
        assert disk.held() == (Holder(HolderKind.NAMESPACE, who, str(disk.mountpoint)),)


def test_a_namespace_is_seen_whole_though_its_first_process_has_another_root(disk: Disk, tmp_path: Path) -> None:
    script = "if os.fork() == 0: sys.stdin.read(); os._exit(0)\nos.chroot(sys.argv[1])"
    (tmp_path / "root").mkdir()
    with running(script, tmp_path / "root", inside=("unshare", "--mount", "--propagation", "private")) as who:
        assert disk.held() == (Holder(HolderKind.NAMESPACE, who, str(disk.mountpoint)),)


def table(root: str, first: int) -> tuple[views.Entry, ...]:
    """A table with a root, as said, and the device 7:1 mounted in it."""
    return views.parse(
        f"{first} 1 254:0 / / rw {root} - ext4 /dev/vda rw\n{first + 1} {first} 7:1 / /srv rw - ext4 /dev/loop1 rw\n"
    )


def test_an_unmount_spreads_over_any_number_of_namespaces_to_those_that_follow() -> None:
    found = [
        views.View("", table("shared:1", 10)),
        views.View("follows the third", table("master:4", 20)),
        views.View("private", table("", 30)),
        views.View("third", table("shared:4 master:3", 40)),
        views.View("second", table("shared:3 master:2", 50)),
        views.View("first", table("shared:2 master:1", 60)),
        views.View("peer", table("shared:1", 70)),
        views.View("of others", table("shared:5 master:6", 80)),
    ]
    seen = views.gather(found, "7:1", Path("/dev/loop1"))
    assert [(holder.kind, holder.who) for holder in views.holders(seen, Path("/srv"))] == [
        (HolderKind.MOUNT, "this node"),
        (HolderKind.NAMESPACE, "private"),
        (HolderKind.NAMESPACE, "of others"),
    ]


@pytest.fixture
def service(disk: Disk) -> Iterator[Namespaces]:
    """Namespaces of a service that keep the disk mounted when the node unmounts it."""
    assert mounts.at(disk.mountpoint)
    with made() as namespaces:
        namespaces.call(lambda: run(["mount", "--make-rprivate", "/"], deadline=SECONDS))
        yield namespaces


def test_a_service_s_namespace_without_a_process_is_named_by_the_service_and_its_pin(
    disk: Disk, service: Namespaces
) -> None:
    syscalls.umount(disk.mountpoint)
    (found,) = disk.held()
    who = f"service '{service.service}' ({service.mnt})"
    assert found == Holder(HolderKind.NAMESPACE, who, str(disk.mountpoint))


def test_a_service_s_namespace_is_named_with_a_process_in_it(disk: Disk, service: Namespaces) -> None:
    syscalls.umount(disk.mountpoint)
    with running("", inside=("nsenter", f"--mount={service.mnt}", "--")) as process:
        (found,) = disk.held()
    who = f"service '{service.service}' ({service.mnt}) with {process} in it"
    assert found == Holder(HolderKind.NAMESPACE, who, str(disk.mountpoint))


def test_a_service_s_namespace_is_seen_whole_though_all_in_it_have_another_root(
    disk: Disk, service: Namespaces, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    syscalls.umount(disk.mountpoint)
    with running("os.chroot(sys.argv[1])", tmp_path / "root", inside=("nsenter", f"--mount={service.mnt}", "--")):
        assert disk.held() == (
            Holder(HolderKind.NAMESPACE, f"service '{service.service}' ({service.mnt})", str(disk.mountpoint)),
        )


TABLE = """22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 7:1 / /srv/home rw - ext4 /dev/loop1 rw
31 30 0:50 / /srv/home/sub rw - tmpfs none rw
32 22 7:1 / /srv/covered rw - ext4 /dev/loop1 rw
33 32 0:51 / /srv/covered rw - tmpfs none rw
34 22 7:1 /a /srv/a\\040b rw - ext4 /dev/loop1 rw
"""


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/srv/home", True),
        ("/srv/home/data", True),
        ("/srv/a b/x", True),
        ("/srv/home/sub/x", False),
        ("/srv/homeless", False),
        ("/srv/covered/x", False),
        ("/elsewhere", False),
        ("(unreachable)/srv/home", False),
    ],
)
def test_where_a_path_lies_is_read_from_the_mount_table(path: str, shown: bool) -> None:
    entries = views.parse(TABLE)
    ids = frozenset(entry.number for entry in entries if entry.mount.device == "7:1")
    seen = views.Views(frozenset({"7:1"}), ids, frozenset(), (views.View("", entries),))
    assert ids == {30, 32, 34}
    assert seen.show(path) is shown


def test_a_btrfs_is_known_by_its_source_because_its_device_number_is_another(tmp_path: Path) -> None:
    device, link = tmp_path / "sdb", tmp_path / "link"
    device.touch()
    link.symlink_to(device)
    row = f"40 22 0:45 / /srv rw - {{}} {link} rw\n"
    assert views._shows(views.parse(row.format("btrfs"))[0].mount, "8:16", device)
    assert not views._shows(views.parse(row.format("fuse.any"))[0].mount, "8:16", device)


# -- the kernel ------------------------------------------------------------------------------------------


def test_a_loop_device_for_a_file_on_it_is_named(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    image = disk.mountpoint / "an image"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    loop = run(["losetup", "--find", "--show", image], deadline=SECONDS).strip()
    try:
        assert disk.held() == (Holder(HolderKind.LOOP, loop, str(image)),)
        monkeypatch.setattr(kernel, "_backed_by", lambda _: "0:45")  # as a btrfs says
        assert disk.held() == (Holder(HolderKind.LOOP, loop, str(image)),)
        monkeypatch.undo()
        run(["umount", "--lazy", disk.mountpoint], deadline=SECONDS)
        assert [(holder.kind, holder.who) for holder in disk.held()] == [(HolderKind.LOOP, loop)]
    finally:
        run(["losetup", "--detach", loop], deadline=SECONDS)


def test_a_swap_file_is_named(disk: Disk) -> None:
    swap = disk.mountpoint / "a swap"
    swap.write_bytes(bytes(256 << 10))
    swap.chmod(0o600)
    run(["mkswap", swap], deadline=SECONDS)
    run(["swapon", swap], deadline=SECONDS)
    try:
        assert disk.held() == (Holder(HolderKind.SWAP, "the kernel", str(swap)),)
    finally:
        run(["swapoff", swap], deadline=SECONDS)


def test_devices_that_are_built_on_it_are_named_as_people_know_them(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dm-0", "md127"):
        (tmp_path / f"sys/dev/block/{disk.number}/holders" / name).mkdir(parents=True)
    (tmp_path / "sys/block/dm-0/dm").mkdir(parents=True)
    (tmp_path / "sys/block/dm-0/dm/name").write_text("vg-home\n")
    monkeypatch.setattr(kernel, "SYS", tmp_path / "sys")
    assert disk.held() == (
        Holder(HolderKind.BUILT_ON, "dm-0 (vg-home)", str(disk.device)),
        Holder(HolderKind.BUILT_ON, "md127", str(disk.device)),
    )


def test_locks_of_nfs_clients_are_named_by_their_inodes(disk: Disk) -> None:
    """As lockd counts whoever is called so; its open file is one more holder here, and is not with the real one."""
    script = (
        "import fcntl\nopen('/proc/self/comm', 'w').write('lockd')\n"
        "file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)"
    )
    with running(script, disk.mountpoint / "file") as who:
        assert disk.held() == (
            Holder(HolderKind.FILE, who, f"{disk.mountpoint}/file"),
            Holder(HolderKind.LOCKS, "lockd", str((disk.mountpoint / "file").stat().st_ino)),
        )


#: As the kernel writes it (fs/nfsd/export.c, svc_export_show; net/sunrpc/cache.c, c_show).
EXPORTS = """#path domain(flags)
{0}/data\t*(rw,no_root_squash,sync,wdelay,fsid=1234)
# {0}/old\\040one\t192.168.1.0/24()
/elsewhere\t*(ro)
"""


def test_what_nfsd_has_in_its_export_cache_is_named_also_when_it_has_expired(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "content").write_text(EXPORTS.format(disk.mountpoint))
    monkeypatch.setattr(kernel, "EXPORTS", str(tmp_path / "content"))
    own = [holder for holder in disk.held() if holder.who == "nfsd of this node"]
    assert own == [
        Holder(HolderKind.EXPORT, "nfsd of this node", f"{disk.mountpoint}/data"),
        Holder(HolderKind.EXPORT, "nfsd of this node", f"{disk.mountpoint}/old one"),
    ]


def test_the_export_cache_of_a_service_s_network_is_read_inside_it(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = proc.read
    with made() as namespaces:
        inode = namespaces.net.stat().st_ino

        def read(file: Path) -> str | None:
            if not str(file).endswith(kernel.EXPORTS):
                return real(file)
            inside = Path("/proc/thread-self/ns/net").stat().st_ino == inode
            return EXPORTS.format(disk.mountpoint).splitlines()[1] if inside else None

        monkeypatch.setattr(proc, "read", read)
        who = f"nfsd of service '{namespaces.service}' ({namespaces.net})"
        assert disk.held() == (Holder(HolderKind.EXPORT, who, f"{disk.mountpoint}/data"),)


# -- what hangs ------------------------------------------------------------------------------------------


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Path]:
    """A file system that never answers: FUSE, with nobody to serve it."""
    place = tmp_path / "hanging"
    place.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"hanging", os.fsencode(place), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
    yield place
    os.close(server)
    syscalls.umount(place)


def test_another_file_system_that_hangs_does_not_stop_the_search(disk: Disk, hanging: Path) -> None:
    with (
        running("hold = os.open(sys.argv[1], os.O_PATH); os.set_inheritable(hold, True)", hanging),
        running("file = open(sys.argv[1], 'w')", disk.mountpoint / "file") as who,
    ):
        assert disk.held() == (Holder(HolderKind.FILE, who, f"{disk.mountpoint}/file"),)


def test_a_look_that_hangs_is_told_and_does_not_hide_the_others(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        time.sleep(SECONDS)

    monkeypatch.setattr(kernel, "loops", hang)
    with running("file = open(sys.argv[1], 'w')", disk.mountpoint / "file") as who:
        began = time.monotonic()
        found = disk.held(deadline=SHARED)
    assert time.monotonic() - began < SHARED
    assert found == (
        Holder(HolderKind.FILE, who, f"{disk.mountpoint}/file"),
        Holder(HolderKind.UNSEEN, "loop devices", "it hangs"),
    )


def test_a_mount_table_that_cannot_be_read_is_told(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(views, "tables", fail)
    assert disk.held() == (Holder(HolderKind.UNSEEN, "mount tables", "[Errno 5] Input/output error"),)


# -- in words --------------------------------------------------------------------------------------------


def files(who: str, count: int) -> list[Holder]:
    return [Holder(HolderKind.FILE, who, f"/srv/{number}") for number in range(count)]


def test_nothing_to_be_seen_is_said_to_be_the_kernel_s() -> None:
    assert in_words(()).startswith("nothing visible holds it: the kernel itself may")
    assert "nfsd.fh/flush" in advice(())


def test_at_most_eight_holders_are_listed_and_the_others_are_counted() -> None:
    assert in_words(files("process 1 (a)", 8)).count("open file") == 8
    assert "more" not in in_words(files("process 1 (a)", 8))
    assert in_words(files("process 1 (a)", 9)).count("open file") == 8
    assert in_words(files("process 1 (a)", 9)).endswith("; and 1 more")


def test_one_busy_process_does_not_crowd_out_the_others() -> None:
    loop = Holder(HolderKind.LOOP, "/dev/loop3", "/srv/image")
    said = in_words([*files("process 1 (a)", 100), *files("process 2 (b)", 3), loop])
    assert "process 2 (b)" in said
    assert "/dev/loop3: loop device for /srv/image" in said
    assert said.endswith("; and 96 more")


def test_what_could_not_be_looked_at_is_not_passed_over() -> None:
    unseen = Holder(HolderKind.UNSEEN, "memory maps", "it hangs")
    assert in_words([unseen]) == "what could be seen does not hold it; could not be looked at: memory maps (it hangs)"
    assert in_words([*files("process 1 (a)", 1), unseen]) == (
        "held by process 1 (a): open file /srv/0; could not be looked at: memory maps (it hangs)"
    )


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (HolderKind.FILE, "end the processes"),
        (HolderKind.MOUNT, "'umount '/a b''"),
        (HolderKind.NESTED, "umount '/a b'"),
        (HolderKind.OVERLAY, "umount /who"),
        (HolderKind.LOOP, "losetup -d /who"),
        (HolderKind.SWAP, "swapoff '/a b'"),
        (HolderKind.NAMESPACE, "nlmfo release"),
        (HolderKind.EXPORT, "nlmfo release"),
        (HolderKind.LOCKS, "nlmfo release"),
        (HolderKind.BUILT_ON, "lsblk"),
        (HolderKind.UNSEEN, "what hangs"),
    ],
)
def test_the_advice_fits_the_kind(kind: HolderKind, says: str) -> None:
    assert says in advice([Holder(kind, "/who", "/a b")])


def test_every_kind_has_its_words_and_the_same_advice_is_given_once() -> None:
    everything = [Holder(kind, "/who", "/what") for kind in HolderKind]
    assert all(str(holder) for holder in everything)
    assert advice(everything).count("end the processes (") == 1


def test_looking_changes_nothing_for_the_caller(disk: Disk, service: Namespaces) -> None:
    """It enters namespaces; the caller stays where it is, and leaks no descriptor."""

    def standing() -> tuple[Path, Path, Path, int]:
        own = Path("/proc/self")
        return (own / "ns/mnt").readlink(), (own / "ns/net").readlink(), Path.cwd(), len(list((own / "fd").iterdir()))

    before = standing()
    assert str(service.mnt) in str(disk.held())
    assert standing() == before
