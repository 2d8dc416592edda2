"""The answer to /v1/completions, whole or streamed: several prompts, several texts of each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from gateway.generation import Generation
from gateway.openai.answer import Answer
from gateway.openai.choice import FINISHED
from gateway.openai.logprobs import LegacyTokens, joined
from gateway.openai.request import CompletionRequest
from gateway.openai.shapes import Completion, CompletionChoice, LegacyLogprobs
from wire.events import Done, Finish, Token
from wire.job import Scored, Usage


class CompletionAnswer(Answer):
    """The texts of the first prompt come first."""

    def __init__(
        self, asked: CompletionRequest, generations: Sequence[Generation], prompts: Sequence[str]
    ) -> None:
        """`prompts`: their texts."""
        super().__init__(asked, generations, "cmpl")
        self._n = asked.n or 1
        self._echoes = prompts if asked.echo else None
        self._top = asked.logprobs
        self._mute = asked.max_tokens == 0
        """Nothing was to be generated, and one token had to be."""
        self._scored: dict[int, Sequence[Scored]] = {}
        """The prompts' tokens."""
        self._begun: dict[int, LegacyTokens] = {}

    def used(self, end: Done) -> Usage:
        """A token that was not asked for is not counted."""
        return Usage.of(end.usage.prompt_tokens, 0) if self._mute else end.usage

    def token(self, place: int, token: Token) -> list[msgspec.Struct]:
        """A chunk, if there is text; with log-probabilities, always."""
        return [self._chunk([choice]) for choice in self._changes(place, token)]

    def last(self, place: int, done: Done) -> list[msgspec.Struct]:
        """Why each text ended."""
        return [
            self._chunk([CompletionChoice(index=index, text="", finish_reason=reason)])
            for index, reason in self._reasons(place, done)
        ]

    def usage_chunk(self) -> msgspec.Struct:
        """As OpenAI's: of no choice."""
        return msgspec.structs.replace(self._chunk([]), usage=self.usage)

    def whole(self) -> msgspec.Struct:
        """All texts."""
        choices = []
        for place, generation in enumerate(self.generations):
            changes = [change for token in generation.tokens for change in self._changes(place, token)]
            for index, reason in self._reasons(place, self.ends[place]):
                choices.append(self._merged(index, reason, [c for c in changes if c.index == index]))
        return msgspec.structs.replace(self._chunk(choices), usage=self.usage)

    def _changes(self, place: int, token: Token) -> list[CompletionChoice]:
        if token.prompt is not UNSET:
            self._scored[place] = token.prompt
        index = place * self._n + token.choice
        changes = [] if index in self._begun else self._begin(index, place)
        if not self._mute and (token.text or self._top is not None):
            logprobs = None if self._top is None else self._begun[index].of([token])
            changes.append(CompletionChoice(index=index, text=token.text, logprobs=logprobs))
        return changes

    def _begin(self, index: int, place: int) -> list[CompletionChoice]:
        """The prompt, if it is to be shown."""
        tokens = LegacyTokens(self.generations[place].accepted.tokenizer, self._top or 0)
        self._begun[index] = tokens
        if self._echoes is None:
            return []
        text = self._echoes[place]
        logprobs = None if self._top is None else tokens.echoed(self._scored.get(place, ()), text)
        return [CompletionChoice(index=index, text=text, logprobs=logprobs)]

    def _reasons(self, place: int, done: Done) -> list[tuple[int, str]]:
        ends: Sequence[Finish] = self.generations[place].ends(done)
        return [(place * self._n + at, FINISHED[end.finish_reason]) for at, end in enumerate(ends)]

    def _merged(self, index: int, reason: str, changes: Sequence[CompletionChoice]) -> CompletionChoice:
        scored: list[LegacyLogprobs] = [change.logprobs for change in changes if change.logprobs]
        return CompletionChoice(
            index=index,
            text="".join(change.text for change in changes),
            logprobs=None if self._top is None else joined(scored),
            finish_reason=reason,
        )

    def _chunk(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            usage=self.no_usage,
        )
