# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's interfaces, one module each. They act on the namespaces of the calling process."""
