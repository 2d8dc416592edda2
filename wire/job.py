"""The job: what is to be generated, as a frozen value. What is in flight lives in the worker's Sequence."""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

import msgspec

from wire.grammar import Grammar

State = Literal["queued", "in_progress", "completed", "failed", "cancelled", "expired"]
FinishReason = Literal["length", "eos_token", "stop_sequence"]

TERMINAL: frozenset[State] = frozenset({"completed", "failed", "cancelled", "expired"})
MOST_CHOICES = 128
MIN_PRIORITY, MAX_PRIORITY, DEFAULT_PRIORITY = 0, 9, 5
DEFAULT_TTL = 24 * 3600.0


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen and when to stop. Every field is resolved: no None, no server default left open."""

    max_new_tokens: int
    """Most tokens to generate, > 0."""
    seed: int
    """uint64, drawn at submission when the client gave none; given the logits, a token's choice hangs on it alone."""
    do_sample: bool = False
    """False: greedy; the temperature and the filters below are then not applied."""
    temperature: float = 1.0
    """> 0; divides the logits."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Keep the smallest set whose probability reaches this, (0, 1]; 1: all."""
    typical_p: float = 1.0
    """Keep the locally typical set of this mass, (0, 1]; 1: all."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest, [0, 1)."""
    repetition_penalty: float = 1.0
    """> 0; divides positive and multiplies negative logits of tokens in prompt or output."""
    frequency_penalty: float = 0.0
    """Subtracted once per occurrence in the output, [-2, 2]."""
    presence_penalty: float = 0.0
    """Subtracted once for tokens in the output, [-2, 2]."""
    stop: tuple[str, ...] = ()
    """Generation ends when the text contains one of these."""
    stop_token_ids: tuple[int, ...] = ()
    """Generation ends with one of these tokens, each once, whatever `ignore_eos` says: vLLM's."""
    include_stop: bool = True
    """Whether the stop string or stop token that ended the text stays in it (TGI: yes; OpenAI: no)."""
    ignore_eos: bool = False
    """Go on after an end-of-sequence token, as in vLLM."""
    min_new_tokens: int = 0
    """So many tokens come before the one that may end it: end-of-sequence and stop tokens cannot be chosen before that,
    and stop strings are passed over."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit), [-100, 100], each id once; before the penalties."""
    watermark: bool = False
    """Raise the logits of the tokens that a watermark favours; only where the workers are told to."""
    top_n: int = 0
    """Report the n likeliest tokens beside each chosen one, 0 to 20; 0: none."""
    prompt_logprobs: bool = False
    """Report how likely the prompt's own tokens are, each after those before it."""
    n: int = 1
    """Choices that the client gets, 1 to MOST_CHOICES; choice i samples with `choice_seed(seed, i)`."""
    best_of: int = 1
    """More than 1: so many are generated, and the likeliest `n` are told, none before all have ended; at least `n`."""
    grammar: Grammar | None = None
    """What the text must follow to its end; one that is cut off by max_new_tokens is not whole."""

    @property
    def candidates(self) -> int:
        """Texts that are generated."""
        return max(self.n, self.best_of)

    @property
    def ranked(self) -> bool:
        """Whether they are told in the order of their likelihood, and only the best `n`."""
        return self.best_of > 1


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One generation, as accepted. Written once into its record, never changed."""

    id: str
    """Unguessable; also the Celery task id."""
    model: str
    """The served model's name, as in the registry."""
    params: SamplingParams
    ids: tuple[int, ...] | None = None
    """The prompt's token ids, truncated and special tokens added; None: the worker tokenises `inputs`."""
    inputs: str | None = None
    """The prompt's text; only where `ids` is None."""
    truncate: int | None = None
    """Keep the last n prompt tokens; only where `ids` is None."""
    add_special_tokens: bool = True
    """Whether the tokens that the model expects around a text are added; only where `ids` is None."""
    open_ended: bool = False
    """No max_new_tokens was given: the worker may lower it to what fits; only where `ids` is None."""
    priority: int = DEFAULT_PRIORITY
    """0 the most urgent … 9."""
    ttl: float = DEFAULT_TTL
    """Seconds from submission to the deadline."""
    start_ttl: float = 0.0
    """Seconds from submission within which it must have been begun; 0: any time before the deadline."""
    tenant: str = ""
    """Who asked: scopes idempotency keys and fairness."""
    gateway: str = ""
    """The gateway process whose connection the job is bound to; empty: it outlives every connection."""


class Scored(msgspec.Struct, frozen=True):
    """A token and how likely it is at its place."""

    id: int
    text: str
    """The token by itself, a special one too; U+FFFD where it is a part of a character."""
    logprob: float | None
    """None: nothing stands before it."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one job, counted once, when it ends."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    @classmethod
    def of(cls, prompt: int, completion: int) -> Usage:
        """The usage of `prompt` tokens read and `completion` tokens generated."""
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a job."""

    text: str
    finish_reason: FinishReason
    seed: int
    """The one that a job of this choice alone would have."""
    tokens: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a completed job produced; stored in its record and as the Celery result."""

    text: str
    """Of the first choice, as the next two."""
    finish_reason: FinishReason
    seed: int
    usage: Usage
    choices: tuple[Completion, ...] = ()
    """All of them; empty: there is one."""


def new_job_id() -> str:
    """128 random bits, in hex."""
    return secrets.token_hex(16)


def choice_seed(seed: int, choice: int) -> int:
    """What choice `choice` samples with; the first with the job's own seed. Of 53 bits, as `new_seed`."""
    if choice == 0:
        return seed
    digest = hashlib.blake2b(b"%d %d" % (seed, choice), digest_size=8).digest()
    return int.from_bytes(digest) >> 11


def new_seed() -> int:
    """A uint64 seed for a job whose client gave none; 53 bits, so that JSON clients can read it back."""
    return secrets.randbits(53)
