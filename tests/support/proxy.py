"""A TCP proxy on this machine: cut it, stall it, turn it to another server, have it swallow replies or speak TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path

TLS = Path(__file__).parent / "tls"
CERTIFICATE = TLS / "certificate.pem"
"""What a client of a proxy with TLS is to trust."""


class Proxy:
    """127.0.0.1:`port` leads to 127.0.0.1:`target`. With `swallow` = n the next n replies that contain `mark` die."""

    def __init__(self, target: int, mark: bytes = b"", *, tls: bool = False) -> None:
        """With `tls` clients have to speak it; the target never hears of it."""
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if self._tls:
            self._tls.load_cert_chain(CERTIFICATE, TLS / "key.pem")
        self.target, self.mark, self.swallow, self.swallowed = target, mark, 0, 0
        self._links: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.reset()
        self.go_on()

    def reset(self) -> None:
        """Cut everything, as a failing network does: RST, no goodbye. What was stalled is lost."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            _cut(link)

    def stall(self) -> None:
        """Forward nothing more; connections stay open."""
        self._flowing.clear()

    def go_on(self) -> None:
        """Forward again, what waited first."""
        self._flowing.set()

    def turn_to(self, target: int) -> None:
        """Lead somewhere else from now on; open connections are cut."""
        self.target = target
        self.reset()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            if self._tls:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:  # as if it were the server that refused
            _cut(client)
            return
        with self._lock:
            self._links |= {client, server}
        threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
        self._pump(client, server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if self.swallow and self.mark in data and source.getpeername()[1] == self.target:
                    self.swallow -= 1
                    self.swallowed += 1
                    break
                self._flowing.wait()
                sink.sendall(data)
        for link in (source, sink):
            _cut(link)
            with self._lock:
                self._links.discard(link)


def _cut(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.shutdown(socket.SHUT_RDWR)
    link.close()
