"""A TCP proxy that can cut its connections, or swallow the replies that carry messages."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading


class Proxy:
    """127.0.0.1:`port` leads to 127.0.0.1:`target`. With `swallow` = n the next n replies that contain `mark` die."""

    def __init__(self, target: int, mark: bytes) -> None:
        self.target, self.mark, self.swallow, self.swallowed = target, mark, 0, 0
        self._links: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.reset()

    def reset(self) -> None:
        """Cut everything, as a failing network does: RST, no goodbye."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                with self._lock:
                    self._links |= {client, server}
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if self.swallow and self.mark in data and source.getpeername()[1] == self.target:
                    self.swallow -= 1
                    self.swallowed += 1
                    break
                sink.sendall(data)
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                link.shutdown(socket.SHUT_RDWR)
            link.close()
            with self._lock:
                self._links.discard(link)
