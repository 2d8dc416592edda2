"""TGI's request body, with TGI's checks in TGI's order and words: the same code before the queue and behind it.

Where TGI and this page differ, on purpose: a generation is not cut into legs of 1,024 tokens, so `max_new_tokens` is
taken as it stands and refused if it does not fit. Without it, as with TGI, a text may be as long as the model allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from wire.body import GenerateRequest, MalformedRequest, Parameters, from_call, from_mapping, parse
from wire.errors import TooLong, ValidationError
from wire.grammar import Grammar, of_tgi
from wire.job import MAX_PRIORITY, MIN_PRIORITY, MOST_CHOICES, Job, SamplingParams, new_seed

__all__ = [
    "TGI",
    "Bounds",
    "Encode",
    "GenerateRequest",
    "MalformedRequest",
    "Parameters",
    "RequestLimits",
    "fit",
    "from_call",
    "from_mapping",
    "parse",
    "resolve",
    "to_job",
]

Encode: TypeAlias = Callable[[str, bool], Sequence[int]]
"""From text to token ids; whether the special tokens that the model expects are added."""

LEG = 1024
"""New tokens that TGI looks for room for; it begins anew after so many."""
MAX_TTL = 7 * 24 * 3600.0
MAX_STOP_CHARS = 1024
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024
BYTES_PER_TOKEN = 32
"""A text longer than this many bytes for each token allowed is refused unread: no tokenizer is that good."""
NO_WATERMARK = (
    "`watermark` is not enabled for this model: start its workers with WATERMARK_GAMMA, 0.5 for TGI's"
)
_F32_MAX = 3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an API takes, whatever the model."""

    stop_sequences: int = 4
    best_of: int = 2
    top_n_tokens: int = 5
    cut_to_fit: bool = False
    """Whether a `max_new_tokens` above LEG is cut to what fits, as TGI does, and not refused."""


TGI = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What a served model takes, through an API."""

    max_input_tokens: int
    max_total_tokens: int
    watermark: bool = False
    """Whether there is one."""
    bounds: Bounds = TGI

    @property
    def max_input_bytes(self) -> int:
        """Longest text that is tokenised at all."""
        return self.max_input_tokens * BYTES_PER_TOKEN


def to_job(
    request: GenerateRequest,
    limits: RequestLimits,
    *,
    job_id: str,
    model: str,
    encode: Encode | None,
    stream: bool = False,
    tenant: str = "",
    gateway: str = "",
) -> Job:
    """The job that the request asks for; ValidationError says what is wrong with it.

    Without `encode` the prompt goes along as text, and the worker settles the token budget with `fit`.
    `stream`: TGI's further checks for its streaming route.
    """
    params, inputs = resolve(request, limits, stream=stream), request.inputs
    job = Job(
        id=job_id,
        model=model,
        params=params,
        inputs=inputs if isinstance(inputs, str) else None,
        truncate=request.params.truncate,
        add_special_tokens=request.params.add_special_tokens,
        priority=request.priority,
        ttl=request.ttl,
        start_ttl=request.start_ttl,
        tenant=tenant,
        gateway=gateway,
        open_ended=request.params.max_new_tokens is None
        or (limits.bounds.cut_to_fit and params.max_new_tokens > LEG),
    )
    if not isinstance(inputs, str):
        return fit(job, inputs, limits)
    return job if encode is None else fit(job, encode(inputs, job.add_special_tokens), limits)


def fit(job: Job, ids: Sequence[int], limits: RequestLimits) -> Job:
    """The job with its prompt's ids (the last `truncate` of them) and a token budget that holds; ValidationError."""
    ids = tuple(ids[-job.truncate :] if job.truncate else ids)
    new = job.params.max_new_tokens
    if job.open_ended:
        new = max(0, min(new, limits.max_total_tokens - len(ids)))
    if len(ids) + new > limits.max_total_tokens:
        raise TooLong(
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {len(ids)} `inputs` tokens and {new} `max_new_tokens`",
            len(ids),
            new,
            limits.max_total_tokens,
        )
    if len(ids) > limits.max_input_tokens or new == 0:
        most = min(limits.max_input_tokens, limits.max_total_tokens - 1)
        sentence = f"`inputs` must have less than {most} tokens. Given: {len(ids)}"
        raise TooLong(sentence, len(ids), new, limits.max_total_tokens)
    return msgspec.structs.replace(
        job,
        ids=ids,
        inputs=None,
        truncate=None,
        add_special_tokens=True,
        params=msgspec.structs.replace(job.params, max_new_tokens=new),
        open_ended=False,
    )


def resolve(request: GenerateRequest, limits: RequestLimits, *, stream: bool = False) -> SamplingParams:
    """Every check that needs no tokenizer, and the parameters with nothing left open; ValidationError."""
    p = request.params
    _check_best_of(p, limits, stream)
    _check_sampling(p)
    _check_lengths(p, limits)
    _check_request(request, limits)
    _require(limits.watermark or not p.watermark, NO_WATERMARK)
    _check_supported(p)
    best_of = max(1, p.best_of or 1)
    return SamplingParams(
        max_new_tokens=limits.max_total_tokens if p.max_new_tokens is None else p.max_new_tokens,
        seed=new_seed() if p.seed is None else p.seed,
        do_sample=p.sampling,
        temperature=_or(p.temperature, 1.0),
        top_k=p.top_k or 0,
        top_p=_or(p.top_p, 1.0),
        typical_p=_or(p.typical_p, 1.0),
        min_p=_or(p.min_p, 0.0),
        repetition_penalty=_or(p.repetition_penalty, 1.0),
        frequency_penalty=_or(p.frequency_penalty, 0.0),
        presence_penalty=_or(p.presence_penalty, 0.0),
        stop=tuple(p.stop),
        stop_token_ids=tuple(dict.fromkeys(p.stop_token_ids)),
        include_stop=p.include_stop,
        ignore_eos=p.ignore_eos,
        min_new_tokens=p.min_new_tokens or 0,
        logit_bias=_logit_bias(p.logit_bias or {}),
        top_n=p.top_n_tokens or 0,
        prompt_logprobs=p.decoder_input_details,
        n=p.n or (best_of if p.details or p.decoder_input_details else 1),
        best_of=best_of,
        grammar=p.grammar if isinstance(p.grammar, Grammar | None) else of_tgi(p.grammar),
        watermark=p.watermark,
    )


def _check_best_of(p: Parameters, limits: RequestLimits, stream: bool) -> None:
    best_of = 1 if p.best_of is None else p.best_of
    if stream:
        _require(best_of == 1, "`best_of` != 1 is not supported when streaming tokens")
        _require(
            not p.decoder_input_details,
            "`decoder_input_details` == true is not supported when streaming tokens",
        )
    _require(best_of <= 1 or limits.bounds.best_of > 1, "`best_of` != 1 is not allowed for this endpoint")
    _require(
        best_of <= limits.bounds.best_of,
        f"`best_of` must be > 0 and <= {limits.bounds.best_of}. Given: {best_of}",
    )
    _require(best_of <= 1 or p.sampling, "you must use sampling when `best_of` is > 1")
    n = 1 if p.n is None else p.n
    _require(0 < n <= MOST_CHOICES, f"`n` must be > 0 and <= {MOST_CHOICES}. Given: {n}")
    _require(best_of <= 1 or n <= best_of, f"`n` must be <= `best_of`. Given: {n} of {best_of}")


def _check_sampling(p: Parameters) -> None:
    # Each test is written so that NaN, which msgpack can carry, fails it.
    _require(0 < _f32(p.temperature) <= _F32_MAX, "`temperature` must be strictly positive")
    _require(0 < _f32(p.repetition_penalty) <= _F32_MAX, "`repetition_penalty` must be strictly positive")
    _require(-2 <= _or(p.frequency_penalty, 0.0) <= 2, "`frequency_penalty` must be >= -2.0 and <= 2.0")
    _require(-2 <= _or(p.presence_penalty, 0.0) <= 2, "`presence_penalty` must be >= -2.0 and <= 2.0")
    _require(p.top_p is None or 0 < _f32(p.top_p) < 1, "`top_p` must be > 0.0 and < 1.0")
    _require(p.typical_p is None or 0 < _f32(p.typical_p) < 1, "`typical_p` must be > 0.0 and < 1.0")
    _require(0 <= _or(p.min_p, 0.0) < 1, "`min_p` must be >= 0.0 and < 1.0")
    _require(p.top_k is None or p.top_k > 0, "`top_k` must be strictly positive")


def _check_lengths(p: Parameters, limits: RequestLimits) -> None:
    _require(p.max_new_tokens != 0, "`max_new_tokens` must be strictly positive")
    least, most = p.min_new_tokens or 0, p.max_new_tokens
    _require(most is None or least <= most, "`min_new_tokens` must be <= `max_new_tokens`")
    count = len(p.stop)
    _require(
        count <= limits.bounds.stop_sequences,
        f"`stop` supports up to {limits.bounds.stop_sequences} stop sequences. Given: {count}",
    )
    _require(
        all(0 < len(text) <= MAX_STOP_CHARS for text in p.stop),
        f"`stop` sequences must have between 1 and {MAX_STOP_CHARS} characters",
    )
    count = len(p.stop_token_ids)
    _require(
        count <= MAX_STOP_TOKEN_IDS,
        f"`stop_token_ids` supports up to {MAX_STOP_TOKEN_IDS} token ids. Given: {count}",
    )
    _require(p.seed is None or _or(p.best_of, 1) <= 1, "`seed` must not be set when `best_of` > 1")
    _require(p.seed is None or p.seed < 2**64, "`seed` must be < 2^64")
    _require(
        p.grammar is None or not p.ignore_eos,
        "`ignore_eos` must not be set with `grammar`: the text ends with its grammar",
    )
    top_n = p.top_n_tokens or 0
    _require(
        top_n <= limits.bounds.top_n_tokens,
        f"`top_n_tokens` must be >= 0 and <= {limits.bounds.top_n_tokens}. Given: {top_n}",
    )


def _check_request(request: GenerateRequest, limits: RequestLimits) -> None:
    truncate = request.params.truncate
    _require(bool(request.inputs), "`inputs` cannot be empty")
    _require(
        truncate is None or 0 < truncate <= limits.max_input_tokens,
        f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. Given: {truncate}",
    )
    text = request.inputs if isinstance(request.inputs, str) else ""
    _require(
        all(map(_is_unicode, (text, *request.params.stop))),
        "`inputs` and `stop` must be valid Unicode, without lone surrogates",
    )
    size = len(text.encode())
    _require(
        size <= limits.max_input_bytes,
        f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {size} bytes of text, which are more "
        f"than {limits.max_input_bytes}",
    )
    _require(
        MIN_PRIORITY <= request.priority <= MAX_PRIORITY,
        f"`priority` must be >= {MIN_PRIORITY} and <= {MAX_PRIORITY}. Given: {request.priority}",
    )
    _require(
        0 < request.ttl <= MAX_TTL, f"`ttl` must be > 0 and <= {MAX_TTL:.0f} seconds. Given: {request.ttl}"
    )
    _require(
        0 <= request.start_ttl <= MAX_TTL,
        f"`start_ttl` must be >= 0 and <= {MAX_TTL:.0f} seconds. Given: {request.start_ttl}",
    )


def _check_supported(p: Parameters) -> None:
    """What TGI serves and Sagrada does not yet is refused, never ignored."""
    _require(p.adapter_id is None, "`adapter_id` is not supported yet: leave it out")


def _logit_bias(asked: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    _require(
        len(asked) <= MAX_LOGIT_BIAS,
        f"`logit_bias` supports up to {MAX_LOGIT_BIAS} token ids. Given: {len(asked)}",
    )
    for key, value in asked.items():
        _require(
            key.isascii() and key.isdigit() and len(key) < 10,
            f"`logit_bias` must have token ids as its keys. Given: {key[:40]!r}",
        )
        _require(-100 <= value <= 100, f"`logit_bias` values must be >= -100 and <= 100. Given: {value}")
    biases = {int(key): value for key, value in asked.items()}
    _require(len(biases) == len(asked), "`logit_bias` names a token id twice")
    return tuple(biases.items())


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValidationError(otherwise)


def _is_unicode(text: str) -> bool:
    """Python's JSON lets halves of a surrogate pair through, which neither a tokenizer nor msgpack takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _f32(value: float | None) -> float:
    """As TGI and the sampler see it: a number may be too small for them, or too near to 1. Absent: 1."""
    return 1.0 if value is None else c_float(value).value


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
