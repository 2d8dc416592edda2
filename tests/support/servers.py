"""A Redis of a test's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sagrada.embedded import EmbeddedServer


@contextmanager
def serving(folder: Path, *, aof: bool = False, flags: Sequence[str] = ()) -> Iterator[EmbeddedServer]:
    """A server over that folder; who has stopped it need not start it again."""
    server = EmbeddedServer(folder, aof=aof, flags=flags)
    server.start()
    try:
        yield server
    finally:
        server.stop()
