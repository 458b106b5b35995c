# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's resources, one module each: namespaces, partitions, addresses, exports, daemons."""
