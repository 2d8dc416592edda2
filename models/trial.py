"""A process in which grammars are compiled before they are compiled: nothing else ends one that never comes to an end.

`python -m models.trial TOKENIZER VOCAB_SIZE EOS_ID...` reads grammars from its input and says of each whether it can be
compiled, and how much memory that took. It forks for each, so that the tokenizer is read once. worker/trials.py asks.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from models.grammar import Grammars

MOST_SECONDS, MOST_MEMORY = 3, 256 << 20
"""Of a processor, and in bytes: what compiling one grammar may take."""

SIZE = struct.Struct(">I")
"""Before each grammar."""
VERDICT = struct.Struct(">QI")
"""Before each answer: bytes of memory that were taken, bytes of the sentence to come; none: it can be compiled."""

TOO_MUCH = f"compiling it takes more than {MOST_SECONDS} s or {MOST_MEMORY >> 20} MB: make it smaller"


def answer(grammars: Grammars, source: str, out: BinaryIO) -> None:
    """Say what becomes of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with open(writing, "wb") as told:
            told.write(verdict(grammars, source))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as heard:
        said = heard.read()
    os.waitpid(child, 0)
    out.write(said or told_as(0, TOO_MUCH))
    out.flush()


def verdict(grammars: Grammars, source: str) -> bytes:
    """Compile it within the bounds, beyond which the process is killed."""
    from models.grammar import BadGrammar

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS,) * 2)
    why = ""
    try:
        grammars.compile(source)
    except BadGrammar as error:
        why = str(error)
    except MemoryError:
        why = TOO_MUCH
    return told_as(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), why)


def told_as(memory: int, why: str) -> bytes:
    """One answer."""
    sentence = why.encode()
    return VERDICT.pack(memory, len(sentence)) + sentence


def main(tokenizer: str, vocab_size: str, *eos_ids: str) -> None:
    """Until the input ends, which it does with whoever asks."""
    from models.grammar import Grammars  # whoever asks imports this module too

    grammars = Grammars(Path(tokenizer), int(vocab_size), [*map(int, eos_ids)])
    while head := sys.stdin.buffer.read(SIZE.size):
        answer(grammars, sys.stdin.buffer.read(*SIZE.unpack(head)).decode(), sys.stdout.buffer)


if __name__ == "__main__":
    main(*sys.argv[1:])
