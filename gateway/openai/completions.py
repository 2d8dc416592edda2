"""The answer to /v1/completions, whole or streamed: several prompts, several texts of each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from gateway.generation import Generation
from gateway.openai.answer import FINGERPRINT, Answer
from gateway.openai.choice import reason_of
from gateway.openai.errors import Invalid
from gateway.openai.logprobs import LegacyTokens, joined
from gateway.openai.request import CompletionRequest
from gateway.openai.shapes import Completion, CompletionChoice, LegacyLogprobs
from gateway.strict import Quirks
from wire.events import Done, Finish, Token
from wire.job import FinishReason, Scored, Usage
from wire.tokenizer import Tokenizer

SUFFIX = "Suffix is not supported and can be achieved by preprocessing the prompt."
TOO_MANY = "Number of prompts exceeds the maximum allowed batch size of {}"
"""TGI's sentences."""


class CompletionAnswer(Answer):
    """The texts of the first prompt come first."""

    def __init__(self, asked: CompletionRequest, generations: Sequence[Generation], quirks: Quirks) -> None:
        super().__init__(asked, generations, "cmpl", quirks)
        self._quirks = quirks
        self._n = asked.n or 1
        self._echo = bool(asked.echo)
        self._top = asked.logprobs
        self._mute = asked.max_tokens == 0
        """Nothing was to be generated, and one token had to be."""
        self._open = "" if quirks.finish_reasons else None
        """What is said of a text that has not ended."""
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
            for index, reason in self._reasons(place, done, streamed=True)
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
            changes.append(
                CompletionChoice(index=index, text=token.text, logprobs=logprobs, finish_reason=self._open)
            )
        return changes

    def _begin(self, index: int, place: int) -> list[CompletionChoice]:
        """The prompt, if it is to be shown."""
        tokens = LegacyTokens(self.generations[place].accepted.tokenizer, self._top or 0)
        self._begun[index] = tokens
        if not self._echo:
            return []
        text = self.generations[place].accepted.prompt
        logprobs = None if self._top is None else tokens.echoed(self._scored.get(place, ()), text)
        return [CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=self._open)]

    def _reasons(self, place: int, done: Done, streamed: bool = False) -> list[tuple[int, str]]:
        ends: Sequence[Finish] = self.generations[place].ends(done)
        return [
            (place * self._n + at, self._reason(end.finish_reason, streamed)) for at, end in enumerate(ends)
        ]

    def _reason(self, given: FinishReason, streamed: bool) -> str:
        raw = streamed and self._quirks.finish_reasons
        return given if raw else reason_of(given, False, self._quirks)

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
            system_fingerprint=FINGERPRINT,
            choices=choices,
            usage=self.no_usage,
        )


def prompts_of(asked: CompletionRequest, most: int, tokenizer: Tokenizer) -> list[str | list[int]]:
    """The prompts, at most so many: texts, or token ids that the tokenizer knows; Invalid."""
    if asked.suffix is not None:
        raise Invalid(SUFFIX, "suffix", "unsupported_parameter")
    given = asked.prompt
    if isinstance(given, str):
        return [given]
    if not given:
        raise Invalid("Invalid 'prompt': empty array.", "prompt", "empty_array")
    ids = [entry for entry in given if isinstance(entry, int)]
    prompts: list[str | list[int]] = [entry for entry in given if not isinstance(entry, int)]
    if len({type(entry) for entry in given}) > 1:
        raise Invalid(
            "Invalid type for 'prompt': texts and token ids cannot be mixed.", "prompt", "invalid_type"
        )
    prompts = [ids] if ids else prompts
    if len(prompts) > most:
        raise Invalid(TOO_MANY.format(most), "prompt", "array_above_max_length")
    for prompt in prompts:
        if not isinstance(prompt, str) and not 0 <= max(prompt, default=-1) < tokenizer.vocab_size:
            raise Invalid(f"Invalid 'prompt': token ids are below {tokenizer.vocab_size}.", "prompt")
    return prompts
