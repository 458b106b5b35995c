# SPDX-License-Identifier: GPL-2.0-or-later
"""ext4's multi-mount protection: who else has a file system mounted for writing, by its own word on the disk.

A node that has the file system mounted writes a new sequence number to one block every few seconds, and a special one
when it unmounts. So a clean block is an answer at once, and anything else is watched for two intervals, 11 to 21 s as
a rule: it changes, or its writer is gone (fs/ext4/mmp.c, lib/ext2fs/mmp.c). Read-only mounts leave no trace there, and
two nodes that mount in the same instant may both find it clean: this is evidence against, never proof for.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from nlmfo.errors import CommandFailed, DeadlineExceeded, NlmfoError, Refused
from nlmfo.run import run

#: Seconds for reading two blocks.
QUICK = 20.0
#: lib/ext2fs/ext2_fs.h, EXT4_MMP_SEQ_CLEAN, _FSCK and _MAX.
CLEAN = 0xFF4D4D50
CHECKED = 0xE24D4D50
LAST = 0xE24D4D4F
#: e2mmpstatus(8): not safe to mount; and some other failure.
IN_USE = 1
NOT_PROTECTED = "MMP feature not enabled"
#: What libext2fs says of a device with another file system on it, or none.
NOT_EXT = "Bad magic number in super-block"
SUPERBLOCK, MAGIC, INCOMPAT_MMP = 1024, 0xEF53, 0x100
ACTIVE = "MMP: device currently active"
UNDER_CHECK = "MMP: e2fsck being run"
SAFE = "it is safe to mount"
#: What `e2mmpstatus -i` prints (misc/dumpe2fs.c, print_mmp_block). Names come last: none can pose as a sequence.
_BLOCK = re.compile(
    r"MMP_block:\n +mmp_magic: \S+\n +mmp_check_interval: ([0-9]+)\n +mmp_sequence: (?:0x)?([0-9a-f]+)\n"
    r" +mmp_update_date: .*\n +mmp_update_time: .*\n +mmp_node_name: (.*)\n"
)


@dataclass(frozen=True, slots=True)
class Block:
    """The block as it is on the disk: seconds between two looks at it, its sequence number, who wrote it last."""

    interval: int
    sequence: int
    node: str


def holder(device: Path, *, deadline: float = 60) -> str | None:
    """The name of the node that has the file system on ``device`` mounted; None when no node has.

    None as well where nothing is protected: the file system is not ext4, or has no ``mmp`` feature. A clean one takes
    milliseconds, one whose owner died at least 11 s; ``deadline`` is in seconds. It does not know this node from any
    other: ask first whether the device is free here. Raises Refused (``fsck-running``), DeadlineExceeded, and
    NlmfoError when what is on the disk cannot be understood.
    """
    block = read(device)
    if block is None or block.sequence == CLEAN:
        return None
    if block.sequence == CHECKED:
        raise _under_check(device, block)
    if block.sequence > LAST:
        raise _not_understood(device, f"the sequence number {block.sequence:#x} means nothing known")
    if not _changes(device, block, deadline):
        return None
    return (read(device) or block).node


def read(device: Path) -> Block | None:
    """The block as it is now; None when the file system has none."""
    if _is_ext_without(device):
        return None
    try:
        said = run(["e2mmpstatus", "-i", device], deadline=QUICK)
    except CommandFailed as error:
        if NOT_PROTECTED in error.stderr or NOT_EXT in error.stderr:
            return None
        raise _not_understood(device, error.stderr.strip()) from error
    found = _BLOCK.match(said)
    if found is None:  # e2mmpstatus ends with 0 all the same
        raise _not_understood(device, "the block that would tell is damaged")
    interval, sequence, node = found.groups()
    return Block(int(interval), int(sequence, 16), _printable(node))


def _is_ext_without(device: Path) -> bool:
    """Whether this is an ext4 file system without the feature: no need to start a program to be told so.

    From struct ext4_super_block (fs/ext4/ext4.h): 1024 bytes in, with s_magic and s_feature_incompat.
    """
    try:
        with device.open("rb") as file:
            file.seek(SUPERBLOCK)
            block = file.read(SUPERBLOCK)
    except OSError:
        return False
    if len(block) < SUPERBLOCK or struct.unpack_from("<H", block, 0x38) != (MAGIC,):
        return False
    (incompatible,) = struct.unpack_from("<I", block, 0x60)
    return not incompatible & INCOMPAT_MMP


def _changes(device: Path, block: Block, deadline: float) -> bool:
    """Whether somebody writes to the block while e2mmpstatus watches it."""
    try:
        said = run(["e2mmpstatus", device], deadline=deadline)
    except CommandFailed as error:
        if error.returncode == IN_USE and ACTIVE in error.stderr:
            return True
        if error.returncode == IN_USE and UNDER_CHECK in error.stderr:
            raise _under_check(device, block) from error
        raise _not_understood(device, error.stderr.strip()) from error
    except DeadlineExceeded as error:
        raise _too_slow(device, block, deadline) from error
    if SAFE not in said:
        raise _not_understood(device, f"e2mmpstatus says {said.strip()!r}")
    return False


def _under_check(device: Path, block: Block) -> Refused:
    return Refused(
        "fsck-running",
        f"{device}: e2fsck is checking it, on {block.node} (ext4 multi-mount protection)",
        hint=f"wait for its end; if it was cut off and {block.node} is down: 'tune2fs -f -E clear_mmp {device}', "
        f"then 'e2fsck {device}'",
    )


def _too_slow(device: Path, block: Block, deadline: float) -> DeadlineExceeded:
    # lib/ext2fs/mmp.c, ext2fs_mmp_start
    needed = min(2 * block.interval + 1, block.interval + 60)
    return DeadlineExceeded(
        f"{device}: whether another node has it mounted (ext4 multi-mount protection)",
        deadline,
        hint=f"it takes {needed} s or more at this file system's check interval of {block.interval} s; "
        f"'tune2fs -E mmp_update_interval=5 {device}', unmounted, makes it short for the next time",
    )


def _not_understood(device: Path, what: str) -> NlmfoError:
    return NlmfoError(
        f"{device}: cannot tell whether another node has it mounted (ext4 multi-mount protection): {what}",
        hint=f"see what 'e2mmpstatus {device}' says; if no node has it mounted for certain: 'e2fsck {device}'",
    )


def _printable(name: str) -> str:
    """Any node can write anything there, and it ends up on a terminal."""
    return (name if name.isprintable() else ascii(name)) or "a node without a name"
