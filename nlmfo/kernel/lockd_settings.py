# SPDX-License-Identifier: GPL-2.0-or-later
"""lockd's settings, /proc/sys/fs/nfs (fs/lockd/svc.c). They are those of the whole node, in every namespace.

They appear when lockd is loaded. What is set counts from the next grace period, or the next start of lockd, on: a
grace period that is under way keeps its length.
"""

from __future__ import annotations

import errno
from enum import StrEnum
from pathlib import Path

from nlmfo.errors import NlmfoError
from nlmfo.kernel.files import PROC, ControlFiles, Meaning, explained

DIRECTORY = Path("/proc/sys/fs/nfs")
#: A grace period of 0 stands for so many times nlm_timeout.
DEFAULT_TIMEOUTS = 5


class Setting(StrEnum):
    """The settings, by the names of their files."""

    GRACE_PERIOD = "nlm_grace_period"
    TIMEOUT = "nlm_timeout"
    TCP_PORT = "nlm_tcpport"
    UDP_PORT = "nlm_udpport"
    USE_HOSTNAMES = "nsm_use_hostnames"
    LOCAL_STATE = "nsm_local_state"


#: What the kernel takes, in seconds, as a port (0: any), as no or yes, as a number.
RANGES = {
    Setting.GRACE_PERIOD: (0, 240),
    Setting.TIMEOUT: (3, 20),
    Setting.TCP_PORT: (0, 65535),
    Setting.UDP_PORT: (0, 65535),
    Setting.USE_HOSTNAMES: (0, 1),
    Setting.LOCAL_STATE: (0, 2**32 - 1),
}
NOT_THERE = Meaning("lockd is not loaded", "'modprobe lockd' loads it")


def read(setting: Setting, *, files: ControlFiles = PROC) -> int:
    """What a setting is."""
    with explained(f"reading {setting}", {errno.ENOENT: NOT_THERE}):
        return int(files.read(DIRECTORY / setting))


def write(setting: Setting, value: int, *, files: ControlFiles = PROC) -> None:
    """Change a setting, and read it back: kernels before 5.1 ignore a number that they do not take."""
    low, high = RANGES[setting]
    outside = Meaning(f"the kernel takes {low} to {high}")
    doing = f"setting {setting} to {value}"
    with explained(doing, {errno.ENOENT: NOT_THERE, errno.EINVAL: outside}):
        files.write(DIRECTORY / setting, b"%d\n" % value)
    found = read(setting, files=files)
    if found != value:
        raise NlmfoError(f"{doing}: the kernel reported success, but it reads {found}", hint=outside.why)


def next_grace(*, files: ControlFiles = PROC) -> int:
    """Seconds that lockd's next grace period will last: rounded up to a multiple of nlm_timeout.

    Kernels with a lockd netlink family (6.15 and later) may have another length set by it for a namespace.
    """
    return grace_of(read(Setting.GRACE_PERIOD, files=files), read(Setting.TIMEOUT, files=files))


def grace_of(period: int, timeout: int) -> int:
    """Seconds that a grace period really lasts (get_lockd_grace_period)."""
    return -(-period // timeout) * timeout if period else DEFAULT_TIMEOUTS * timeout
