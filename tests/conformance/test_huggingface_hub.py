"""huggingface_hub's InferenceClient and AsyncInferenceClient, given the gateway's URL as the model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError

from tests.conformance.conftest import Served

# The client leaves the transport of a stream to the garbage collector.
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

STORY = "Once upon a time"
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]
PET = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "tame": {"type": "boolean"}},
    "required": ["kind", "tame"],
    "additionalProperties": False,
}
KEEP: Any = {
    "type": "function",
    "function": {"name": "keep", "description": "Keep a pet.", "parameters": PET},
}


@pytest.fixture
def client(served: Served) -> InferenceClient:
    return InferenceClient(served.url, provider="hf-inference")


@pytest.fixture
def aclient(served: Served) -> AsyncInferenceClient:
    return AsyncInferenceClient(served.url, provider="hf-inference")


def a_pet(text: Any) -> None:
    given = json.loads(text)
    assert given["kind"] in ("cat", "dog") and isinstance(given["tame"], bool) and len(given) == 2


class TestTextGeneration:
    def test_plain(self, client: Any) -> None:
        text = client.text_generation(STORY, max_new_tokens=20, return_full_text=False)
        assert text and not text.startswith(STORY)
        # Without the parameter TGI decides, and it does so on this route.
        assert client.text_generation(STORY, max_new_tokens=20) == STORY + text

    def test_details(self, client: Any) -> None:
        answer = client.text_generation(
            STORY,
            details=True,
            max_new_tokens=12,
            decoder_input_details=True,
            top_n_tokens=2,
            return_full_text=False,
        )
        details: Any = answer.details
        assert details.finish_reason == "length" and details.generated_tokens == len(details.tokens) == 12
        assert "".join(token.text for token in details.tokens) == answer.generated_text
        assert details.prefill[0].logprob is None and all(token.logprob <= 0 for token in details.prefill[1:])
        assert [len(top) for top in details.top_tokens] == [2] * 12
        assert details.seed is None, "greedy"

    def test_the_best_of_two(self, client: Any) -> None:
        answer = client.text_generation(STORY, details=True, max_new_tokens=12, best_of=2, do_sample=True)
        details: Any = answer.details
        assert len(details.best_of_sequences) == 1 and details.best_of_sequences[0].tokens

    def test_streamed(self, client: Any) -> None:
        whole = client.text_generation(STORY, max_new_tokens=20)
        assert STORY + "".join(client.text_generation(STORY, max_new_tokens=20, stream=True)) == whole
        events: list[Any] = [*client.text_generation(STORY, max_new_tokens=20, stream=True, details=True)]
        assert [event.index for event in events] == [*range(1, 21)]
        assert events[-1].generated_text == whole and events[-1].details.generated_tokens == 20
        assert all(event.generated_text is None for event in events[:-1])

    def test_parameters(self, client: Any) -> None:
        asked: Any = {
            "do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.9, "typical_p": 0.95, "seed": 42,
            "repetition_penalty": 1.1, "frequency_penalty": 0.1, "truncate": 100, "max_new_tokens": 16, "stop": ["zzz"],
        }  # fmt: skip
        assert client.text_generation(STORY, **asked) == client.text_generation(STORY, **asked)

    @pytest.mark.parametrize("kind", ["json", "regex"])
    def test_grammar(self, client: Any, kind: str) -> None:
        value: Any = PET if kind == "json" else '\\{"kind": "(cat|dog)", "tame": true\\}'
        grammar: Any = {"type": kind, "value": value}
        text = client.text_generation("A pet:", max_new_tokens=64, grammar=grammar, return_full_text=False)
        a_pet(text)

    def test_what_is_refused(self, client: Any) -> None:
        with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
            client.text_generation(STORY, temperature=-1.0)
        with pytest.raises(ValidationError, match="must be <= 1024"):
            client.text_generation(STORY, max_new_tokens=5000, stream=False)
        with pytest.raises(ValidationError, match="`top_p`"):
            list(client.text_generation(STORY, top_p=3.0, stream=True))


class TestChat:
    def test_plain(self, client: Any) -> None:
        answer = client.chat_completion(HELLO, temperature=0.0)
        assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer.id and answer.model and answer.system_fingerprint

    def test_openais_way(self, served: Served) -> None:
        client: Any = InferenceClient(base_url=f"{served.url}/v1", api_key="none")
        answer = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=8)
        assert answer.choices[0].message.content

    def test_streamed(self, client: Any) -> None:
        whole = client.chat_completion(HELLO, temperature=0.0).choices[0].message.content
        chunks = [
            *client.chat_completion(
                HELLO, temperature=0.0, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
        assert chunks[-1].usage and chunks[-1].usage.completion_tokens

    def test_logprobs(self, client: Any) -> None:
        answer = client.chat_completion(HELLO, logprobs=True, top_logprobs=2, max_tokens=4, temperature=0.0)
        scored = answer.choices[0].logprobs
        assert (
            scored
            and len(scored.content) == 4
            and all(len(token.top_logprobs) == 2 for token in scored.content)
        )

    @pytest.mark.parametrize("choice", ["required", {"function": {"name": "keep"}}])
    def test_tools(self, client: Any, choice: Any) -> None:
        answer = client.chat_completion(HELLO, tools=[KEEP], tool_choice=choice, max_tokens=200)
        calls: Any = answer.choices[0].message.tool_calls
        assert calls and calls[0].function.name == "keep" and calls[0].id
        a_pet(calls[0].function.arguments)

    def test_streamed_tools(self, client: Any) -> None:
        arguments = ""
        for chunk in client.chat_completion(
            HELLO, tools=[KEEP], tool_choice="required", stream=True, max_tokens=200
        ):
            for call in chunk.choices[0].delta.tool_calls or []:
                if call.index == 0:
                    arguments += call.function.arguments
        a_pet(arguments)

    @pytest.mark.parametrize(
        "format",
        [
            {"type": "json_schema", "json_schema": {"name": "pet", "schema": PET}},
            {"type": "json", "value": PET},
        ],
        ids=["openai", "tgi"],
    )
    def test_response_format(self, client: Any, format: Any) -> None:
        answer = client.chat_completion(HELLO, response_format=format, max_tokens=64)
        a_pet(answer.choices[0].message.content)

    def test_what_is_refused(self, client: Any) -> None:
        with pytest.raises(HfHubHTTPError) as caught:
            client.chat_completion(HELLO, top_p=2.0)
        assert caught.value.response.status_code == 400
        with pytest.raises(HfHubHTTPError) as missing:
            client.chat_completion(HELLO, model="nobody")
        assert missing.value.response.status_code == 404


def test_endpoint_info_and_health(client: Any, aclient: Any) -> None:
    info = client.get_endpoint_info()
    assert info["model_id"] == "demo" and info["max_total_tokens"] == 1024 and info["router"]
    assert client.health_check()

    async def both() -> tuple[Any, bool]:
        return await aclient.get_endpoint_info(), await aclient.health_check()

    same, healthy = asyncio.run(both())
    assert same["model_id"] == "demo" and healthy


def test_a_key(served: Served) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient(served.closed, token="sk-nobody").chat_completion(HELLO)
    assert caught.value.response.status_code == 401
    client = InferenceClient(served.closed, token=served.key("hub"))
    assert client.text_generation(STORY, max_new_tokens=4)
    assert client.chat_completion(HELLO, max_tokens=4).choices


class TestAsync:
    def test_text_generation(self, client: Any, aclient: Any) -> None:
        async def ask() -> tuple[str, str, Any]:
            async with aclient:
                text = await aclient.text_generation(STORY, max_new_tokens=12)
                pieces = [
                    piece
                    async for piece in await aclient.text_generation(STORY, max_new_tokens=12, stream=True)
                ]
                detailed = await aclient.text_generation(STORY, max_new_tokens=12, details=True)
                return text, "".join(pieces), detailed

        text, streamed, detailed = asyncio.run(ask())
        assert (
            text
            == STORY + streamed
            == detailed.generated_text
            == client.text_generation(STORY, max_new_tokens=12)
        )

    def test_chat(self, aclient: Any) -> None:
        async def ask() -> tuple[Any, str]:
            async with aclient:
                called = await aclient.chat_completion(
                    HELLO, tools=[KEEP], tool_choice="required", max_tokens=200
                )
                stream = await aclient.chat_completion(HELLO, stream=True, max_tokens=8)
                return called, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        called, said = asyncio.run(ask())
        a_pet(called.choices[0].message.tool_calls[0].function.arguments)
        assert said

    def test_a_refusal(self, aclient: Any) -> None:
        async def ask() -> None:
            async with aclient:
                await aclient.text_generation(STORY, temperature=-1.0)

        with pytest.raises(ValidationError):
            asyncio.run(ask())
