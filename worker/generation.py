"""One claimed job in flight: its tokens as events, its texts, and how it ends. No Redis, no engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import monotonic

import msgspec
from msgspec import UNSET, UnsetType

from wire.commands import Entry, entry
from wire.events import Done, Failed, Finish, Terminal, Token
from wire.job import Completion, Job, Result, Scored, Usage, choice_seed
from wire.replies import Claimed, Poisoned
from wire.tokenizer import Tokenizer
from worker.candidate import Candidate, likeliest


class Generation:
    """Keeps every token until the end: a Redis that lost writes gets them again from here.

    Of candidates that are ranked nothing is told before all have ended: then the best are, together with the end, so
    that a job that is interrupted begins anew.
    """

    def __init__(
        self, claimed: Claimed | Poisoned, job: Job, tokenizer: Tokenizer, eos_ids: Collection[int]
    ) -> None:
        """`job` is the claimed one with its prompt's ids. If earlier attempts completed it, `end` is there at once."""
        self.job = job
        self.attempt = claimed.attempt
        self.claim = claimed.claim
        self.deadline = claimed.deadline if isinstance(claimed, Claimed) else 0
        """Redis time in ms."""
        age, begun = (claimed.age, claimed.begun) if isinstance(claimed, Claimed) else (0, 0)
        self.submitted, self.begun = monotonic() - age / 1000, monotonic() - begun / 1000
        """When it was submitted and first claimed: by Redis's clock, told in this process's."""
        self.silent = not claimed.tokens
        """Whether no token of it has come yet."""
        self.prompt = job.ids or ()
        self.entries: list[Entry] = [entry(token) for token in claimed.tokens]
        self.sent = len(self.entries)
        """Entries that the log holds."""
        self.end: Terminal | None = None
        self._best: list[Entry] = []
        self._tokenizer = tokenizer
        self._scores: tuple[Scored, ...] | UnsetType = UNSET
        self.candidates = [
            Candidate(choice_seed(job.params.seed, number), tokenizer, self.prompt, job.params, eos_ids)
            for number in range(job.params.candidates)
        ]
        for token in claimed.tokens:
            self.candidates[token.choice].replay(token)
        if all(candidate.finish for candidate in self.candidates):
            self._complete()

    @property
    def unsent(self) -> list[Entry]:
        """Tokens that the log does not hold yet."""
        return self.entries[self.sent :]

    @property
    def unlogged(self) -> int:
        """How many tokens those are."""
        return len(self.entries) - self.sent

    @property
    def tail(self) -> list[Entry]:
        """Tokens to be written with the end."""
        return self._best or self.unsent

    @property
    def usage(self) -> Usage:
        """Tokens read and generated so far, by all candidates."""
        return Usage.of(len(self.prompt), sum(len(candidate.tokens) for candidate in self.candidates))

    @property
    def unscored(self) -> bool:
        """Whether the engine is to say how likely the prompt is: the log's first token tells what it said once."""
        return self.job.params.prompt_logprobs and not self.entries and self._scores is UNSET

    def score(self, logprobs: Sequence[float]) -> None:
        """How likely each of the prompt's tokens is, from the second on."""
        scores = zip(self.prompt, (None, *logprobs), strict=True)
        self._scores = tuple(Scored(id, self._tokenizer.token_text(id), logprob) for id, logprob in scores)

    def push(self, choice: int, id: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> bool:
        """The next token of a choice from the engine, and the likeliest in its place; whether it ends the choice.

        What the engine ran ahead of the end is dropped.
        """
        candidate = self.candidates[choice]
        if self.end or candidate.finish:
            return True
        likely = tuple(Scored(each, self._tokenizer.token_text(each), its) for each, its in top)
        token = candidate.push(choice, id, logprob, likely or UNSET)
        if not self.job.params.ranked:
            self.entries.append(self._entry(token, len(self.entries), choice))
        if all(each.finish for each in self.candidates):
            self._complete()
        return candidate.finish is not None

    def fail(self, error: str, error_type: str = "generation") -> None:
        """End as failed, unless it has ended."""
        if not self.end:
            self.end = Failed(seq=len(self.entries), error=error, error_type=error_type, usage=self.usage)

    @property
    def result(self) -> Result | None:
        """What a completed job produced."""
        if not isinstance(self.end, Done):
            return None
        first, *more = [candidate.completion for candidate in self._kept]
        return Result(
            text=first.text,
            finish_reason=first.finish_reason,
            seed=first.seed,
            usage=self.end.usage,
            choices=(first, *more) if more else (),
        )

    @property
    def _kept(self) -> list[Candidate]:
        params = self.job.params
        return likeliest(self.candidates, params.n) if params.ranked else self.candidates

    def _complete(self) -> None:
        kept = self._kept
        ends = [candidate.completion for candidate in kept]
        if self.job.params.ranked:
            best = [(token, choice) for choice, candidate in enumerate(kept) for token in candidate.tokens]
            self._best = [self._entry(token, seq, choice) for seq, (token, choice) in enumerate(best)]
        self.end = Done(
            seq=len(self._best or self.entries),
            finish_reason=ends[0].finish_reason,
            seed=ends[0].seed,
            usage=self.usage,
            choices=tuple(map(_finish, ends)) if len(ends) > 1 else (),
        )

    def _entry(self, token: Token, seq: int, choice: int) -> Entry:
        """The token at that place of the job's stream; the first one tells of the prompt."""
        token = msgspec.structs.replace(token, seq=seq, choice=choice)
        return entry(token if seq else msgspec.structs.replace(token, prompt=self._scores))


def _finish(end: Completion) -> Finish:
    return Finish(finish_reason=end.finish_reason, seed=end.seed, tokens=end.tokens)
