# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a server, in each of its processes of nlmfo: a safety step is taken out, and the checker has to notice.

    grace       nfsd is out of grace at once, and nobody reads back whether it is in
    freeze      records are not frozen for a release; what kernels >= 6.4 do to them then is done here by hand (below)
    forgetful   only what those kernels do, with the records frozen: nothing must come of it
    exports     clients are told before anything is exported (the order of 2006)
    proof       who serves, by the owner record and by what can be seen, is not asked
    durability  nothing that nlmfo or its callout writes is brought to the disk before others go on
    fence       a node that was called fenced is on the network when it wakes (in nemesis.py)
    naive       not nlmfo at all: what people script by hand (naive.sh)

A kernel >= 6.4 has statd forget each client when nfsd is stopped. The lab's is older; so the callout is run as statd
would run it, once for each client.
"""

from __future__ import annotations

from typing import Any

NAMES = ("grace", "freeze", "forgetful", "exports", "proof", "durability", "fence", "naive")

#: Not made here: of the nemesis, and a script.
ELSEWHERE = ("fence", "naive")


def apply(name: str) -> None:
    """Change nlmfo in this process; ELSEWHERE is not made here."""
    import nlmfo

    changes = (_grace, _freeze, _forgetful, _exports, _proof, _durability)
    next(change for change in changes if change.__name__ == f"_{name}")()
    nlmfo.__version__ += f" without {name}"


def _put(where: Any, name: str, instead: object) -> None:
    assert hasattr(where, name), f"{where} has no {name}"
    setattr(where, name, instead)


def _grace() -> None:
    from nlmfo.host import own_nfsd
    from nlmfo.kernel import grace, lockd, nfsd

    start = own_nfsd.start

    def started(namespaces: Any, service: Any) -> None:
        start(namespaces, service)
        namespaces.call(nfsd.end_v4_grace)
        namespaces.call(lockd.end_grace)

    _put(own_nfsd, "start", started)
    _put(grace, "on", lambda **_: True)


def _freeze() -> None:
    from nlmfo.failover.netns import NetnsActions

    _put(NetnsActions, "_freeze", lambda self, *_: self._note_connections())
    _forgetful()


def _forgetful() -> None:
    from nlmfo.failover.netns import NetnsActions
    from nlmfo.run import run

    stop = NetnsActions._stop_nfsd

    def stopped(self: NetnsActions, step: Any, limit: Any) -> str:
        clients = self._with_store(self.keeper.on_record, limit)
        said = stop(self, step, limit)
        name = self.namespaces.call(_node_name)
        inside = ("ip", "netns", "exec", f"nlmfo-{self.service.name}")
        for client in clients:
            pin = f"--mount={self.namespaces.directory}/ns/mnt"
            run([*inside, "nsenter", pin, "/run/nlmfo/callout", "del-client", client, name], deadline=30)
        return said

    _put(NetnsActions, "_stop_nfsd", stopped)


def _node_name() -> str:
    import os

    return os.uname().nodename


def _exports() -> None:
    from nlmfo.failover.netns import NetnsActions
    from nlmfo.host import exports

    load, notify = exports.load, NetnsActions._notify
    _put(exports, "load", lambda *_: None)

    def notified(self: NetnsActions, step: Any, limit: Any) -> str:
        said = notify(self, step, limit)
        load(self.namespaces, self.service)
        return said

    _put(NetnsActions, "_notify", notified)


def _proof() -> None:
    from nlmfo.failover.netns import NetnsActions
    from nlmfo.ownership import proof

    def absent(_: str, record: Any, *__: Any, **___: Any) -> proof.Proof:
        return proof.Proof("nobody asks", 1 if record is None else record.epoch + 1)

    _put(proof, "of_absence", absent)
    _put(NetnsActions, "_look_for_another_server", lambda *_: "nobody looks")


def _durability() -> None:
    import os
    from pathlib import Path

    from nlmfo.host import view

    original, changed = view.callout_program().with_name("nlmfo-callout"), Path("/opt/callout-without-sync")
    if original.parent.name == "build":  # the script does the same, and can be changed
        original = original.parent.parent / original.name
    if not changed.exists():
        first, _, rest = original.read_text().partition("\n")
        changed.write_text(f"{first}\nsync() {{ :; }}\n{rest}")
        changed.chmod(0o755)
    _put(view, "callout_program", lambda: changed)
    for name in ("fsync", "fdatasync"):
        _put(os, name, lambda _: None)
