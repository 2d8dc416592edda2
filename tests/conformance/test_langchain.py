"""LangChain's classes for OpenAI and for Hugging Face endpoints."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any, Literal

import pydantic
import pytest

from tests.conformance.conftest import Served

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint
    from langchain_openai import ChatOpenAI, OpenAI

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]

STORY = "Once upon a time"
HELLO: list[Any] = [SystemMessage("You are a helpful assistant."), HumanMessage("Hello!")]


class Pet(pydantic.BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    tame: bool


@tool
def paint(color: Literal["red", "blue"]) -> str:
    """Paint the door."""
    return f"It is {color}."


@pytest.fixture
def chat(served: Served) -> ChatOpenAI:
    asked: Any = {"api_key": "none", "max_tokens": 64}  # its aliases, which mypy does not see
    return ChatOpenAI(model="demo", base_url=f"{served.url}/v1", temperature=0, **asked)


class TestChatOpenAI:
    def test_invoke(self, chat: ChatOpenAI) -> None:
        answer = chat.invoke(HELLO)
        assert answer.content and answer.usage_metadata and answer.usage_metadata["total_tokens"] > 2
        assert answer.response_metadata["finish_reason"] == "stop"

    def test_stream(self, chat: ChatOpenAI) -> None:
        chunks = [*chat.stream(HELLO)]
        assert (
            "".join(str(chunk.content) for chunk in chunks) == chat.invoke(HELLO).content and len(chunks) > 2
        )

    def test_batch_and_async(self, chat: ChatOpenAI) -> None:
        once = chat.invoke(HELLO).content
        assert [answer.content for answer in chat.batch([HELLO] * 4)] == [once] * 4
        assert asyncio.run(chat.ainvoke(HELLO)).content == once

    def test_tools_there_and_back(self, chat: ChatOpenAI) -> None:
        called = chat.bind_tools([paint], tool_choice="required", parallel_tool_calls=False).invoke(HELLO)
        (call,) = called.tool_calls
        assert call["name"] == "paint" and call["args"]["color"] in ("red", "blue")
        result = paint.invoke(call)
        assert isinstance(result, ToolMessage)
        assert chat.invoke([*HELLO, called, result]).content

    def test_streamed_tools(self, chat: ChatOpenAI) -> None:
        whole: Any = None
        for chunk in chat.bind_tools([paint], tool_choice="paint").stream(HELLO):
            whole = chunk if whole is None else whole + chunk
        assert whole.tool_calls[0]["args"]["color"] in ("red", "blue")

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_structured_output(self, chat: ChatOpenAI, method: Any) -> None:
        assert isinstance(chat.with_structured_output(Pet, method=method).invoke(HELLO), Pet)

    def test_logprobs(self, chat: ChatOpenAI) -> None:
        answer = chat.bind(logprobs=True, top_logprobs=2).invoke(HELLO)
        assert len(answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_openai(served: Served) -> None:
    asked: Any = {"api_key": "none", "max_tokens": 16}
    llm = OpenAI(model="demo", base_url=f"{served.url}/v1", temperature=0, **asked)
    text = llm.invoke(STORY)
    assert text and "".join(llm.stream(STORY)) == text
    assert len(llm.batch([STORY, "The sky is"])) == 2
    assert asyncio.run(llm.ainvoke(STORY)) == text


def endpoint(served: Served, tokens: int = 16) -> HuggingFaceEndpoint:
    asked: Any = {"endpoint_url": served.url, "task": "text-generation", "huggingfacehub_api_token": "none"}
    greedy: Any = {"do_sample": False, "temperature": None, "top_p": None, "typical_p": None}
    return HuggingFaceEndpoint(**asked, **greedy, max_new_tokens=tokens)


def test_hugging_face_endpoint(served: Served) -> None:
    llm = endpoint(served)
    text = llm.invoke(STORY)
    assert text and not text.startswith(STORY) and "".join(llm.stream(STORY)) == text
    assert asyncio.run(llm.ainvoke(STORY)) == text
    word = text.split()[2]
    assert word not in llm.invoke(STORY, stop=[word])


def test_chat_hugging_face(served: Served) -> None:
    model = ChatHuggingFace(llm=endpoint(served, 128), model_id="demo")
    assert model.invoke(HELLO).content
    assert "".join(str(chunk.content) for chunk in model.stream(HELLO))
    called = model.bind_tools([paint], tool_choice="paint").invoke(HELLO)
    assert called.tool_calls[0]["name"] == "paint"
