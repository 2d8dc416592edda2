"""What TGI_STRICT brings back of TGI: five habits that a client may have come to rely on.

Everything else in which we differ (docs/api.md) is more than TGI gives, or a fault of its that nobody can want back:
the secret compared without regard to case, ids that are empty, choices in the order of their ends, a generation that
is interrupted every 1,024 tokens and overshoots what was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quirks:
    """The table. A field is a habit, and true where TGI's is wanted."""

    cut_to_fit: bool
    """Every route: a `max_new_tokens` above 1,024 is cut to what fits beside the prompt. TGI looks at 1,024 of them
    alone, so clients send large numbers and mean "as many as can be". Ours: what does not fit is refused, with the
    numbers."""
    any_model: bool
    """`/v1/*`: a model that is not served is answered for by the first that is, under the name that was asked for. TGI
    serves one model and takes other names for adapters, so clients send whatever they are configured with. Ours: 404,
    but for the placeholder `tgi`."""
    shifted_presence_penalty: bool
    """`/v1/chat/completions`: a `presence_penalty` of x is a repetition penalty of x + 2. Values tuned with TGI mean
    this. Ours: what OpenAI says."""
    finish_reasons: bool
    """`/v1/*`: TGI's words. A stop string ends a text with `stop_sequence`, a tool call is no reason of its own, and a
    streamed completion says `eos_token`, and "" until it ends. Ours: OpenAI's words, and null."""
    errors: bool
    """`/v1/*`: an error is `{"error": …, "error_type": …}`, and within a stream `{"error": {"message": …,
    "http_status_code": 422}}`, whatever it was. Clients written for TGI read `error_type`. Ours: OpenAI's object, in a
    stream too, with the status that it would have had."""


OURS = Quirks(
    cut_to_fit=False, any_model=False, shifted_presence_penalty=False, finish_reasons=False, errors=False
)
TGIS = Quirks(
    cut_to_fit=True, any_model=True, shifted_presence_penalty=True, finish_reasons=True, errors=True
)


def quirks(strict: bool) -> Quirks:
    """TGI's habits if they are wanted, else ours."""
    return TGIS if strict else OURS
