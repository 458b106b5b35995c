# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets nfsd up but for its threads, in the kernel's order: with the first listener it takes no other setting.

It is what rpc.nfsd(8) does first. Until threads run there is no lockd and no grace, and nobody is answered.
"""

from __future__ import annotations

from dataclasses import dataclass

from nlmfo.host import node_listeners
from nlmfo.kernel import lockd_settings, nfsd_settings
from nlmfo.kernel.files import ControlFiles
from nlmfo.kernel.lockd_settings import Setting
from nlmfo.kernel.nfsd_settings import Listener, Time, Versions


@dataclass(frozen=True, slots=True)
class Setup:
    """Versions that are not named stay as they are. ``grace`` is in seconds, None for what is set already."""

    versions: Versions
    listeners: tuple[Listener, ...]
    grace: int | None


def prepare(setup: Setup, *, files: ControlFiles) -> None:
    """Set everything that is not set yet; what an earlier run that was cut short has set up stays."""
    there = nfsd_settings.listeners(files=files)
    if not there:
        _set_versions(setup.versions, files)
        if setup.grace is not None:
            for time in (Time.LEASE, Time.GRACE):  # a lease is as long as the grace, as with rpc.nfsd's defaults
                nfsd_settings.set_seconds(time, setup.grace, files=files)
    for listener in setup.listeners:
        if listener not in there:
            node_listeners.add(listener, files=files)


def set_grace_of_lockd(grace: int | None, *, files: ControlFiles) -> None:
    """The other keeper's: the node has one number for all namespaces, so it is set right before threads are started."""
    if grace is not None:
        lockd_settings.write(Setting.GRACE_PERIOD, grace, files=files)


def _set_versions(versions: Versions, files: ControlFiles) -> None:
    now = nfsd_settings.versions(files=files)
    if not (versions.on <= now.on and versions.off <= now.off):
        nfsd_settings.set_versions(on=versions.on, off=versions.off, files=files)
