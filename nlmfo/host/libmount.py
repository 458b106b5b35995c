# SPDX-License-Identifier: GPL-2.0-or-later
"""mount(8) and umount(8) without their programs: libmount(3) of util-linux, which is what those consist of.

Starting the two takes longer than all that they do, and clients wait for both. What differs between file systems
stays theirs: helpers such as mount.ocfs2 are run, options and exit texts are those of mount(8).

To be called in a process that can be left behind: a mount of a damaged disk may never return.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from nlmfo.errors import NlmfoError

LIBRARY = "libmount.so.1"
#: Bytes of an error's text that are kept.
TEXT = 1024


class MountFailed(NlmfoError):
    """``number`` is the errno of the system call that failed; 0 when it did not come to that."""

    def __init__(self, doing: str, text: str, number: int) -> None:
        super().__init__(f"{doing}: {text}")
        self.said = text
        self.number = number


def mount(device: Path, target: Path, options: str) -> None:
    """Mount the file system on ``device``, of whatever type it is, with mount(8)'s ``options``. Raises MountFailed."""
    _do(f"mount of {device} on {target}", "mount", source=device, target=target, options=options)


def rehearse_mount(device: Path, target: Path, options: str) -> None:
    """All that ``mount`` does but the system call; nothing is written. What it says does not matter.

    The first mount of a process takes several times as long as the second. It reads the device to tell its type.
    """
    with _context() as (found, context):
        found.mnt_context_enable_fake(context, True)
        found.mnt_context_disable_mtab(context, True)
        for name, value in (("source", device), ("target", target), ("options", options)):
            getattr(found, f"mnt_context_set_{name}")(context, os.fsencode(value))
        found.mnt_context_mount(context)


def umount(target: Path) -> None:
    """Unmount what is on top at ``target``; never lazily, and without looking along the path. Raises MountFailed."""
    _do(f"umount of {target}", "umount", target=target)


@cache
def library() -> ctypes.CDLL:
    """Raises NlmfoError where it is missing."""
    try:
        found = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise NlmfoError(f"{LIBRARY}: {error}", hint="install libmount (util-linux)") from error
    found.mnt_new_context.restype = ctypes.c_void_p
    return found


@contextmanager
def _context() -> Iterator[tuple[ctypes.CDLL, ctypes.c_void_p]]:
    """The library, and what it keeps of one mount or unmount."""
    found = library()
    context = ctypes.c_void_p(found.mnt_new_context())
    try:
        yield found, context
    finally:
        found.mnt_free_context(context)


def _do(doing: str, what: str, **about: object) -> None:
    with _context() as (found, context):
        # What is mounted elsewhere may hang: an unmount needs none of it.
        found.mnt_context_disable_canonicalize(context, what == "umount")
        for name, value in about.items():
            wrong = getattr(found, f"mnt_context_set_{name}")(context, os.fsencode(str(value)))
            if wrong:
                raise MountFailed(doing, os.strerror(-wrong), -wrong)
        result = getattr(found, f"mnt_context_{what}")(context)
        text = ctypes.create_string_buffer(TEXT)
        if found.mnt_context_get_excode(context, result, text, ctypes.c_size_t(TEXT)):
            number = max(0, found.mnt_context_get_syscall_errno(context))
            raise MountFailed(doing, os.fsdecode(text.value) or os.strerror(number or abs(result)), number)
