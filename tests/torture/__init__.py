# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutual exclusion under torture: real clients lock and count, a nemesis breaks servers, a checker reads the logs.

``workload`` runs on each client and logs every operation; ``nemesis`` moves services, cuts power and cables, kills and
fills; ``checker`` judges from the clients' logs alone; ``mutant`` is nlmfo with one safety step taken out, which the
checker has to catch. ``python -m tests.torture --help`` runs it.
"""
