"""TGI's API, for the document."""

from __future__ import annotations

from gateway.errors import Body
from gateway.openai.request import ChatRequest, CompletionRequest
from gateway.openai.shapes import ChatChunk, ChatCompletion, Completion, ErrorBody
from gateway.openapi.openai import HELLO, PROMPT
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
from gateway.tgi.shapes import Generated, Info, Predictions, StreamEvent, TokenizeRequest, VertexRequest
from gateway.tokens import SimpleToken
from wire.body import GenerateRequest

TAG = "TGI"

MODEL = Parameter("model", "query", "Which model; absent: the first one served.")

ID = {"x-request-id": "The job's id."}
TIMES = {
    f"x-{name}": says
    for name, says in (
        ("compute-type", "On what it ran."),
        ("compute-time", "Seconds of the whole request."),
        ("compute-characters", "Characters of the prompt."),
        ("total-time", "Milliseconds, as the next four."),
        ("validation-time", "Until the request was queued."),
        ("queue-time", "In the queue."),
        ("inference-time", "At the model."),
        ("time-per-token", "At the model, for each token."),
        ("prompt-tokens", "Tokens of the prompt."),
        ("generated-tokens", "Tokens of the answer."),
    )
}

STORY = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 32, "details": True}}
SAMPLED = {
    "inputs": "Q: What is the capital of France?\nA:",
    "parameters": {"max_new_tokens": 16, "do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 7},
}
EXAMPLES = {"a story": STORY, "sampled": SAMPLED}

WHOLE = Answer("The text.", {JSON: Generated}, {**ID, **TIMES})
STREAM = Answer("An event for each token.", {SSE: Either((StreamEvent, Body))}, ID)
EITHER = Answer(
    "The text, in a list of one; with `stream` an event for each token.",
    {JSON: list[Generated], SSE: Either((StreamEvent, Body))},
    {**ID, **TIMES},
)
REFUSALS = (404, 424, *TAKES_A_BODY, *ALWAYS)
REFUSED = refusals(*REFUSALS)

OPERATIONS = (
    Operation(
        method="post",
        path="/",
        tag=TAG,
        says="Generate, whole or streamed",
        more="As the Hub's clients call it: `return_full_text` is true unless it is given.",
        body=GenerateRequest,
        examples=EXAMPLES,
        answers={200: EITHER, **REFUSED},
    ),
    Operation(
        method="post",
        path="/generate",
        tag=TAG,
        says="Generate",
        body=GenerateRequest,
        examples=EXAMPLES,
        answers={200: WHOLE, **REFUSED},
    ),
    Operation(
        method="post",
        path="/generate_stream",
        tag=TAG,
        says="Generate, streamed",
        more="What is wrong with the parameters is told in an event, too: the stream has begun by then.",
        body=GenerateRequest,
        examples=EXAMPLES,
        answers={200: STREAM, **REFUSED},
    ),
    Operation(
        method="post",
        path="/invocations",
        tag=TAG,
        says="Generate, as SageMaker calls it",
        more="What POST / takes; with `messages` a chat, with `prompt` a completion, answered as OpenAI's routes do.",
        body=Either((GenerateRequest, ChatRequest, CompletionRequest)),
        examples={**EXAMPLES, "a chat": HELLO, "a completion": PROMPT},
        answers={
            200: Answer(
                EITHER.says,
                {
                    JSON: Either((list[Generated], ChatCompletion, Completion)),
                    SSE: Either((StreamEvent, Body, ChatChunk, Completion, ErrorBody)),
                },
                EITHER.headers,
            ),
            **refusals(*REFUSALS, error=Either((Body, ErrorBody))),
        },
    ),
    Operation(
        method="post",
        path="/tokenize",
        tag=TAG,
        says="The tokens of a text",
        body=TokenizeRequest,
        examples={"a text": {"inputs": "Once upon a time"}},
        answers={
            200: Answer("The tokens.", {JSON: list[SimpleToken]}),
            **refusals(404, *TAKES_A_BODY, *ALWAYS),
        },
    ),
    Operation(
        method="post",
        path="/vertex",
        tag=TAG,
        says="Generate for several prompts, as Vertex AI calls it",
        body=VertexRequest,
        examples={
            "two": {"instances": [STORY, {"inputs": "The sky is", "parameters": {"max_new_tokens": 8}}]}
        },
        answers={200: Answer("The texts, in order.", {JSON: Predictions}, ID), **REFUSED},
    ),
    Operation(
        method="get",
        path="/info",
        tag=TAG,
        says="What is served, and its limits",
        parameters=(MODEL,),
        answers={200: Answer("The model.", {JSON: Info}), **refusals(401, 404, 500, 503)},
    ),
    *(
        Operation(
            method="get",
            path=path,
            tag=TAG,
            says="Is any model served?",
            answers={200: Answer("One is."), **refusals(503)},
        )
        for path in ("/health", "/ping", "/")
    ),
)
