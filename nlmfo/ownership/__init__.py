# SPDX-License-Identifier: GPL-2.0-or-later
"""Who serves a service: the owner record, its epoch, and the proof that nobody else does."""
