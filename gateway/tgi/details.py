"""What a generation becomes in TGI's shapes."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from gateway.generation import Generation
from gateway.tgi.shapes import BestOfSequence, Details, Generated, PrefillToken, StreamDetails, StreamEvent
from gateway.tgi.shapes import Token as Shown
from wire.events import Done, Finish, Token
from wire.tokenizer import Tokenizer


def generated(generation: Generation, done: Done) -> Generated:
    """The whole answer."""
    params = generation.accepted.request.params
    details: Details | UnsetType = UNSET
    if params.details or params.decoder_input_details:
        details = _details(generation, generation.ends(done))
    return Generated(generated_text=generation.text, details=details)


def _details(generation: Generation, ends: tuple[Finish, ...]) -> Details:
    tokens = generation.tokens_of(0)
    others = [_other(generation, choice, end) for choice, end in enumerate(ends[1:], 1)]
    return Details(
        finish_reason=ends[0].finish_reason,
        generated_tokens=ends[0].tokens,
        seed=_seed(generation, ends[0]),
        prefill=prefill(generation),
        tokens=_tokens(generation, tokens),
        best_of_sequences=others or UNSET,
        top_tokens=_tops(generation, tokens),
    )


def _other(generation: Generation, choice: int, end: Finish) -> BestOfSequence:
    tokens = generation.tokens_of(choice)
    return BestOfSequence(
        generated_text=generation.text_of(tokens),
        finish_reason=end.finish_reason,
        generated_tokens=end.tokens,
        seed=_seed(generation, end),
        prefill=prefill(generation),
        tokens=_tokens(generation, tokens),
        top_tokens=_tops(generation, tokens),
    )


def event(
    generation: Generation, token: Token, text: str | None = None, details: StreamDetails | None = None
) -> StreamEvent:
    """A token of a stream; `text` and `details` are the last one's."""
    tokenizer = generation.accepted.tokenizer
    return StreamEvent(
        index=token.index + 1,
        token=shown(tokenizer, token),
        top_tokens=top(tokenizer, token) or UNSET,
        generated_text=text,
        details=details,
    )


def stream_details(generation: Generation, done: Done) -> StreamDetails:
    """How a streamed text ended."""
    end = generation.ends(done)[0]
    return StreamDetails(
        finish_reason=end.finish_reason,
        generated_tokens=end.tokens,
        seed=_seed(generation, end),
        input_length=done.usage.prompt_tokens,
    )


def shown(tokenizer: Tokenizer, token: Token) -> Shown:
    """A token; a special one with its own text, though that is no part of the answer's."""
    text = token.text or (tokenizer.token_text(token.id) if token.special else "")
    return Shown(id=token.id, text=text, logprob=token.logprob, special=token.special)


def top(tokenizer: Tokenizer, token: Token) -> list[Shown]:
    """The likeliest tokens in its place, if they were asked for."""
    return [
        Shown(id=each.id, text=each.text, logprob=each.logprob, special=tokenizer.is_special(each.id))
        for each in token.top or ()
    ]


def prefill(generation: Generation) -> list[PrefillToken]:
    """The prompt's tokens, if they were asked for: the job's first token brings them."""
    scored = generation.tokens[0].prompt if generation.tokens else UNSET
    return [PrefillToken(id=each.id, text=each.text, logprob=each.logprob) for each in scored or ()]


def _tokens(generation: Generation, tokens: list[Token]) -> list[Shown]:
    return [shown(generation.accepted.tokenizer, token) for token in tokens]


def _tops(generation: Generation, tokens: list[Token]) -> list[list[Shown]] | UnsetType:
    if not generation.accepted.job.params.top_n:
        return UNSET
    return [top(generation.accepted.tokenizer, token) for token in tokens]


def _seed(generation: Generation, end: Finish) -> int | None:
    """TGI tells none of a greedy text."""
    return end.seed if generation.accepted.job.params.do_sample else None
