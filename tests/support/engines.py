"""An engine child, and what it has said so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from models.step import LoadSpec
from wire.job import SamplingParams
from worker.launcher import EngineProcess
from worker.link import (
    Abort,
    Admit,
    FromEngine,
    LoadFailed,
    Progress,
    PromptScored,
    Ready,
    SequenceFailed,
    Stepped,
)

DEADLINE = 60.0
"""Seconds that any wait may last; the machine may be busy."""


class Talk:
    """A parent as small as can be."""

    def __init__(self, process: EngineProcess) -> None:
        self.process = process
        self.ready: Ready | None = None
        self.progress: list[Progress] = []
        self.load_failed: str | None = None
        self.tokens: dict[int, list[int]] = {}
        self.failed: dict[int, SequenceFailed] = {}
        self.scores: dict[int, list[float]] = {}
        self.left: list[int] = []
        self.steps: list[Stepped] = []

    def admit(
        self,
        seq: int,
        prompt: Sequence[int],
        count: int,
        output: list[int] | None = None,
        scored: bool = False,
        **params: Any,
    ) -> None:
        given = SamplingParams(max_new_tokens=count, seed=1, **params)
        self.tokens[seq] = list(output or [])
        self.process.link.send(
            Admit(seq=seq, prompt=list(prompt), output=output or [], params=given, prompt_logprobs=scored)
        )

    def abort(self, seq: int) -> None:
        self.process.link.send(Abort(seq=seq))

    def listen(self, condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Take in frames until the condition holds; TimeoutError."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("the engine did not say what was expected")
            self.process.link.flush()
            self.process.link.wait(0.1)
            for frame in self.process.link.receive():
                self.hear(frame)

    def hear(self, frame: FromEngine) -> None:
        match frame:
            case Ready():
                self.ready = frame
            case Progress():
                self.progress.append(frame)
            case LoadFailed(error=error):
                self.load_failed = error
            case SequenceFailed(seq=seq):
                self.failed[seq] = frame
            case PromptScored(seq=seq, logprobs=logprobs):
                assert seq not in self.scores, "a prompt is scored once"
                self.scores[seq] = logprobs
            case Stepped():
                self.steps.append(frame)
                self.left += frame.left
                for output in frame.outputs:
                    self.tokens[output.seq].append(output.id)

    def finish(self, *seqs: int) -> None:
        """Listen until these have left or failed."""
        self.listen(lambda: set(seqs) <= {*self.left, *self.failed})


@contextmanager
def engine(model_id: str = "scripted", *, patience: float = 30.0, **spec: Any) -> Iterator[Talk]:
    """A ready engine; dead afterwards, whatever happens."""
    with EngineProcess.start(LoadSpec(model_id=model_id, **spec), patience=patience) as process:
        talk = Talk(process)
        talk.listen(lambda: talk.ready is not None)
        yield talk
