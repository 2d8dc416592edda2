"""OpenAI's own client, sync and async."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from openai import AsyncOpenAI, OpenAI

from models.demo import WEIGHTS
from tests.conformance.conftest import Served
from wire.tokenizer import Tokenizer

pytestmark = pytest.mark.full

HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a story about a rabbit."}]
PAINT: Any = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paint the door.",
        "parameters": {
            "type": "object",
            "properties": {"color": {"enum": ["red", "blue"]}, "twice": {"type": "boolean"}},
            "required": ["color", "twice"],
            "additionalProperties": False,
        },
    },
}
LONG: Any = {"ignore_eos": True}


class Pet(pydantic.BaseModel):
    """What an answer is parsed into."""

    kind: Literal["cat", "dog"]
    tame: bool


@pytest.fixture
def client(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def aclient(served: Served) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def painted(arguments: str) -> None:
    given = json.loads(arguments)
    assert given["color"] in ("red", "blue") and isinstance(given["twice"], bool) and len(given) == 2


class TestChat:
    def test_plain(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(model="demo", messages=HELLO, temperature=0)
        (choice,) = answer.choices
        assert (
            choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "stop"
        )
        assert (
            answer.id.startswith("chatcmpl-")
            and answer.object == "chat.completion"
            and answer.model == "demo"
        )
        usage = answer.usage
        assert usage and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 2

    def test_streamed(self, client: OpenAI) -> None:
        whole = client.chat.completions.create(model="demo", messages=STORY, temperature=0, max_tokens=40)
        chunks = [
            *client.chat.completions.create(
                model="demo",
                messages=STORY,
                temperature=0,
                max_tokens=40,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        *said, last = chunks
        assert "".join(c.choices[0].delta.content or "" for c in said) == whole.choices[0].message.content
        assert said[0].choices[0].delta.role == "assistant" and len(said) > 10
        assert said[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
        assert last.choices == [] and last.usage == whole.usage and len({c.id for c in chunks}) == 1

    def test_the_streaming_helper(self, client: OpenAI) -> None:
        with client.chat.completions.stream(model="demo", messages=HELLO, temperature=0) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert final.choices[0].message.content

    def test_a_conversation_with_a_system_prompt(self, client: OpenAI) -> None:
        messages: list[Any] = [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
            {"role": "assistant", "content": "Hello! How can I help you?"},
            {"role": "user", "content": "What is the capital of France?"},
        ]
        answer = client.chat.completions.create(model="demo", messages=messages, temperature=0)
        assert "Paris" in (answer.choices[0].message.content or "")

    def test_seed_n_and_stop(self, client: OpenAI) -> None:
        def ask(**more: Any) -> list[str | None]:
            answer = client.chat.completions.create(model="demo", messages=STORY, max_tokens=24, **more)
            assert [choice.index for choice in answer.choices] == [*range(len(answer.choices))]
            return [choice.message.content for choice in answer.choices]

        first, second = ask(seed=7, n=2), ask(seed=7, n=2)
        assert first == second and len(set(first)) == 2 and ask(seed=7) == first[:1]
        (text,) = ask(temperature=0)
        assert text
        word = text.split()[3]
        (cut,) = ask(temperature=0, stop=[word])
        assert cut == text[: text.index(word)]
        assert ask(temperature=0, stop=word) == [cut]

    def test_a_token_that_must_come(self, client: OpenAI) -> None:
        token = Tokenizer.from_folder(WEIGHTS).encode(" the", add_special_tokens=False)[0]
        answer = client.chat.completions.create(
            model="demo", messages=HELLO, max_tokens=3, temperature=0, logit_bias={str(token): 100}
        )
        assert (answer.choices[0].message.content or "").count("the") == 3

    def test_logprobs(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(
            model="demo", messages=HELLO, temperature=0, logprobs=True, top_logprobs=3
        )
        (choice,) = answer.choices
        assert choice.logprobs and choice.logprobs.content
        tokens = choice.logprobs.content
        assert "".join(token.token for token in tokens).startswith(choice.message.content or "-")
        for token in tokens:
            likely = [top.logprob for top in token.top_logprobs]
            assert (
                len(likely) == 3
                and likely == sorted(likely, reverse=True)
                and token.logprob == likely[0] <= 0
            )
            assert bytes(token.bytes or []).decode(errors="replace") == token.token


class TestTools:
    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}])
    def test_a_call(self, client: OpenAI, choice: Any) -> None:
        answer = client.chat.completions.create(
            model="demo", messages=HELLO, tools=[PAINT], tool_choice=choice, parallel_tool_calls=False
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        calls: Any = answer.choices[0].message.tool_calls
        assert len(calls) == 1 and calls[0].id and calls[0].type == "function"
        assert calls[0].function.name == "paint"
        painted(calls[0].function.arguments)

    def test_streamed_arguments(self, client: OpenAI) -> None:
        chunks = client.chat.completions.create(
            model="demo",
            messages=HELLO,
            tools=[PAINT],
            tool_choice="required",
            parallel_tool_calls=False,
            stream=True,
        )
        names, arguments, ids, reasons = "", "", set(), []
        pieces = 0
        for chunk in chunks:
            (choice,) = chunk.choices
            for call in choice.delta.tool_calls or []:
                assert call.index == 0 and call.function
                names += call.function.name or ""
                arguments += call.function.arguments or ""
                ids |= {call.id} - {None}
                pieces += 1
            reasons += [choice.finish_reason] if choice.finish_reason else []
        assert names == "paint" and len(ids) == 1 and pieces > 2 and reasons == ["tool_calls"]
        painted(arguments)

    def test_the_way_back(self, client: OpenAI) -> None:
        first = client.chat.completions.create(
            model="demo", messages=HELLO, tools=[PAINT], tool_choice="required"
        )
        said = first.choices[0].message
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "Done."} for call in said.tool_calls or []
        ]
        messages: list[Any] = [*HELLO, said, *results]
        answer = client.chat.completions.create(
            model="demo", messages=messages, tools=[PAINT], tool_choice="none", max_tokens=32
        )
        assert answer.choices[0].message.tool_calls is None and answer.choices[0].message.content


class TestFormats:
    def test_parsed(self, client: OpenAI) -> None:
        answer = client.chat.completions.parse(model="demo", messages=HELLO, response_format=Pet)
        assert isinstance(answer.choices[0].message.parsed, Pet)

    def test_a_schema_by_hand(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(
            model="demo",
            messages=HELLO,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "pet", "schema": Pet.model_json_schema(), "strict": True},
            },
        )
        Pet.model_validate_json(answer.choices[0].message.content or "")

    def test_any_object(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(
            model="demo", messages=HELLO, response_format={"type": "json_object"}, max_tokens=256, seed=1
        )
        content = answer.choices[0].message.content or ""
        assert content.lstrip().startswith("{")
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(content), dict)


class TestCompletions:
    def test_plain_and_streamed(self, client: OpenAI) -> None:
        asked: Any = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
        whole = client.completions.create(**asked)
        assert whole.choices[0].text and whole.object == "text_completion" and whole.usage
        chunks = [*client.completions.create(**asked, stream=True)]
        assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text

    def test_several_prompts(self, client: OpenAI) -> None:
        prompts = ["Once upon a time", "The capital of Japan is", "def factorial(n):"]
        answer = client.completions.create(model="demo", prompt=prompts, max_tokens=8, temperature=0)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert "Tokyo" in answer.choices[1].text
        by_index = {0: "", 1: "", 2: ""}
        for chunk in client.completions.create(
            model="demo", prompt=prompts, max_tokens=8, temperature=0, stream=True
        ):
            for choice in chunk.choices:
                by_index[choice.index] += choice.text
        assert [*by_index.values()] == [choice.text for choice in answer.choices]

    def test_echo_and_logprobs(self, client: OpenAI) -> None:
        answer = client.completions.create(
            model="demo", prompt="The sky is", max_tokens=4, temperature=0, echo=True, logprobs=2
        )
        (choice,) = answer.choices
        assert choice.text.startswith("The sky is") and choice.logprobs
        scored = choice.logprobs
        assert scored.token_logprobs and scored.token_logprobs[0] is None and scored.text_offset
        assert scored.tokens and len(scored.tokens) == len(scored.token_logprobs) == len(scored.text_offset)

    def test_several_of_each(self, client: OpenAI) -> None:
        answer = client.completions.create(
            model="demo", prompt="Once", n=2, best_of=3, max_tokens=8, seed=None, temperature=1
        )
        assert [choice.index for choice in answer.choices] == [0, 1]


def test_models(client: OpenAI) -> None:
    models = client.models.list().data
    assert (
        [model.id for model in models] == ["demo"] and models[0].object == "model" and models[0].created > 0
    )
    assert client.models.retrieve("demo").id == "demo"


class TestErrors:
    def test_an_unknown_model(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="nobody", messages=HELLO)
        assert caught.value.code == "model_not_found" and "nobody" in caught.value.message

    def test_a_bad_parameter(self, client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="demo", messages=HELLO, top_p=2)
        assert caught.value.param == "top_p" and caught.value.type == "invalid_request_error"

    def test_too_long(self, client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="demo", messages=HELLO, max_tokens=100_000)
        assert caught.value.code == "context_length_exceeded"

    def test_in_a_stream(self, client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="demo", messages=HELLO, top_p=2, stream=True)

    def test_keys_and_rates(self, served: Served) -> None:
        stranger = OpenAI(base_url=f"{served.closed}/v1", api_key="sk-nobody", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.chat.completions.create(model="demo", messages=HELLO)
        assert refused.value.code == "invalid_api_key"
        guest = OpenAI(base_url=f"{served.closed}/v1", api_key=served.key("guest", 1), max_retries=0)
        assert guest.chat.completions.create(model="demo", messages=HELLO, max_tokens=4).choices
        with pytest.raises(openai.RateLimitError) as limited:
            guest.chat.completions.create(model="demo", messages=HELLO, max_tokens=4)
        assert int(limited.value.response.headers["retry-after"]) > 0


class TestAsync:
    def test_many_at_once(self, aclient: AsyncOpenAI) -> None:
        async def ask(n: int) -> str | None:
            answer = await aclient.chat.completions.create(
                model="demo", messages=STORY, max_tokens=16, seed=n % 4
            )
            return answer.choices[0].message.content

        async def all_of_them() -> list[str | None]:
            async with aclient:
                return await asyncio.gather(*map(ask, range(16)))

        texts = asyncio.run(all_of_them())
        assert texts[:4] * 4 == texts and len(set(texts)) == 4

    def test_streamed(self, aclient: AsyncOpenAI) -> None:
        async def ask() -> str:
            async with aclient:
                stream = await aclient.chat.completions.create(
                    model="demo", messages=HELLO, stream=True, seed=3
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert asyncio.run(ask())

    def test_a_stream_that_is_closed_early_ends_its_job(self, aclient: AsyncOpenAI, served: Served) -> None:
        async def ask() -> str:
            async with aclient:
                stream = await aclient.chat.completions.create(
                    model="demo", messages=STORY, stream=True, max_tokens=900, extra_body=LONG
                )
                job_id = stream.response.headers["x-request-id"]
                await anext(stream)
                await stream.close()
                return job_id

        ended(served, asyncio.run(ask()))


def test_a_stream_that_is_closed_early_ends_its_job(client: OpenAI, served: Served) -> None:
    stream = client.chat.completions.create(
        model="demo", messages=STORY, stream=True, max_tokens=900, extra_body=LONG
    )
    job_id = stream.response.headers["x-request-id"]
    next(stream)
    stream.close()
    ended(served, job_id)


def ended(served: Served, job_id: str) -> None:
    """By its client's leaving, before it had said all."""
    served.settle()
    job = httpx.get(f"{served.url}/jobs/{job_id}").json()
    assert job["status"] == "cancelled" and job["usage"]["completion_tokens"] < 900
