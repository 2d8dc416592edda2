"""What an answer over HTTP needs of one generation: its tokens, its end, and the headers that tell of it."""

from __future__ import annotations

import time

from gateway import errors
from gateway.admission import Accepted
from gateway.service import LEAVING
from gateway.stream import SSE
from wire.events import Cancelled, Done, Expired, Failed, Finish, Terminal, Token
from wire.record import Record

GONE_AWAY = Failed(seq=0, error=LEAVING, error_type="overloaded")
DELETED = Cancelled(seq=0)


class Generation:
    """What an answer needs of a job, gathered as its events come."""

    def __init__(self, accepted: Accepted, began: float) -> None:
        """`began`: when the request came, monotonic seconds."""
        self.accepted, self.began = accepted, began
        self.validation = time.monotonic() - began
        self.tokens: list[Token] = []
        """Of all choices."""

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.text_of(self.tokens_of(0))

    def tokens_of(self, choice: int) -> list[Token]:
        """Its tokens in order; the likeliest choice is the first."""
        return [token for token in self.tokens if token.choice == choice]

    def text_of(self, tokens: list[Token]) -> str:
        """Their text, the prompt before it if that was asked for."""
        prompt = self.accepted.prompt if self.accepted.request.params.return_full_text else ""
        return prompt + "".join([token.text for token in tokens])

    def ends(self, done: Done) -> tuple[Finish, ...]:
        """How each choice ended; the usage counts those that were not chosen, too."""
        only = Finish(finish_reason=done.finish_reason, seed=done.seed, tokens=len(self.tokens))
        return done.choices or (only,)


def failure(end: Terminal, stream: bool = False) -> tuple[int, bytes]:
    """(HTTP status, TGI's body) for a generation that ended without success; in a stream, some have other words."""
    match end:
        case Failed(error=error, error_type=kind):
            status = errors.FAILED_STATUS.get(kind, 500)
            return status, errors.body(errors.PREFIX.get(kind, "") + error, kind)
        case Expired():
            return 424, errors.body(errors.PREFIX["generation"] + errors.EXPIRED, "generation")
    if stream:
        return 500, errors.body("Incomplete generation stream", "incomplete_generation_stream")
    return 500, errors.body("Incomplete generation", "incomplete_generation")


def compute_type(accepted: Accepted) -> str:
    """TGI's x-compute-type."""
    return f"{accepted.model.one.device or 'cpu'}+optimized"


def headers(generation: Generation, done: Done, record: Record | None) -> dict[str, str]:
    """TGI's x-* headers of a whole answer, which count the chosen text alone; times in ms but for x-compute-time.

    The record tells queue from work.
    """
    total = time.monotonic() - generation.began
    queued = (record.started - record.created) / 1000 if record else 0.0
    inference = (record.finished - record.started) / 1000 if record else total
    characters, tokens = len(generation.accepted.prompt), generation.ends(done)[0].tokens
    return {
        "x-compute-type": compute_type(generation.accepted),
        "x-compute-time": f"{total:.6f}",
        "x-compute-characters": str(characters),
        "x-total-time": str(round(total * 1000)),
        "x-validation-time": str(round(generation.validation * 1000)),
        "x-queue-time": str(round(queued * 1000)),
        "x-inference-time": str(round(inference * 1000)),
        "x-time-per-token": str(round(inference * 1000 / max(1, tokens))),
        "x-prompt-tokens": str(done.usage.prompt_tokens),
        "x-generated-tokens": str(tokens),
        "x-request-id": generation.accepted.job.id,
    }


def stream_headers(accepted: Accepted) -> dict[str, str]:
    """TGI's headers of a stream."""
    return SSE | {
        "x-compute-type": compute_type(accepted),
        "x-compute-characters": str(len(accepted.prompt)),
        "x-request-id": accepted.job.id,
    }
