"""One text of a job: its tokens, and how likely they were."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import UnsetType

from wire.events import Token
from wire.job import Completion, FinishReason, SamplingParams, Scored
from wire.text import TextStream
from wire.tokenizer import Tokenizer


class Candidate:
    """Keeps all of its tokens; `seq` in them is of no meaning yet."""

    def __init__(
        self,
        seed: int,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        params: SamplingParams,
        eos_ids: Collection[int],
    ) -> None:
        self.seed = seed
        self.allowed = 0
        """Tokens that the engine has been told it may have."""
        self.heard = 0.0
        """When its last token came, monotonic seconds; 0: none has come to this process."""
        self.tokens: list[Token] = []
        self.ids: list[int] = []
        self._text = TextStream(tokenizer, prompt, params, eos_ids)

    @property
    def finish(self) -> FinishReason | None:
        """Why it ended; None: it goes on."""
        return self._text.finish

    @property
    def likelihood(self) -> float:
        """The mean of its tokens' log-probabilities, by which TGI ranks."""
        return sum(token.logprob or 0.0 for token in self.tokens) / max(1, len(self.tokens))

    @property
    def completion(self) -> Completion:
        """What it came to, once it has ended."""
        assert self.finish, "the text has ended"
        return Completion(
            text=self._text.text, finish_reason=self.finish, seed=self.seed, tokens=len(self.tokens)
        )

    def push(self, choice: int, id: int, logprob: float, top: tuple[Scored, ...] | UnsetType) -> Token:
        """The next token."""
        piece, index = self._text.push(id), len(self.ids)
        token = Token(
            seq=index,
            index=index,
            id=id,
            text=piece.text,
            logprob=logprob,
            special=piece.special,
            choice=choice,
            top=top,
        )
        self._keep(token)
        return token

    def replay(self, token: Token) -> None:
        """One that was delivered before."""
        if not self.finish:
            self._text.push(token.id)
            self._keep(token)

    def _keep(self, token: Token) -> None:
        self.ids.append(token.id)
        self.tokens.append(token)


def likeliest(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best, the likeliest first; of equals the first."""
    return sorted(candidates, key=lambda each: -each.likelihood)[:count]
