# SPDX-License-Identifier: GPL-2.0-or-later
"""SM_NOTIFY to every client: a sender of our own.

sm-notify will not send from an address without reverse DNS, loses replies in its own socket buffer once a
few hundred clients answer, and tells nobody who was reached. This one asks no name service, keeps no more
calls in flight than it can hear the answers of, and accounts for each client.

wire    bytes                     sender    notify(): the loop and the account
udp     the datagrams             client    one client's way to being told
tcp     the way round a filter    ping      null_call(): does a program answer?
names   what to send as our name  smnotify  sm_notify(): the same by sm-notify, where that is wanted
"""

from nlmfo.notify.names import names_for
from nlmfo.notify.notice import Notice, Outcome, Settings
from nlmfo.notify.ping import NotServing, null_call, tcp_port
from nlmfo.notify.sender import notify
from nlmfo.notify.wire import WireError

__all__ = ["NotServing", "Notice", "Outcome", "Settings", "WireError", "names_for", "notify", "null_call", "tcp_port"]
