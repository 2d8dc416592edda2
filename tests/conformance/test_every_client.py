"""One request by each of the clients; the other files here have all that they can do."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from openai import AsyncOpenAI, OpenAI

from tests.conformance.conftest import Served

with warnings.catch_warnings():  # at their import alone: pydantic's, of how they use it
    warnings.simplefilter("ignore")
    import text_generation
    from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint
    from langchain_openai import ChatOpenAI

pytestmark = pytest.mark.filterwarnings("ignore")

STORY = "Once upon a time"
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]


def story(served: Served) -> str:
    """What all of them must get."""
    return str(InferenceClient(served.url).text_generation(STORY, max_new_tokens=12, return_full_text=False))


def hello(served: Served) -> str | None:
    answer = OpenAI(base_url=f"{served.url}/v1", api_key="none").chat.completions.create(
        model="demo", messages=HELLO, temperature=0
    )
    return answer.choices[0].message.content


def test_huggingface_hub(served: Served) -> None:
    client = InferenceClient(served.url, provider="hf-inference")
    assert client.health_check() and client.get_endpoint_info()["model_id"] == "demo"
    assert "".join(client.text_generation(STORY, max_new_tokens=12, stream=True)) == story(served)
    assert client.chat_completion(HELLO, temperature=0).choices[0].message.content == hello(served)

    async def ask() -> str:
        async with AsyncInferenceClient(served.url) as aclient:
            return str(await aclient.text_generation(STORY, max_new_tokens=12, return_full_text=False))

    assert asyncio.run(ask()) == story(served)


def test_text_generation(served: Served) -> None:
    client: Any = text_generation.Client(served.url, timeout=60)
    assert client.generate(STORY, max_new_tokens=12).generated_text == story(served)
    *_, last = client.generate_stream(STORY, max_new_tokens=12)
    assert last.generated_text == story(served)
    aclient: Any = text_generation.AsyncClient(served.url, timeout=60)
    assert asyncio.run(aclient.generate(STORY, max_new_tokens=12)).generated_text == story(served)


def test_openai(served: Served) -> None:
    client = OpenAI(base_url=f"{served.url}/v1", api_key="none")
    assert client.models.list().data[0].id == "demo"
    text = client.completions.create(model="demo", prompt=STORY, max_tokens=12, temperature=0).choices[0].text
    assert text == story(served)

    async def ask() -> str:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as aclient:
            stream = await aclient.chat.completions.create(
                model="demo", messages=HELLO, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask()) == hello(served)


def test_langchain(served: Served) -> None:
    key: Any = "none"
    chat = ChatOpenAI(model="demo", base_url=f"{served.url}/v1", api_key=key, temperature=0)
    assert chat.invoke("Hello!").content == hello(served)
    asked: Any = {"endpoint_url": served.url, "temperature": None, "top_p": None, "typical_p": None}
    endpoint = HuggingFaceEndpoint(**asked, max_new_tokens=12)
    assert endpoint.invoke(STORY) == story(served)
    assert ChatHuggingFace(llm=endpoint, model_id="demo").invoke("Hello!").content
