"""Asks models/trial.py whether a grammar can be compiled, in bounded time and memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

from models.trial import SIZE, VERDICT


class Verdict(NamedTuple):
    """Of one grammar."""

    memory: int
    """Bytes that compiling it took."""
    why: str
    """What is wrong with it; empty: nothing."""


class Trials:
    """The process, which ends with this one. For one thread."""

    def __init__(self, tokenizer: Path, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._command = [
            sys.executable,
            "-m",
            "models.trial",
            str(tokenizer),
            str(vocab_size),
            *map(str, eos_ids),
        ]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        # Its complaints may have a client's grammar in them.
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def of(self, source: str) -> Verdict:
        """What becomes of the grammar; BrokenPipeError if the process cannot be made to answer."""
        if self._process.poll() is not None:
            self.close()
            self._process = self._start()
        asked, told = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        data = source.encode()
        asked.write(SIZE.pack(len(data)) + data)
        asked.flush()
        head = told.read(VERDICT.size)
        if len(head) < VERDICT.size:
            raise BrokenPipeError("the process in which grammars are tried has ended")
        memory, length = VERDICT.unpack(head)
        return Verdict(memory, told.read(length).decode())

    def close(self) -> None:
        """End it."""
        with self._process as process:
            process.kill()
