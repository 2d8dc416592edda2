"""Log-probabilities and ends of texts in OpenAI's shapes; msgspec's sentences in OpenAI's."""

from __future__ import annotations

import math

import msgspec
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from gateway.openai.choice import Choice, call_id, markers_of, reason_of
from gateway.openai.errors import CHAT_NAMES, COMPLETION_NAMES, of_wire
from gateway.openai.logprobs import NEVER, LegacyTokens, joined, of_chat
from gateway.strict import OURS, TGIS
from wire.calls import Argued, Called, Said
from wire.errors import TooLong, ValidationError
from wire.events import Token
from wire.job import Scored
from wire.tokenizer import Tokenizer
from wire.tools import FORMATS

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    backend = Backend(models.BPE(vocab={letter: id for id, letter in enumerate(ALPHABET)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["[TOOL_CALLS]", "<eos>"])
    return Tokenizer.from_files({"tokenizer.json": backend.to_str().encode()})


def token(id: int, text: str, logprob: float | None = -0.5, top: tuple[Scored, ...] = ()) -> Token:
    return Token(seq=0, index=0, id=id, text=text, logprob=logprob, special=False, top=top or msgspec.UNSET)


def test_a_part_of_a_character_is_escaped_and_its_bytes_are_told(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("é")
    told = of_chat(tokenizer, [token(first, ""), token(second, "é", -math.inf, (Scored(first, "?", -0.1),))])
    assert [entry.token for entry in told.content] == ["\\xc3", "\\xa9"]
    assert [entry.bytes for entry in told.content] == [[0xC3], [0xA9]]
    assert told.content[1].logprob == NEVER and told.content[1].top_logprobs[0].token == "\\xc3"
    legacy = LegacyTokens(tokenizer, 1).of([token(first, ""), token(second, "é")])
    assert legacy.tokens == ["bytes:\\xc3", "bytes:\\xa9"] and legacy.text_offset == [0, 0]
    assert legacy.top_logprobs == [{"bytes:\\xc3": -0.5}, {"bytes:\\xa9": -0.5}]


def test_offsets_are_characters_of_the_text_with_the_prompt_before_it(tokenizer: Tokenizer) -> None:
    prompt = [Scored(tokenizer.added["<eos>"], "<eos>", None)]
    prompt += [Scored(id, "?", -1.0) for id in tokenizer.encode("aé")]
    tokens = LegacyTokens(tokenizer, 0)
    told = joined([tokens.echoed(prompt, "aé"), tokens.of([token(0, "xy"), token(0, "z")])])
    assert told.text_offset == [0, 0, 1, 1, 2, 4] and told.top_logprobs is None
    assert told.token_logprobs == [None, -1.0, -1.0, -1.0, -0.5, -0.5]


def test_markers_that_are_special_tokens_are_read(tokenizer: Tokenizer) -> None:
    row = next(row for row in FORMATS if row.name == "mistral")
    choice = Choice(row, markers_of(row, tokenizer))
    said = [
        token(0, "So"),
        token(tokenizer.added["[TOOL_CALLS]"], ""),
        token(0, ' [{"name": "f", "arguments": {}}]'),
    ]
    pieces = [piece for each in said for piece in choice.feed(each)] + choice.finish()
    assert pieces == [Said("So"), Called(0, "f"), Argued(0, "{}")] and choice.calls == 1
    assert Choice(None, {}).feed(said[1]) == []


def test_why_a_text_ended() -> None:
    assert [reason_of(given, True, OURS) for given in ("length", "eos_token")] == ["length", "tool_calls"]
    assert [reason_of(given, False, OURS) for given in ("stop_sequence", "eos_token")] == ["stop", "stop"]
    assert [reason_of(given, True, TGIS) for given in ("stop_sequence", "eos_token")] == [
        "stop_sequence",
        "stop",
    ]


def test_ids_of_calls_are_their_own() -> None:
    ids = {call_id(job, choice, index) for job in "ab" for choice in (0, 1) for index in (0, 1)}
    assert len(ids) == 8 and call_id("a", 0, 0) == call_id("a", 0, 0)


def test_refusals_name_openais_parameters() -> None:
    refused = of_wire(ValidationError("`max_new_tokens` must be strictly positive"), CHAT_NAMES)
    assert str(refused) == "`max_tokens` must be strictly positive" and refused.param == "max_tokens"
    long = of_wire(TooLong("…", 5000, 1, 4096), COMPLETION_NAMES)
    assert str(long) == (
        "This model's maximum context length is 4096 tokens. However, your prompt resulted in 5000 tokens. "
        "Please reduce the length of the prompt."
    )
    assert (long.param, long.code) == ("prompt", "context_length_exceeded")
