"""One worker: a job's way from any producer to its result, and the ways on which it may end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult

from tests.integration.worker.workers import QUEUE, Office, Subscriber, scripted, text_of
from tests.support.processes import LONG, until
from wire.errors import JobExpired, JobFailed, JobNotFound, ValidationError
from wire.events import Cancelled, Done, Expired, Failed, Token
from wire.keys import TASK_NAME, result_key


@pytest.fixture(scope="module")
def office(busy_office: Office) -> Office:
    return busy_office


def ask(
    office: Office, prompt: Any, tokens: int = 20, app: Celery | None = None, **options: Any
) -> AsyncResult:
    kwargs = {"inputs": prompt, "parameters": {"max_new_tokens": tokens, "seed": 1}}
    sent: AsyncResult = (app or office.plain).send_task(TASK_NAME, kwargs=kwargs, queue=QUEUE, **options)
    return sent


def test_a_job_is_streamed_once_and_stored(office: Office) -> None:
    job_id = office.submit("Tell me of rain", 40, enqueue=False)
    subscriber = Subscriber(office.redis, job_id)
    office.send(job_id)
    events = office.stream(job_id)
    assert [event.seq for event in events] == list(range(41))
    assert isinstance(events[-1], Done)
    assert (events[-1].usage.prompt_tokens, events[-1].usage.completion_tokens) == (15, 40)
    assert text_of(events) == scripted("Tell me of rain", 40)
    assert subscriber.hear(41) == events
    until(lambda: office.redis.exists(result_key(job_id)))
    stored = json.loads(office.redis.get(result_key(job_id)) or b"")
    assert (stored["status"], stored["result"]["text"]) == ("SUCCESS", text_of(events))
    until(lambda: office.unacked() == 0)


def test_every_producer_gets_the_same_answer(office: Office) -> None:
    packing = Celery(broker=office.url, backend=office.url, set_as_current=False)
    packing.conf.update(task_serializer="msgpack", accept_content=["json", "msgpack"])
    results = [
        ask(office, "Hello"),
        ask(office, "Hello", app=packing),
        office.plain.send_task(TASK_NAME, args=["Hello", {"max_new_tokens": 20, "seed": 1}], queue=QUEUE),
    ]
    for result in results:
        answer = result.get(timeout=LONG)
        assert answer["text"] == scripted("Hello", 20)
        assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25}
        assert (answer["seed"], answer["finish_reason"]) == (1, "length")
    packing.close()


def test_a_stop_string_ends_the_text_wherever_the_tokens_cut_it(office: Office) -> None:
    whole = scripted("Hello", 60)
    stop = whole[20:24]
    kept = office.stream(office.submit("Hello", 60, stop=(stop,)))
    cut = office.stream(office.submit("Hello", 60, stop=(stop,), include_stop=False))
    assert text_of(kept) == whole[: whole.index(stop) + len(stop)]
    assert text_of(cut) == whole[: whole.index(stop)]
    for events in (kept, cut):
        assert isinstance(events[-1], Done)
        assert events[-1].finish_reason == "stop_sequence"
        assert events[-1].usage.completion_tokens == sum(isinstance(event, Token) for event in events)


def test_a_stop_token_ends_engine_and_text_alike(office: Office) -> None:
    whole = scripted("Hello", 60)
    stop: dict[str, Any] = {"stop_token_ids": (ord(whole[20]),), "ignore_eos": True}
    kept, cut = (
        office.stream(office.submit("Hello", 60, include_stop=kept, **stop)) for kept in (True, False)
    )
    end = whole.index(whole[20])
    assert (text_of(kept), text_of(cut)) == (whole[: end + 1], whole[:end])
    for events in (kept, cut):
        assert isinstance(events[-1], Done)
        assert events[-1].finish_reason == "stop_sequence"
        assert events[-1].usage.completion_tokens == sum(isinstance(event, Token) for event in events)


def test_a_stop_token_that_the_model_does_not_have_is_answered(office: Office) -> None:
    (failed,) = office.stream(office.submit("Hello", 9, stop_token_ids=(10**6,)))
    assert isinstance(failed, Failed)
    assert failed.error_type == "validation" and "token ids must lie in [0, 260)" in failed.error


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "inputs"),
        ({"inputs": ""}, "cannot be empty"),
        ({"inputs": 3}, "inputs"),
        ({"inputs": "x" * 5000}, "must be <= 4096"),
        ({"inputs": "x" * 500_000}, "bytes"),
        ({"inputs": "x", "parameters": {"temperature": 0}}, "temperature"),
        ({"inputs": "x", "model": "another"}, "serves"),
    ],
)
def test_a_bad_body_is_answered(office: Office, kwargs: dict[str, Any], words: str) -> None:
    # A message without any argument speaks of a record, which is not there.
    result = office.plain.send_task(TASK_NAME, kwargs={"priority": 5, **kwargs}, queue=QUEUE)
    with pytest.raises(ValidationError, match=words):
        result.get(timeout=LONG)
    record = office.ledger.record(result.id)
    assert record
    assert (record.state, record.error_type) == ("failed", "validation")


def test_a_message_whose_record_is_gone_is_answered(office: Office) -> None:
    with pytest.raises(JobNotFound):
        office.plain.send_task(TASK_NAME, queue=QUEUE).get(timeout=LONG)


def test_a_step_that_raises_ends_its_job_alone(office: Office) -> None:
    bystander = office.submit("Hello", 200)
    result = ask(office, "!raise@3")
    with pytest.raises(JobFailed, match="scripted to raise"):
        result.get(timeout=LONG)
    events = office.stream(result.id)
    assert isinstance(events[-1], Failed)
    assert [event.seq for event in events] == [0, 1, 2, 3]
    assert text_of(office.stream(bystander)) == scripted("Hello", 200)


def test_a_running_job_is_cancelled(office: Office) -> None:
    job_id = office.submit("Hello", 4000)
    until(lambda: office.tokens(job_id) > 5)
    office.cancel(job_id)
    assert isinstance(office.stream(job_id)[-1], Cancelled)
    with pytest.raises(TaskRevokedError):
        AsyncResult(job_id, app=office.plain).get(timeout=LONG)
    until(lambda: office.unacked() == 0 and office.serving()[0].running == 0)


def test_a_queued_job_that_was_cancelled_never_runs(office: Office) -> None:
    job_id = office.submit("Hello", 20, enqueue=False)
    office.cancel(job_id)
    office.send(job_id)
    with pytest.raises(TaskRevokedError):
        AsyncResult(job_id, app=office.plain).get(timeout=LONG)
    assert [type(event) for event in office.stream(job_id)] == [Cancelled]


def test_revoke_with_terminate_ends_job_and_record(office: Office) -> None:
    result = ask(office, "Hello", 4000)
    until(lambda: office.tokens(result.id) > 5)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=LONG)
    assert isinstance(office.stream(result.id)[-1], Cancelled)
    until(lambda: office.unacked() == 0 and office.serving()[0].running == 0)


def test_a_time_limit_ends_job_and_task(office: Office) -> None:
    result = ask(office, "Hello", 4000, time_limit=0.5)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=LONG)
    last = office.stream(result.id)[-1]
    assert isinstance(last, Failed)
    assert "time limit" in last.error


def test_a_deadline_ends_a_running_job(office: Office) -> None:
    kwargs = {"inputs": "Hello", "ttl": 1.0, "parameters": {"max_new_tokens": 4000}}
    result = office.plain.send_task(TASK_NAME, kwargs=kwargs, queue=QUEUE)
    with pytest.raises(JobExpired):
        result.get(timeout=LONG)
    assert isinstance(office.stream(result.id)[-1], Expired)


def test_the_tools_of_celery_work_and_see_no_prompt(office: Office) -> None:
    result = ask(office, "My secret is tulips", 1500)
    until(lambda: office.tokens(result.id) > 5)
    inspect = office.plain.control.inspect(timeout=2)
    active = until(inspect.active)
    stats = until(inspect.stats)
    assert [task["id"] for tasks in active.values() for task in tasks] == [result.id]
    assert [stat["pool"]["active"] for stat in stats.values()] == [1]
    assert "tulips" not in str(active)
    office.cancel(result.id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=LONG)
    assert "tulips" not in office.workers[0].said


def test_many_jobs_of_mixed_lengths_all_end_right(office: Office) -> None:
    jobs = {office.submit(f"Prompt {i}", 1 + i % 23, seed=i): (i, 1 + i % 23) for i in range(120)}
    for job_id, (i, tokens) in jobs.items():
        assert text_of(office.stream(job_id)) == scripted(f"Prompt {i}", tokens, seed=i)
    until(lambda: office.unacked() == 0)
    assert {record.attempt for id in jobs if (record := office.ledger.record(id))} == {1}
    assert office.serving()[0].counters["compilations"] == 0


FLEET = {"live", "workers", "gateways", *(f"q:sagrada.scripted:{part}" for part in ("bell", "taken", "bad"))}
"""What stays in Redis where no job is left, and does not grow with their number (see wire/keys.py)."""


def test_whatever_way_a_job_ended_all_of_it_expires(office: Office) -> None:
    """Also what the tests before this one have left."""
    done, running, queued = office.submit("Hello", 20), office.submit("Hello", 4000), office.submit("Hi", 20)
    until(lambda: office.tokens(running) > 5)
    for job_id in (running, queued):
        office.cancel(job_id)
    for prompt, error in (("!raise@3", JobFailed), ("", ValidationError)):
        with pytest.raises(error):
            ask(office, prompt).get(timeout=LONG)
    for job_id in (done, running, queued):
        office.stream(job_id)
    assert office.ledger.delete(done) == "deleted"
    until(lambda: office.unacked() == 0 and office.serving()[0].running == 0)
    lasting = {key.decode() for key in office.redis.scan_iter() if office.redis.ttl(key) == -1}
    ours = {key for key in lasting if not key.startswith("_kombu.binding")}
    assert ours <= {f"sagrada:{name}" for name in FLEET}
    assert office.redis.zcard("sagrada:live") == office.redis.zcard("sagrada:workers") == 1
