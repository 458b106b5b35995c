# SPDX-License-Identifier: GPL-2.0-or-later
"""crmsh and pcs of Debian 12 understand the lines of docs/pacemaker.md, and make the same configuration of them.

They work on a file in place of a cluster, in the lab's Debian tree but on this machine's kernel, which is faster. What
the tree does not have (the fence agent, DRBD) has a stand-in here, with the parameters that the real one has.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tests import documentation
from tests.lab import pacemaker, root

#: Seconds for all lines of one shell, on a busy machine.
DEADLINE = 300.0
#: What asks a cluster that runs, and is no configuration.
LIVE = ("crm_mon", "crm_resource --resource home --cleanup", "crm_resource --resource home --refresh")
#: An empty cluster of the guide's two nodes.
NODES = '<nodes><node id="1" uname="server-a"/><node id="2" uname="server-b"/></nodes>'
STAND_IN = """#!/bin/sh
cat << 'END'
<resource-agent name="stand-in"><version>1.1</version><longdesc lang="en"/><shortdesc lang="en"/>
<parameters>{}</parameters>
<actions>
<action name="start" timeout="240s"/><action name="stop" timeout="100s"/>
<action name="promote" timeout="90s"/><action name="demote" timeout="90s"/><action name="notify" timeout="90s"/>
<action name="monitor" interval="10s" timeout="20s" role="Promoted"/>
<action name="monitor" interval="20s" timeout="20s" role="Unpromoted"/>
<action name="on"/><action name="off"/><action name="reboot"/><action name="status"/><action name="metadata"/>
</actions></resource-agent>
END
"""
PARAMETER = '<parameter name="{}"><longdesc lang="en"/><shortdesc lang="en"/><content type="string"/></parameter>'
STAND_INS = {
    "usr/sbin/fence_ipmilan": ("ip", "username", "password", "lanplus"),
    "usr/lib/ocf/resource.d/linbit/drbd": ("drbd_resource",),
}
#: Runs a script ($3) in the tree ($1), above which there is what is below $2, and memory for what is written.
IN_TREE = """mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/up /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$2:$1,upperdir=/mnt/up,workdir=/mnt/work" /mnt/root
mount -t proc proc /mnt/root/proc
mount --bind /dev /mnt/root/dev
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb chroot /mnt/root sh -euc "$3"
"""
#: Says what went wrong, and where.
TRY = (
    """try() { "$@" > /tmp/said 2>&1 || { echo "$*:"; cat /tmp/said; exit 1; } >&2; }
cibadmin --empty | sed 's|<nodes/>|"""
    + NODES
    + """|' > /tmp/cib.xml
"""
)


@pytest.fixture
def over(tmp_path: Path) -> Path:
    """The agent, the stand-ins, and the nodes' names."""
    files = {path: STAND_IN.format("".join(map(PARAMETER.format, names))) for path, names in STAND_INS.items()}
    files[pacemaker.AGENT.lstrip("/")] = (root.CHECKOUT / "contrib/ocf/nlmfo").read_text()
    files["etc/hosts"] = "10.10.0.1 server-a\n10.10.0.2 server-b\n"
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    return tmp_path


def in_tree(over: Path, script: str) -> str:
    argv = ["unshare", "--mount", "sh", "-euc", IN_TREE, "sh", str(root.tree()), str(over), script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def typed(*programs: str) -> Iterator[str]:
    """The guide's lines for these programs, in order, with what goes on in a next line, and without remarks."""
    for block in documentation.blocks(pacemaker.GUIDE):
        for line in re.sub(r"\s*\\\n\s*", " ", block.text).splitlines():
            command = re.sub(r"\s+# .*", "", line.strip())
            if command.split(" ")[0] in programs and not command.startswith(LIVE):
                yield command


def made_by_crmsh(over: Path) -> Element:
    lines = list(typed("crm", "crm_resource"))
    # One crmsh for all of its lines, and what needs none after that: a home to work on is there by then.
    own = "\n".join(line.removeprefix("crm ") for line in lines if line.startswith("crm "))
    rest = "\n".join(f"try {line}" for line in lines if not line.startswith("crm "))
    script = (
        f"{TRY}export CIB_file=/tmp/cib.xml\ncat > /tmp/lines << 'END'\n{own}\nEND\ntry crm --file /tmp/lines\n{rest}"
    )
    return ElementTree.fromstring(in_tree(over, f"{script}\ncat /tmp/cib.xml"))


def made_by_pcs(over: Path) -> tuple[Element, str]:
    """The configuration, and that of Corosync."""
    (setup, *rest) = typed("pcs")
    lines = "".join(f"try pcs -f /tmp/cib.xml {line.removeprefix('pcs ')}\n" for line in rest)
    said = in_tree(over, f"{TRY}try {setup} --corosync_conf /tmp/conf\n{lines}cat /tmp/conf /tmp/cib.xml")
    conf, start, cib = said.partition("<cib ")
    return ElementTree.fromstring(start + cib), conf


def resources(cib: Element) -> dict[str, dict[str, str]]:
    """Each primitive's parameters and meta attributes, but for what an operator changes."""
    found = {}
    for primitive in cib.iter("primitive"):
        pairs = {str(pair.get("name")): str(pair.get("value")) for pair in primitive.iter("nvpair")}
        pairs.pop("revision", None)
        found[str(primitive.get("id"))] = pairs | {"type": str(primitive.get("type"))}
    return found


def constraints(cib: Element) -> set[frozenset[tuple[str, str]]]:
    """Without their names, and without what is so by default."""
    names = ("rsc", "with-rsc", "with-rsc-role", "first", "first-action", "then", "node", "score")
    return {
        frozenset((name, str(each.get(name))) for name in names if each.get(name) not in (None, "start"))
        for kind in ("rsc_location", "rsc_colocation", "rsc_order")
        for each in cib.iter(kind)
    }


def timeouts(cib: Element) -> dict[str, str]:
    (home,) = (each for each in cib.iter("primitive") if each.get("id") == "home")
    wanted = ("start", "stop", "monitor")
    return {str(op.get("name")): str(op.get("timeout")) for op in home.iter("op") if op.get("name") in wanted}


@pytest.mark.timeout(900)
def test_crmsh_and_pcs_make_the_same_of_the_guides_lines(over: Path) -> None:
    by_crmsh = made_by_crmsh(over)
    by_pcs, corosync = made_by_pcs(over)
    assert resources(by_crmsh) == resources(by_pcs)
    assert resources(by_crmsh).keys() == {"power-a", "power-b", "home", "drbd-home", "vg-home"}
    assert constraints(by_crmsh) == constraints(by_pcs)
    assert len(constraints(by_crmsh)) == 6
    assert timeouts(by_crmsh) == timeouts(by_pcs) == {"start": "300s", "stop": "300s", "monitor": "60s"}
    for line in ("cluster_name: nfs", "transport: knet", "crypto_cipher: aes256", "two_node: 1"):
        assert line in corosync
        assert line in pacemaker.corosync_conf()
