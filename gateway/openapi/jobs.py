"""The job API, for the document."""

from __future__ import annotations

from gateway.job_object import JobObject
from gateway.openapi.operation import (
    ALWAYS,
    JSON,
    RETRY_AFTER,
    SSE,
    TAKES_A_BODY,
    Answer,
    Operation,
    Parameter,
    refusals,
)
from wire.body import GenerateRequest
from wire.events import Cancelled, Done, Expired, Failed, Resumed, Token

TAG = "Jobs"

ID = Parameter("job_id", "path", "The job's id.", {"type": "string", "minLength": 1})
WAIT = Parameter(
    "wait",
    "query",
    "Seconds to wait for the job's end before the answer.",
    {"type": "number", "minimum": 0, "maximum": 60},
)
PREFER = Parameter("Prefer", "header", "`wait=5` does as the query does, for whoever sends no query.")
KEY = Parameter(
    "Idempotency-Key",
    "header",
    "The same key and body again: the same job, not another one.",
    {"type": "string", "minLength": 1, "maxLength": 255},
)
LAST_EVENT = Parameter(
    "Last-Event-ID",
    "header",
    "The last event that was received; the stream goes on behind it.",
    {"type": "integer"},
)
AFTER = Parameter(
    "starting_after", "query", "As Last-Event-ID, for whoever can set no header.", {"type": "integer"}
)

SHOWN = Answer("The job.", {JSON: JobObject}, RETRY_AFTER)
STORY = {
    "inputs": "Once upon a time",
    "parameters": {"max_new_tokens": 32, "do_sample": True, "temperature": 0.8, "seed": 7},
    "priority": 3,
}

OPERATIONS = (
    Operation(
        method="post",
        path="/jobs",
        tag=TAG,
        says="Submit a generation",
        more="It outlives this connection: look at it, wait for it, or stream it by its id.",
        parameters=(WAIT, PREFER, KEY),
        body=GenerateRequest,
        examples={
            "a story": STORY,
            "greedy": {"inputs": "Q: What is the capital of France?\nA:", "parameters": {}},
        },
        answers={
            200: Answer("The job has ended already.", {JSON: JobObject}),
            202: Answer(
                "The job is accepted.", {JSON: JobObject}, {"Location": "Where the job is.", **RETRY_AFTER}
            ),
            **refusals(404, *TAKES_A_BODY, *ALWAYS),
        },
    ),
    Operation(
        method="get",
        path="/jobs/<job_id>",
        tag=TAG,
        says="Look at a job, or wait for it",
        parameters=(ID, WAIT, PREFER),
        answers={200: SHOWN, **refusals(404, 422, *ALWAYS)},
    ),
    Operation(
        method="get",
        path="/jobs/<job_id>/stream",
        tag=TAG,
        says="Follow a job's tokens",
        more="From the first one, or from behind the last one that was received. An EventSource resumes by itself.",
        parameters=(ID, LAST_EVENT, AFTER),
        answers={
            200: Answer("Its events.", {SSE: Token | Resumed | Done | Failed | Cancelled | Expired}),
            204: Answer("The stream has ended, and the client has all of it."),
            **refusals(404, 422, *ALWAYS),
        },
    ),
    Operation(
        method="post",
        path="/jobs/<job_id>/cancel",
        tag=TAG,
        says="Cancel a job",
        more="What it has said stays readable. One that has ended already is left as it is.",
        parameters=(ID,),
        answers={200: SHOWN, **refusals(404, *ALWAYS)},
    ),
    Operation(
        method="delete",
        path="/jobs/<job_id>",
        tag=TAG,
        says="Delete a job that has ended, or cancel one that has not",
        parameters=(ID,),
        answers={
            200: Answer("It had not ended: it is cancelled.", {JSON: JobObject}, RETRY_AFTER),
            204: Answer("It is gone."),
            **refusals(404, *ALWAYS),
        },
    ),
)
