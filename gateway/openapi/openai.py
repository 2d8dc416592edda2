"""OpenAI's API, for the document."""

from __future__ import annotations

from gateway.openai.request import ChatRequest, CompletionRequest
from gateway.openai.shapes import (
    ChatChunk,
    ChatCompletion,
    Completion,
    ErrorBody,
    ModelCard,
    ModelList,
    TokenizedChat,
)
from gateway.openapi.operation import (
    ALWAYS,
    JSON,
    SSE,
    TAKES_A_BODY,
    Answer,
    Either,
    Operation,
    Parameter,
    refusals,
)

TAG = "OpenAI"

MODEL = Parameter("name", "path", "The model's id.", {"type": "string", "minLength": 1})

HELLO = {"model": "tgi", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32}
STREAMED = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
SCHEMA = {"type": "object", "properties": {"tame": {"type": "boolean"}}, "required": ["tame"]}
FORMATTED = HELLO | {
    "response_format": {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}}
}
TOOL = {"type": "function", "function": {"name": "keep", "description": "Keep a pet.", "parameters": SCHEMA}}
CALLED = HELLO | {"tools": [TOOL], "tool_choice": "required"}
PROMPT = {"model": "tgi", "prompt": "Once upon a time", "max_tokens": 32, "temperature": 0}

ID = {"x-request-id": "The job's id; with several prompts, their jobs'."}
EVENTS = "with `stream` events, the last of which reads `[DONE]`."

REFUSED = refusals(400, 404, 408, 413, 415, 424, *ALWAYS, error=ErrorBody)
"""What cannot be served as it stands is a bad request here."""

OPERATIONS = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        tag=TAG,
        says="Answer a chat",
        body=ChatRequest,
        examples={"hello": HELLO, "streamed": STREAMED, "a JSON schema": FORMATTED, "a tool": CALLED},
        answers={
            200: Answer(
                f"The answer; {EVENTS}", {JSON: ChatCompletion, SSE: Either((ChatChunk, ErrorBody))}, ID
            ),
            **REFUSED,
        },
    ),
    Operation(
        method="post",
        path="/v1/completions",
        tag=TAG,
        says="Continue a text, or several",
        body=CompletionRequest,
        examples={"a story": PROMPT, "streamed": PROMPT | {"stream": True}},
        answers={
            200: Answer(f"The texts; {EVENTS}", {JSON: Completion, SSE: Either((Completion, ErrorBody))}, ID),
            **REFUSED,
        },
    ),
    Operation(
        method="get",
        path="/v1/models",
        tag=TAG,
        says="The models that are served",
        answers={200: Answer("All of them.", {JSON: ModelList}), **refusals(401, 500, 503, error=ErrorBody)},
    ),
    Operation(
        method="get",
        path="/v1/models/<path:name>",
        tag=TAG,
        says="One model",
        parameters=(MODEL,),
        answers={200: Answer("It.", {JSON: ModelCard}), **refusals(401, 404, 500, 503, error=ErrorBody)},
    ),
    Operation(
        method="post",
        path="/chat_tokenize",
        tag=TAG,
        says="The tokens of a chat, and its text",
        body=ChatRequest,
        examples={"hello": HELLO},
        answers={
            200: Answer("The prompt that the model would see.", {JSON: TokenizedChat}),
            **refusals(404, *TAKES_A_BODY, *ALWAYS),
        },
    ),
)
