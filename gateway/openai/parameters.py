"""OpenAI's parameters as ours."""

from __future__ import annotations

import msgspec

from gateway.openai.errors import Invalid
from gateway.openai.request import ChatRequest, CompletionRequest, Sampling
from gateway.strict import Quirks
from wire.body import Parameters
from wire.grammar import Grammar

SEEDS = 2**64


def chat_parameters(asked: ChatRequest, grammar: Grammar | None, quirks: Quirks) -> Parameters:
    """Of a chat; Invalid."""
    _check_stream_options(asked)
    if asked.top_logprobs and not asked.logprobs:
        raise Invalid("`top_logprobs` is only allowed when `logprobs` is true.", "top_logprobs")
    most = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    parameters = _parameters(
        asked,
        max_new_tokens=most,
        add_special_tokens=bool(asked.add_special_tokens),  # the template's text has them
        top_n_tokens=asked.top_logprobs if asked.logprobs else None,
        grammar=grammar,
    )
    if quirks.shifted_presence_penalty and asked.presence_penalty is not None:
        shifted = asked.presence_penalty + 2
        return msgspec.structs.replace(parameters, presence_penalty=None, repetition_penalty=shifted)
    return parameters


def completion_parameters(asked: CompletionRequest) -> Parameters:
    """Of a completion; Invalid."""
    _check_stream_options(asked)
    n, best_of = asked.n or 1, asked.best_of or 1
    if asked.best_of is not None and best_of < n:
        raise Invalid(f"`best_of` must be >= `n`. Given: {best_of} for {n}.", "best_of")
    if asked.stream and best_of > n:
        raise Invalid("`best_of` > `n` cannot be streamed: the best is known at the end.", "best_of")
    return _parameters(
        asked,
        max_new_tokens=1 if asked.echo and asked.max_tokens == 0 else asked.max_tokens,
        add_special_tokens=asked.add_special_tokens is not False,
        top_n_tokens=asked.logprobs,
        best_of=best_of if best_of > n else None,
        decoder_input_details=bool(asked.echo) and asked.logprobs is not None,
    )


def _check_stream_options(asked: Sampling) -> None:
    if asked.stream_options is not None and not asked.stream:
        raise Invalid("`stream_options` is only allowed when `stream` is true.", "stream_options")


def _parameters(
    asked: Sampling,
    *,
    max_new_tokens: int | None,
    add_special_tokens: bool,
    top_n_tokens: int | None,
    best_of: int | None = None,
    decoder_input_details: bool = False,
    grammar: Grammar | None = None,
) -> Parameters:
    greedy = asked.temperature == 0 or asked.top_p == 0
    sampled = not greedy
    return Parameters(
        n=asked.n or 1,
        best_of=best_of,
        do_sample=sampled,
        temperature=asked.temperature if sampled else None,
        top_p=asked.top_p if sampled and asked.top_p != 1 else None,
        top_k=asked.top_k if sampled and asked.top_k not in (0, -1) else None,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        logit_bias=asked.logit_bias if isinstance(asked.logit_bias, dict) else None,
        seed=None if asked.seed is None else asked.seed % SEEDS,  # OpenAI's may be negative
        max_new_tokens=max_new_tokens,
        min_new_tokens=asked.min_tokens,
        stop=[asked.stop] if isinstance(asked.stop, str) else asked.stop or [],
        stop_token_ids=asked.stop_token_ids or [],
        include_stop=asked.include_stop_str_in_output,
        ignore_eos=asked.ignore_eos,
        truncate=None if asked.truncate_prompt_tokens == -1 else _length(asked.truncate_prompt_tokens),
        top_n_tokens=top_n_tokens,
        decoder_input_details=decoder_input_details,
        add_special_tokens=add_special_tokens,
        grammar=grammar,
    )


def _length(tokens: int | None) -> int | None:
    if tokens is not None and tokens < 1:
        raise Invalid("`truncate_prompt_tokens` must be -1 or strictly positive.", "truncate_prompt_tokens")
    return tokens
