# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel offers, looked at where nothing is disturbed by it.

nfsd's files show only where its file system is mounted. On a node without an NFS server of its own that is nowhere,
so they are looked at in throwaway network and mount namespaces, as a service's own will be.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nlmfo.child import in_child
from nlmfo.errors import NlmfoError
from nlmfo.kernel import capabilities, nfsd, syscalls
from nlmfo.kernel.capabilities import Capability
from nlmfo.run import run

#: Seconds for a module to load, and for all questions.
LOAD = 20.0
ASK = 30.0


def of_kernel() -> tuple[Capability, ...]:
    """Every interface that nlmfo knows. Loads nfsd's module if that has not been done. Takes root."""
    if (nfsd.CONTROL / "threads").exists():
        return capabilities.survey()
    with suppress(NlmfoError):  # it may be built in; or missing, which the answers show
        run(["modprobe", "nfsd"], deadline=LOAD)
    return in_child("looking at the kernel's interfaces", _in_throwaway_namespaces, deadline=ASK)


def _in_throwaway_namespaces() -> tuple[Capability, ...]:
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
    syscalls.mount("none", Path("/"), "none", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with suppress(OSError):  # the answers show that it is not there
        syscalls.mount("nfsd", nfsd.CONTROL, "nfsd")
    return capabilities.survey()
