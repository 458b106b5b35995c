# SPDX-License-Identifier: GPL-2.0-or-later
"""What the nodes boot from: a small Debian 12, built once from the distribution's packages.

Light nodes use the tree itself (hostfs, read-only, an overlay in memory above it); full nodes use a disk image made
from it, each through a copy-on-write file of its own. Both live in .lab/ of the checkout, named after a digest of
all that went into them, so a change of the recipe builds anew and everything else starts at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".lab"
LOCK = CHECKOUT / "requirements.lock"

SUITE = "bookworm"
PACKAGES = (
    "corosync",
    "crmsh",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libxml2-utils",
    "nfs-kernel-server",
    "nftables",
    "pacemaker",
    "pcs",
    "procps",
    "python3",
    "python3-pyroute2",
    "python3-pyudev",
    "python3-systemd",
    "python3-venv",
    "resource-agents",
    "systemd-sysv",
    "udev",
)
#: What nlmfo imports at run time; the versions are those of requirements.lock.
RUNTIME = ("inotify-simple", "pyroute2", "pyudev")
#: Documentation and translations: half of the tree, and no node reads them.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
#: What a full node does without: half of its boot went into telling udev of 600 terminals, and into these.
MASKED = (
    "systemd-udev-trigger.service",  # the agent's script asks for what a lab has: disks and a network
    "systemd-logind.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-user-sessions.service",
    "e2scrub_reap.service",
    "nfs-blkmap.service",
    "getty.target",
    "timers.target",
)
IMAGE_SIZE = "1500M"
FULL_NODE_FILES = Path(__file__).parent / "full"


def tree() -> Path:
    """The directory that light nodes boot from; built if it is not there yet."""
    path = CACHE / f"root-{_digest()}"
    with _building(path):
        if not path.exists():
            _say("building the lab's Debian tree (once, about a minute)")
            _build_tree(path)
    return path


def image() -> Path:
    """The disk image that full nodes boot from; built if it is not there yet."""
    source = tree()
    path = CACHE / f"{source.name}.ext4"
    with _building(path):
        if not path.exists():
            _say("building the disk image of the full nodes (once, some seconds)")
            _build_image(source, path)
    return path


def _digest() -> str:
    parts = [Path(__file__).read_bytes(), *(f"{line}\n".encode() for line in _runtime_pins())]
    parts += [file.read_bytes() for file in sorted(FULL_NODE_FILES.iterdir())]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def _runtime_pins() -> list[str]:
    return [line for line in LOCK.read_text().splitlines() if line.partition("==")[0] in RUNTIME]


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """One builder at a time, also among several test runs of the checkout."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_tree(path: Path) -> None:
    wheels = CACHE / "wheels"
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), *_runtime_pins())
    new = path.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    include = f"--include={','.join(PACKAGES)}"
    _run("mmdebstrap", "-q", "--mode=root", "--variant=minbase", *excluded, include, SUITE, str(new))
    for directory in ("lab/share", "lab/checkout", "lab/registry", "usr/lib/modules", "srv", "tmp/wheels"):
        (new / directory).mkdir(parents=True, exist_ok=True)
    for wheel in wheels.glob("*.whl"):
        shutil.copy(wheel, new / "tmp/wheels")
    _inside(new, "python3", "-m", "venv", "--system-site-packages", "/opt/nlmfo")
    _inside(new, "/opt/nlmfo/bin/pip", "install", "-q", "-I", "--no-index", "-f", "/tmp/wheels", *RUNTIME)
    shutil.rmtree(new / "tmp/wheels")
    for file in FULL_NODE_FILES.iterdir():
        shutil.copy(file, new / ("etc/systemd/system" if file.suffix == ".service" else "lab"))
    _inside(new, "systemctl", "enable", "lab-agent.service")
    _inside(new, "systemctl", "mask", *MASKED)
    # A test that wants a cluster makes one, and none has pcs's daemons.
    cluster = ("corosync.service", "pacemaker.service", "pcsd.service", "pcsd-ruby.service")
    _inside(new, "systemctl", "disable", *cluster)
    with (new / "etc/fstab").open("a") as fstab:
        # Before the first mount that needs a module.
        before = "x-systemd.before=proc-fs-nfsd.mount,x-systemd.before=systemd-modules-load.service"
        fstab.write(f"none /usr/lib/modules hostfs /usr/lib/uml/modules,ro,{before} 0 0\n")
    new.rename(path)


def _build_image(source: Path, path: Path) -> None:
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(source), str(new), IMAGE_SIZE)
    new.rename(path)


def _inside(root: Path, *argv: str) -> None:
    _run("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "chroot", str(root), *argv)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"'{' '.join(argv)}' ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _say(text: str) -> None:
    print(f"lab: {text} ...", file=sys.stderr, flush=True)
