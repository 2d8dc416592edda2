"""How much of the sampler a step needs: its parts, and the few planned combinations of them. Integers only."""

from __future__ import annotations

from enum import IntFlag

from models.step import Sampling


class Part(IntFlag):
    """What a sampler's program can do besides taking the likeliest token."""

    EDIT = 1
    """Add biases, apply penalties, ban end-of-sequence tokens."""
    NOISE = 2
    """Draw with temperature and min-p, which costs one comparison."""
    TOP_K = 4
    TOP_P = 8
    TYPICAL = 16
    TOP_N = 32
    """Report the likeliest tokens."""
    MASK = 64
    """Only the tokens that a grammar allows."""
    WATERMARK = 128
    """Raise the green tokens, first of all."""


GREEDY = Part(0)
LEVELS: tuple[Part, ...] = (
    GREEDY,
    Part.EDIT,
    Part.NOISE,
    Part.EDIT | Part.NOISE | Part.TOP_N,
    Part.NOISE | Part.TOP_P,
    Part.EDIT | Part.NOISE | Part.TOP_K | Part.TOP_P,
    Part.EDIT | Part.NOISE | Part.TOP_K | Part.TOP_P | Part.TYPICAL,
    Part.EDIT | Part.NOISE | Part.TOP_K | Part.TOP_P | Part.TYPICAL | Part.TOP_N,
    Part.MASK,
    Part.MASK | Part.EDIT | Part.NOISE | Part.TOP_K | Part.TOP_P,
    Part.MASK | Part.EDIT | Part.NOISE | Part.TOP_K | Part.TOP_P | Part.TYPICAL | Part.TOP_N,
)
"""The planned programs, cheapest first; the last can do everything. One for each subset would be 128 to warm up."""


def levels_of(watermark: bool) -> tuple[Part, ...]:
    """The planned levels, cheapest first; those that watermark only where that is enabled."""
    return (*LEVELS, Part.NOISE | Part.WATERMARK, LEVELS[-1] | Part.WATERMARK) if watermark else LEVELS


def level_for(parts: Part, levels: tuple[Part, ...] = LEVELS) -> Part:
    """The cheapest planned level that can do all of this."""
    return next(level for level in levels if parts & ~level == 0)


def parts_of(sampling: Sampling) -> Part:
    """What a token of this sequence takes, besides a ban of the end; without do_sample no filter applies."""
    parts = GREEDY
    if edits(sampling):
        parts |= Part.EDIT
    if sampling.top_n:
        parts |= Part.TOP_N
    if sampling.constrained:
        parts |= Part.MASK
    if sampling.watermark:
        parts |= Part.WATERMARK
    if not sampling.do_sample:
        return parts
    parts |= Part.NOISE
    if sampling.top_k:
        parts |= Part.TOP_K
    if sampling.top_p < 1:
        parts |= Part.TOP_P
    if sampling.typical_p < 1:
        parts |= Part.TYPICAL
    return parts


def edits(sampling: Sampling) -> bool:
    """Whether this sequence has a bias or penalties."""
    return bool(sampling.logit_bias) or penalises(sampling)


def has_state(sampling: Sampling) -> bool:
    """Whether this sequence's slot differs from the scratch one: by what is edited, or by what it must not end with."""
    return edits(sampling) or bool(sampling.min_new_tokens and sampling.stop_token_ids)


def penalises(sampling: Sampling) -> bool:
    """Whether the tokens so far change this sequence's logits."""
    return (
        sampling.repetition_penalty != 1 or sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
    )
