# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of runs, and what they come to."""

from __future__ import annotations

from enum import StrEnum


class Verb(StrEnum):
    """What a run is for."""

    TAKEOVER = "takeover"
    RELEASE = "release"
    ABORT = "abort"


class Outcome(StrEnum):
    """How a run ended. Of one that was killed there is no word."""

    SERVED = "served"
    RELEASED = "released"
    #: The takeover failed, and nothing of it is left.
    TAKEN_DOWN = "taken down"
    #: Something is left, and ``nlmfo resume`` or ``abort`` has to see to it.
    INCOMPLETE = "incomplete"
    #: Refused or failed before anything was touched.
    UNTOUCHED = "untouched"
