# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether nfsd can export a directory: asked as exportfs(8) asks, with an entry for nobody whose time is long over.

The kernel judges the directory and its file system (svc_export_parse and check_export in fs/nfsd/export.c) before it
looks at the time, and keeps nothing.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nlmfo.kernel.caches import DIRECTORY
from nlmfo.kernel.files import PROC, ControlFiles, Meaning, explained
from nlmfo.kernel.nfsd import escape

#: The client that exportfs asks for, too: it has to be known, at an address that nobody has, to be asked about.
NOBODY = b"-test-client-"
EVER = 2**31 - 1
#: Seconds since 1970.
LONG_AGO = 3
#: NFSEXP_FSID: a file system without a device can be exported as well.
FSID = 0x2000
USER = 65534

_MEANINGS = {
    errno.ENOENT: Meaning("there is no such directory"),
    errno.ENOTDIR: Meaning("it is not a directory"),
    errno.EINVAL: Meaning("its file system cannot be exported by NFS: the kernel has no file handles for it"),
}


def prove(path: Path, *, files: ControlFiles = PROC) -> None:
    """Raise ControlError when nfsd cannot export ``path``. A kernel without these files is not asked."""
    channels = DIRECTORY / "auth.unix.ip/channel", DIRECTORY / "nfsd.export/channel"
    if not all(map(files.exists, channels)):
        return
    name = escape(os.fsencode(path))
    with explained(f"exporting {path}", _MEANINGS):
        files.write(channels[0], b"nfsd 0.0.0.0 %d %s\n" % (EVER, NOBODY))
        files.write(channels[1], b"%s %s %d %d %d %d 0\n" % (NOBODY, name, LONG_AGO, FSID, USER, USER))
