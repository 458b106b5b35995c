# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell every client that the server restarted, and learn which of them heard it.

One thread, one selector, one UDP socket, a few TCP connections for those who do not answer over UDP. Nothing
here blocks, nothing asks a name service, and the deadline is kept whatever the clients do.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Sequence

from nlmfo.notify import wire
from nlmfo.notify.client import Client, Unusable, parse_client, unusable
from nlmfo.notify.notice import DEFAULTS, Notice, Settings
from nlmfo.notify.sockets import Address, OpenSocket, enlarge_buffers, open_from
from nlmfo.notify.tcp import Streams
from nlmfo.notify.udp import Datagrams

OnNotice = Callable[[Notice], None]


def notify(
    clients: Sequence[str],
    *,
    source: Address,
    names: Sequence[str],
    state: int,
    deadline: float,
    open_socket: OpenSocket = socket.socket,
    on_notice: OnNotice | None = None,
    settings: Settings = DEFAULTS,
) -> tuple[Notice, ...]:
    """Send SM_NOTIFY for each of ``names``, in order and with the same ``state``, to each client.

    ``clients`` are addresses as text. ``source`` is the floating address: a Linux client knows the server by
    the sender's address more often than by the name. ``deadline`` is in seconds from now. ``on_notice`` hears
    of each client as soon as its outcome is known; the result is in the order of ``clients``.

    Raises WireError for a name or a state that cannot be sent, NlmfoError if ``source`` cannot be used.
    """
    messages = tuple(wire.sm_notify(name, state) for name in names)
    if not messages:
        raise wire.WireError("there is no name to send")
    if not clients:
        return ()
    start = time.monotonic()
    with open_from(open_socket, source, socket.SOCK_DGRAM) as udp:
        run = _Run(udp, source, tuple(names), start, on_notice)
        everyone = [run.admit(text) for text in clients]
        reachable = [client for client in everyone if isinstance(client, Client)]
        run.tell(reachable, messages, open_socket, start + deadline, settings)
    return tuple(run.outcome(each) for each in everyone)


class _Run:
    """One call of ``notify``."""

    def __init__(
        self,
        udp: socket.socket,
        source: Address,
        names: tuple[str, ...],
        start: float,
        on_notice: OnNotice | None,
    ) -> None:
        self._udp = udp
        self._source = source
        self._names = names
        self._start = start
        self._on_notice = on_notice or (lambda _: None)
        self._open: dict[Client, None] = {}
        self._told: list[Client] = []

    def admit(self, text: str) -> Client | Notice:
        try:
            client = parse_client(text, self._source, self._udp)
        except Unusable as reason:
            notice = unusable(text, reason)
            self._on_notice(notice)
            return notice
        self._open[client] = None
        return client

    def outcome(self, each: Client | Notice) -> Notice:
        return each.notice(self._names) if isinstance(each, Client) else each

    def tell(
        self,
        clients: list[Client],
        messages: tuple[bytes, ...],
        open_socket: OpenSocket,
        end: float,
        settings: Settings,
    ) -> None:
        """Run until everybody was told or it is ``end``."""
        window = min(settings.window, enlarge_buffers(self._udp, settings.receive_buffer))
        with selectors.DefaultSelector() as selector:
            streams = Streams(
                selector,
                lambda: open_from(open_socket, self._source, socket.SOCK_STREAM),
                messages,
                settings,
                on_told=self._told.append,
            )
            datagrams = Datagrams(
                self._udp,
                clients,
                messages,
                window,
                settings,
                on_silence=streams.want,
                on_told=self._told.append,
            )
            try:
                self._loop(selector, datagrams, streams, end)
            finally:
                streams.close()
        for client in self._open:
            self._report(client)

    def _loop(self, selector: selectors.BaseSelector, datagrams: Datagrams, streams: Streams, end: float) -> None:
        selector.register(self._udp, selectors.EVENT_READ)
        while self._open and (now := time.monotonic()) < end:
            datagrams.expire(now)
            streams.expire(now)
            streams.start(now)
            datagrams.send(now)
            self._watch(selector, datagrams)
            for key, events in selector.select(_shortest(end - now, datagrams.pause(now), streams.pause(now))):
                if key.data is not None:
                    streams.resume(key.data)
                    continue
                if events & selectors.EVENT_WRITE:
                    datagrams.blocked = False
                datagrams.drain(time.monotonic())
            self._settle(datagrams, streams)

    def _watch(self, selector: selectors.BaseSelector, datagrams: Datagrams) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if datagrams.blocked else 0)
        if selector.get_key(self._udp).events != wanted:
            selector.modify(self._udp, wanted)

    def _settle(self, datagrams: Datagrams, streams: Streams) -> None:
        """Close the books of those who were told, by whichever way."""
        for client in self._told:
            if client in self._open:  # it may have been told twice, once over each
                del self._open[client]
                datagrams.forget(client)
                streams.forget(client)
                self._report(client)
        self._told.clear()

    def _report(self, client: Client) -> None:
        client.seconds = time.monotonic() - self._start
        self._on_notice(client.notice(self._names))


def _shortest(*seconds: float | None) -> float:
    return max(0.0, min(value for value in seconds if value is not None))
