# SPDX-License-Identifier: GPL-2.0-or-later
"""What each command does: call the library, print lines or JSON, return an exit status.

A module each for commands that need the same of the library, imported when one of them is run: to import all of it
takes longer than most commands.
"""
