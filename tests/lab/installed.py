# SPDX-License-Identifier: GPL-2.0-or-later
"""nlmfo on full nodes as an operator installs it: the Debian package of this checkout, by dpkg.

The package is built once for each state of the checkout, and kept in .lab/, named after a digest of what went into it.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.lab.node import Node, Result
from tests.lab.root import CACHE, CHECKOUT

BUILD = CHECKOUT / "contrib/debian/build"
#: Seconds to build the package, on a busy machine, and to install it on a node of the lab.
BUILDING, INSTALLING = 280.0, 180.0


def package() -> Path:
    """The package of the checkout as it is now; beside it is what else came of the build."""
    home = CACHE / f"deb-{_digest()}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "deb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            new = home.with_suffix(".new")
            subprocess.run([BUILD, new], check=True, timeout=BUILDING)
            new.rename(home)
    (found,) = home.glob("nlmfo_*.deb")
    return found


def newer(old: Path, directory: Path) -> Path:
    """The same with a higher version, as an update brings it."""
    tree = directory / "newer"
    subprocess.run(["dpkg-deb", "-R", old, tree], check=True, timeout=60)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:", 1))
    new = directory / "nlmfo-newer.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, new], check=True, timeout=60, capture_output=True)
    shutil.rmtree(tree)
    return new


def install(node: Node, deb: Path | None = None) -> None:
    """Install the package of the checkout, or another one, which has to succeed."""
    chosen = deb or package()
    node.put(chosen.read_bytes(), f"/root/{chosen.name}")
    node.check("dpkg", "-i", f"/root/{chosen.name}", deadline=INSTALLING)


def remove(node: Node) -> Result:
    """Try to remove the package."""
    return node.run("dpkg", "-r", "nlmfo", deadline=INSTALLING)


def _digest() -> str:
    """Of every file that may go into the package."""
    argv = [
        "git",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
        "--",
        ".",
        ":!tests",
    ]
    listed = subprocess.run(argv, cwd=CHECKOUT, check=True, capture_output=True, text=True, timeout=60).stdout
    digest = hashlib.sha256()
    for name in filter(None, listed.split("\0")):
        file = CHECKOUT / name
        if file.is_file():
            digest.update(f"{name} {file.stat().st_mode}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
