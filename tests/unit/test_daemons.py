# SPDX-License-Identifier: GPL-2.0-or-later
"""Which programs make up a service, and which versions of NFS they are told to leave out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nlmfo.host.daemons import programs, unwanted, unwanted_by_nfsd
from tests.unit import shapes


@pytest.mark.parametrize(
    ("versions", "off"),
    [(("3",), ("4",)), (("4",), ("3",)), (("4.2",), ("3",)), (("3", "4"), ()), (("3", "4.1"), ())],
)
def test_versions_that_are_not_wanted_are_switched_off(versions: tuple[str, ...], off: tuple[str, ...]) -> None:
    assert unwanted(replace(shapes.service(), versions=versions)) == off


def test_an_nfsv3_service_answers_only_when_all_of_its_programs_do() -> None:
    names = [program.name for program in programs(shapes.service())]
    assert names == ["rpcbind", "rpc.statd", "rpc.mountd", "nfsd", "lockd"]


def test_the_program_numbers_are_the_registered_ones() -> None:
    numbers = {program.name: (program.number, program.version) for program in programs(shapes.service())}
    assert numbers == {
        "rpcbind": (100000, 2),
        "rpc.statd": (100024, 1),
        "rpc.mountd": (100005, 3),
        "nfsd": (100003, 3),
        "lockd": (100021, 4),
    }


@pytest.mark.parametrize(
    ("versions", "off"),
    [
        (("3",), ("4",)),
        (("3", "4"), ()),
        (("4",), ("3",)),
        (("3", "4.1"), ("4.0", "4.2")),
        (("4.1", "4.2"), ("3", "4.0")),
    ],
)
def test_nfsd_serves_no_minor_version_that_is_not_listed(versions: tuple[str, ...], off: tuple[str, ...]) -> None:
    assert unwanted_by_nfsd(replace(shapes.service(), versions=versions)) == off
