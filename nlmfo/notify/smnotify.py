# SPDX-License-Identifier: GPL-2.0-or-later
"""Notices by sm-notify of nfs-utils, for those who want it, with an account of each client all the same.

sm-notify(8) begins by renaming every record in its directory, and removes each whose client has answered. Ours may
only go when a client is back or has left, and the callout goes on writing them. So it gets a directory of its own::

    DIRECTORY/notify/       root's, 0755, made anew each time and removed afterwards
      sm/                   statd's, empty: sm-notify drops to the owner of this one (CVE-2019-3689)
      sm.bak/               statd's: a record for each client; gone when the client has answered
      state                 our NSM state number, which sm-notify -n sends as it is

The records in it are formed here, not copied: with none that it can read, sm-notify ends lockd's grace period and
reports success (nfs-utils, utils/statd/sm-notify.c).

What else is known of it from its source and from running it: without -d its exit status means nothing; with ``-v NAME``
it binds to the first address that NAME resolves to, which need not be the one that was meant; with ``-v ADDRESS`` it
sends the name that the address resolves to, and nothing at all if there is none. It sends NAME and its short form.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import IO

from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.notify.notice import Notice, Outcome
from nlmfo.notify.sender import OnNotice
from nlmfo.notify.sockets import Address
from nlmfo.plain import plain
from nlmfo.records.directory import Directory
from nlmfo.records.layout import CURRENT, EARLIER, STATE, client_is_safe, format_record
from nlmfo.run import ENVIRONMENT, KILL, run

#: Makes the command line that runs a program where the service is (nlmfo.host.surroundings).
Command = Callable[..., Sequence[str]]

SCRATCH = "notify"
#: Seconds between two looks at what is left, if the kernel tells nothing of it.
LOOK = 0.5
#: Seconds that are waited for more answers after one, so that a thousand do not cost a thousand looks.
GATHER = 0.02
#: Seconds for the name service to say what the name resolves to.
RESOLVE = 5.0
#: The longest line of sm-notify's that is of interest, in bytes, and how many of the last ones an error shows.
LINE = 512
LAST = 3
_CANONICAL = re.compile(r"Canonical name for my_name '.*': (\S+)")
_NO_STATD = re.compile(r"No statd on host (\S+)")
_UNRESOLVED = re.compile(r"DNS resolution of (\S+) failed")
