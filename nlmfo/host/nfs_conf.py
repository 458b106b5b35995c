# SPDX-License-Identifier: GPL-2.0-or-later
"""What nfs.conf(5) says, as nfs-utils' own reader has it: included files, nfs.conf.d, and however keys are written."""

from __future__ import annotations

from nlmfo.run import run

QUICK = 10.0
#: nfsconf(8) --get: the key is not set, or there is no nfs.conf.
NOT_SET = 1
#: What conf_get_bool() of nfs-utils takes for true, and for false; anything else is neither.
TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


def get(section: str, key: str) -> str | None:
    """The value of a key, None where it is not set. Raises NlmfoError where nfsconf(8) is not installed."""
    return run(["nfsconf", "--get", section, key], deadline=QUICK, ok=(0, NOT_SET)).strip() or None


def says(section: str, key: str, words: frozenset[str]) -> bool:
    """Whether a key is set to one of ``words``, TRUE or FALSE."""
    return (get(section, key) or "").lower() in words
