# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the namespaces of a service are pinned as files: network, mount and UTS (see nlmfo.host.namespaces).

/run/netns/nlmfo-NAME       network
/run/nlmfo/NAME/ns/mnt      mount (the directory is a private mount: a mount namespace cannot be pinned elsewhere)
/run/nlmfo/NAME/ns/uts      UTS
"""

from __future__ import annotations

from pathlib import Path

from nlmfo.host import mounts

#: What the services keep on this node while they are served here, each in a directory with its name.
RUN = Path("/run/nlmfo")
NETNS = Path("/run/netns")


def net(service: str) -> Path:
    return NETNS / f"nlmfo-{service}"


def mnt(service: str) -> Path:
    return RUN / service / "ns/mnt"


def uts(service: str) -> Path:
    return RUN / service / "ns/uts"


def all_there(service: str) -> bool:
    """Whether each of the namespaces is pinned, and can be entered."""
    return all(mounts.at(pin) is not None for pin in _of(service))


def any_there(service: str) -> bool:
    """Whether anything of them is left on this node."""
    return any(mounts.at(pin) is not None for pin in _of(service))


def _of(service: str) -> tuple[Path, Path, Path]:
    return net(service), mnt(service), uts(service)
