# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a server: follows a service's grace period and the locks that are held meanwhile.

Usage: grace_watch.py SERVICE DIRECTORY

Enters the service's network and mount namespaces, and prints one JSON object per line when something has changed while
nfsd runs there:
    {"in_grace": ["lockd", "nfsd"], "locks": [[inode, first, last, exclusive], ...], "at": monotonic seconds}
in_grace: which of the two keepers of a grace period is in it still. The locks are those of NFS clients on the file
system of DIRECTORY, last is -1 for end of file. They are read after in_grace: what is there then was there when grace
ended, or was granted after it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import time
from pathlib import Path

PAUSE = 0.1
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
_LOCK = re.compile(r"\d+: POSIX +ADVISORY +(READ|WRITE) +(\d+) +([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)")


def enter(service: str) -> bool:
    """Into the namespaces, if they are there; they are pinned one after the other."""
    libc = ctypes.CDLL(None, use_errno=True)
    pins = ((f"/run/netns/nlmfo-{service}", CLONE_NEWNET), (f"/run/nlmfo/{service}/ns/mnt", CLONE_NEWNS))
    for pin, kind in pins:
        try:
            descriptor = os.open(pin, os.O_RDONLY)
        except OSError:
            return False
        entered = libc.setns(descriptor, kind) == 0
        os.close(descriptor)
        if not entered:
            return False
    return True


def in_grace() -> list[str] | None:
    """Who is; None while no nfsd runs."""
    try:
        if int(Path("/proc/fs/nfsd/threads").read_text()) == 0:
            return None
        ended = {"lockd": Path("/proc/fs/lockd/nlm_end_grace"), "nfsd": Path("/proc/fs/nfsd/v4_end_grace")}
        return [keeper for keeper, file in ended.items() if not file.read_text().startswith("Y")]
    except (OSError, ValueError):
        return None


def locks(directory: Path) -> list[list[int | bool]]:
    device = directory.stat().st_dev
    lockds = {entry.parent.name for entry in Path("/proc").glob("[0-9]*/comm") if is_lockd(entry)}
    found: list[list[int | bool]] = []
    for kind, pid, major, minor, inode, first, last in _LOCK.findall(Path("/proc/locks").read_text()):
        if pid in lockds and os.makedev(int(major, 16), int(minor, 16)) == device:
            found.append([int(inode), int(first), -1 if last == "EOF" else int(last), kind == "WRITE"])
    return sorted(found)


def is_lockd(comm: Path) -> bool:
    try:
        return comm.read_text() == "lockd\n"
    except OSError:
        return False


def main(service: str, directory: Path) -> None:
    print(json.dumps({"ready": True}), flush=True)
    while not enter(service):
        time.sleep(PAUSE)
    said = None
    while True:
        keepers = in_grace()
        if keepers is not None:
            found = {"in_grace": keepers, "locks": locks(directory)}
            if found != said:
                print(json.dumps(found | {"at": time.monotonic()}), flush=True)
                said = found
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
