# SPDX-License-Identifier: GPL-2.0-or-later
"""What survives a takeover: who may hold locks, and the state number that tells clients to reclaim them."""
