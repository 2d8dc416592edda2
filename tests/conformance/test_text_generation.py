"""text-generation 0.7, TGI's own client of old: sync and async, and its errors.

It streams no chats, from TGI 3 either: it wants `tool_calls` in every delta, and reads `[DONE]` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import Any

import pytest

from tests.conformance.conftest import Served

with warnings.catch_warnings():  # it is written for pydantic 1
    warnings.simplefilter("ignore")
    import text_generation
    from text_generation import errors, types

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]

STORY = "Once upon a time"
HELLO = [types.Message(role="user", content="Hello!")]
PATTERN = '\\{"tame": (true|false)\\}'


@pytest.fixture
def client(served: Served) -> Any:
    return text_generation.Client(served.url, timeout=60)


@pytest.fixture
def aclient(served: Served) -> Any:
    return text_generation.AsyncClient(served.url, timeout=60)


def test_generate(client: Any) -> None:
    answer = client.generate(STORY, max_new_tokens=10, decoder_input_details=True, top_n_tokens=2)
    details = answer.details
    assert details.finish_reason == types.FinishReason.Length and details.generated_tokens == 10
    assert "".join(token.text for token in details.tokens) == answer.generated_text
    assert details.prefill[0].logprob is None and details.prefill[1].logprob <= 0
    assert [len(top) for top in details.top_tokens] == [2] * 10
    full = client.generate(STORY, max_new_tokens=10, return_full_text=True)
    assert full.generated_text == STORY + answer.generated_text


def test_best_of(client: Any) -> None:
    details = client.generate(STORY, max_new_tokens=10, best_of=2, do_sample=True).details
    assert details.seed is not None and len(details.best_of_sequences) == 1
    assert details.best_of_sequences[0].seed is not None


def test_parameters(client: Any) -> None:
    asked = {
        "do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.9, "typical_p": 0.95, "seed": 42,
        "repetition_penalty": 1.1, "frequency_penalty": 0.1, "truncate": 100, "max_new_tokens": 12,
    }  # fmt: skip
    first, second = client.generate(STORY, **asked), client.generate(STORY, **asked)
    assert first == second and first.details.seed == 42
    text = client.generate(STORY, max_new_tokens=40).generated_text
    word = text.split()[4]
    stopped = client.generate(STORY, max_new_tokens=40, stop_sequences=[word])
    assert stopped.details.finish_reason == types.FinishReason.StopSequence
    assert stopped.generated_text == text[: text.index(word) + len(word)]


def test_grammar(client: Any) -> None:
    grammar = types.Grammar(type=types.GrammarType.Regex, value=PATTERN)
    assert "tame" in json.loads(client.generate("A pet:", max_new_tokens=40, grammar=grammar).generated_text)


def test_generate_stream(client: Any) -> None:
    events = [*client.generate_stream(STORY, max_new_tokens=10, top_n_tokens=2)]
    whole = client.generate(STORY, max_new_tokens=10)
    assert "".join(event.token.text for event in events) == whole.generated_text == events[-1].generated_text
    assert events[-1].details.generated_tokens == 10 and all(len(event.top_tokens) == 2 for event in events)


def test_chat(client: Any) -> None:
    answer = client.chat(HELLO, max_tokens=16, seed=1)
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.id and answer.object == "chat.completion"


def test_errors(client: Any, served: Served) -> None:
    with pytest.raises(errors.ValidationError, match="must be <= 1024"):
        client.generate(STORY, max_new_tokens=5_000)
    with pytest.raises(errors.ValidationError, match="`frequency_penalty`"):
        client.generate(STORY, frequency_penalty=3)
    with pytest.raises(errors.ValidationError, match="must be <= 1024"):
        [*client.generate_stream(STORY, max_new_tokens=5_000)]
    stranger = text_generation.Client(served.closed, headers={"Authorization": "Bearer sk-nobody"})
    with pytest.raises(errors.UnknownError, match="key"):
        stranger.generate(STORY)
    guest = text_generation.Client(
        served.closed, headers={"Authorization": f"Bearer {served.key('old', 1)}"}, timeout=60
    )
    assert guest.generate(STORY, max_new_tokens=2)
    with pytest.raises((errors.OverloadedError, errors.RateLimitExceededError)):
        guest.generate(STORY, max_new_tokens=2)


def test_async(client: Any, aclient: Any) -> None:
    async def ask() -> tuple[Any, list[Any], Any]:
        return (
            await aclient.generate(STORY, max_new_tokens=10),
            [event async for event in aclient.generate_stream(STORY, max_new_tokens=10)],
            await aclient.chat(HELLO, max_tokens=16, seed=1),
        )

    answer, events, chat = asyncio.run(ask())
    assert answer == client.generate(STORY, max_new_tokens=10)
    assert events[-1].generated_text == answer.generated_text
    assert (
        chat.choices[0].message.content
        == client.chat(HELLO, max_tokens=16, seed=1).choices[0].message.content
    )


def test_async_errors(aclient: Any) -> None:
    async def ask(**asked: Any) -> None:
        await aclient.generate(STORY, **asked)

    async def stream(**asked: Any) -> None:
        async for _ in aclient.generate_stream(STORY, **asked):
            pass

    for way in (ask, stream):
        with pytest.raises(errors.ValidationError):
            asyncio.run(way(max_new_tokens=5_000))
