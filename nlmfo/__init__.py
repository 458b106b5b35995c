# SPDX-License-Identifier: GPL-2.0-or-later
"""nlmfo: NFSv3 locks that survive the move of a floating-IP service to another node."""

__version__ = "0.1.0"
