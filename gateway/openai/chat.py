"""The answer to a chat, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import UNSET

from gateway.generation import Generation
from gateway.openai.answer import FINGERPRINT, Answer
from gateway.openai.choice import Choice, call_id, markers_of, reason_of
from gateway.openai.logprobs import of_chat
from gateway.openai.request import ChatRequest
from gateway.openai.shapes import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatMessage,
    ChunkChoice,
    Delta,
    FunctionCall,
    FunctionDelta,
    Logprobs,
    ToolCall,
    ToolCallDelta,
)
from gateway.strict import Quirks
from wire.calls import Argued, Called, Piece, Said
from wire.events import Done, Finish, Token
from wire.tools import Format

ROLE = Delta(role="assistant", content="")


class ChatAnswer(Answer):
    """Of one job, with as many texts as were asked for."""

    def __init__(
        self, asked: ChatRequest, generation: Generation, row: Format | None, quirks: Quirks
    ) -> None:
        """`row`: how calls are written, if there may be any."""
        super().__init__(asked, [generation], "chatcmpl", quirks)
        self._generation, self._row, self._quirks = generation, row, quirks
        self._logprobs = bool(asked.logprobs)
        self._markers = markers_of(row, generation.accepted.tokenizer) if row else {}
        self._choices = [self._choice() for _ in range(asked.n or 1)]
        self._begun: set[int] = set()

    def _choice(self) -> Choice:
        return Choice(self._row, self._markers)

    def token(self, place: int, token: Token) -> list[msgspec.Struct]:
        """A chunk for each piece of text or call; with log-probabilities at least one."""
        index = token.choice
        deltas = [self._delta(index, piece) for piece in self._choices[index].feed(token)]
        logprobs = self._scored([token])
        if logprobs and not deltas:
            deltas = [Delta(content="")]
        return [self._chunk(choice) for choice in self._changes(index, deltas, logprobs)]

    def last(self, place: int, done: Done) -> list[msgspec.Struct]:
        """What was held back, and why each text ended."""
        chunks: list[msgspec.Struct] = []
        for index, end in enumerate(self._generation.ends(done)):
            choice = self._choices[index]
            deltas = [self._delta(index, piece) for piece in choice.finish()]
            if not deltas and index not in self._begun:
                self._begun.add(index)
                deltas = [ROLE]
            chunks += [self._chunk(change) for change in self._changes(index, deltas, None)]
            reason = reason_of(end.finish_reason, choice.calls > 0, self._quirks)
            chunks.append(self._chunk(ChunkChoice(index=index, delta=Delta(), finish_reason=reason)))
        return chunks

    def _changes(self, index: int, deltas: list[Delta], logprobs: Logprobs | None) -> Iterable[ChunkChoice]:
        """The role comes with a text's first call or before its first words; log-probabilities with the last delta."""
        if deltas and index not in self._begun:
            self._begun.add(index)
            if deltas[0].tool_calls is UNSET:
                yield ChunkChoice(index=index, delta=ROLE)
            else:
                deltas[0] = msgspec.structs.replace(deltas[0], role="assistant", content=None)
        for at, delta in enumerate(deltas, 1):
            yield ChunkChoice(index=index, delta=delta, logprobs=logprobs if at == len(deltas) else None)

    def _delta(self, index: int, piece: Piece) -> Delta:
        match piece:
            case Said(text):
                return Delta(content=text)
            case Called(at, name):
                call = ToolCallDelta(
                    index=at,
                    id=call_id(self._generation.accepted.job.id, index, at),
                    type="function",
                    function=FunctionDelta(name=name, arguments=""),
                )
            case Argued(at, text):
                call = ToolCallDelta(index=at, function=FunctionDelta(arguments=text))
        return Delta(tool_calls=[call])

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return self._chunk_of([choice])

    def _chunk_of(self, choices: list[ChunkChoice]) -> ChatChunk:
        return ChatChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=FINGERPRINT,
            choices=choices,
            usage=self.no_usage,
        )

    def usage_chunk(self) -> msgspec.Struct:
        """As OpenAI's: of no choice."""
        return msgspec.structs.replace(self._chunk_of([]), usage=self.usage)

    def whole(self) -> msgspec.Struct:
        """All texts."""
        ends = self._generation.ends(self.ends[0])
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=FINGERPRINT,
            choices=[self._whole(index, end) for index, end in enumerate(ends)],
            usage=self.usage,
        )

    def _whole(self, index: int, end: Finish) -> ChatChoice:
        choice, tokens = self._choice(), self._generation.tokens_of(index)
        pieces = [piece for token in tokens for piece in choice.feed(token)] + choice.finish()
        return ChatChoice(
            index=index,
            message=self._message(index, pieces),
            logprobs=self._scored(tokens),
            finish_reason=reason_of(end.finish_reason, choice.calls > 0, self._quirks),
        )

    def _message(self, index: int, pieces: list[Piece]) -> ChatMessage:
        text = "".join(piece.text for piece in pieces if isinstance(piece, Said))
        names = {piece.index: piece.name for piece in pieces if isinstance(piece, Called)}
        arguments = dict.fromkeys(names, "")
        for piece in pieces:
            if isinstance(piece, Argued):
                arguments[piece.index] += piece.text
        if not names:
            return ChatMessage(content=text)
        job_id = self._generation.accepted.job.id
        calls = [
            ToolCall(id=call_id(job_id, index, at), function=FunctionCall(name, arguments[at]))
            for at, name in names.items()
        ]
        return ChatMessage(content=text or None, tool_calls=calls)

    def _scored(self, tokens: list[Token]) -> Logprobs | None:
        """The end of a sequence is no part of the answer, as OpenAI has it."""
        if not self._logprobs:
            return None
        accepted = self._generation.accepted
        shown = [token for token in tokens if token.id not in accepted.model.one.eos_ids]
        return of_chat(accepted.tokenizer, shown) if shown or len(tokens) > 1 else None
