# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo udev SERVICE``: a rule for udev(7) that starts the service's unit on a node where its disk appears.

For disks that one node sees at a time, as a promoted DRBD device or a LUN that is handed over. It decides nothing: the
unit's takeover is refused like any other where nothing proves that nobody else serves.
"""

from __future__ import annotations

from nlmfo.config import Config, Service
from nlmfo.errors import NlmfoError


def rules(config: Config, service: Service) -> str:
    """The file. NlmfoError without a registry: nobody would be there to give his word."""
    if config.registry is None:
        raise NlmfoError(
            f"service '{service.name}': without a registry a takeover needs somebody's word, and udev has none to give",
            hint="set [cluster] registry to a directory that all nodes see",
        )
    lines = [
        f"# nlmfo service '{service.name}', from {service.file}, by 'nlmfo udev {service.name}': a disk that appears",
        "# has systemd take the service over here, if nothing speaks against it.",
    ]
    lines += [_rule(service.name, partition.uuid) for partition in service.partitions]
    return "\n".join(lines)


def _rule(service: str, uuid: str) -> str:
    match = f'ACTION!="remove", SUBSYSTEM=="block", ENV{{ID_FS_UUID}}=="{uuid}"'
    return f'{match}, TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="nlmfo@{service}.service"'
