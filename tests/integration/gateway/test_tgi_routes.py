"""The routes of TGI's that are not /generate: what SageMaker, Vertex, the Hub's clients and load balancers call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.gateway.client import Post, http, submit
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import until

INFO = [
    "model_id",
    "model_sha",
    "model_pipeline_tag",
    "max_concurrent_requests",
    "max_best_of",
    "max_stop_sequences",
    "max_input_tokens",
    "max_total_tokens",
    "validation_workers",
    "max_client_batch_size",
    "router",
    "version",
    "sha",
    "docker_label",
]
"""TGI's keys, in its order."""

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "the cat"}]}


def body(inputs: str = "the cat", tokens: int = 2, **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": {"max_new_tokens": tokens, **parameters}}


@pytest.mark.parametrize("route", ["/", "/invocations"])
def test_the_hubs_clients_get_a_list_of_one_with_the_prompt(url: str, worker: FakeWorker, route: str) -> None:
    answer = http.post(url + route, json=body())
    assert answer.content == b'[{"generated_text":"the catw0 w1 "}]'
    assert answer.headers["x-prompt-tokens"] == "2" and answer.headers["x-generated-tokens"] == "2"
    assert worker.ledger.record(answer.headers["x-request-id"])
    bare = http.post(url + route, json=body(return_full_text=False) | {"stream": False})
    assert bare.json() == [{"generated_text": "w0 w1 "}]
    failed = http.post(url + route, json=body("fail"))
    assert failed.status_code == 424 and failed.json()["error_type"] == "generation"
    assert worker.ledger.record(failed.headers["x-request-id"])


def test_details_in_tgis_order(url: str, worker: FakeWorker) -> None:
    asked = body(tokens=1, details=True, decoder_input_details=True, top_n_tokens=1)
    assert http.post(url + "/generate", json=asked).content == (
        b'{"generated_text":"w0 ","details":{"finish_reason":"length","generated_tokens":1,"seed":null,'
        b'"prefill":[{"id":2,"text":"the","logprob":null},{"id":3,"text":"cat","logprob":-0.25}],'
        b'"tokens":[{"id":2,"text":"w0 ","logprob":-0.5,"special":false}],'
        b'"top_tokens":[[{"id":2,"text":"the","logprob":-0.5,"special":false}]]}}'
    )
    prefill = http.post(url + "/generate", json=body(decoder_input_details=True)).json()["details"]["prefill"]
    assert [each["id"] for each in prefill] == [2, 3], "which switches details on"


def test_the_other_of_the_best_has_all_details_too(url: str, worker: FakeWorker) -> None:
    asked = body(best_of=2, do_sample=True, decoder_input_details=True, top_n_tokens=2)
    details = http.post(url + "/generate", json=asked).json()["details"]
    (other,) = details["best_of_sequences"]
    assert list(other) == [
        "generated_text", "finish_reason", "generated_tokens", "seed", "prefill", "tokens", "top_tokens",
    ]  # fmt: skip
    assert other["prefill"] == details["prefill"] and len(other["prefill"]) == 2
    assert [len(details["top_tokens"]), len(other["top_tokens"])] == [2, 1]


class TestInvocations:
    def test_without_any_of_the_three_it_says_what_is_missing(self, url: str, worker: FakeWorker) -> None:
        nothing: list[dict[str, Any]] = [{}, {"inputs": None}, {"parameters": {}}]
        for asked in nothing:
            answer = http.post(url + "/invocations", json=asked)
            assert answer.status_code == 422 and "`inputs`, `messages` and `prompt`" in answer.json()["error"]

    def test_inputs_come_first(self, url: str, worker: FakeWorker) -> None:
        asked = body() | {"messages": [{"role": "user", "content": "a"}], "prompt": "a"}
        assert http.post(url + "/invocations", json=asked).json() == [{"generated_text": "the catw0 w1 "}]


class TestChats:
    """Bodies of OpenAI's where TGI takes them, too."""

    def test_invocations_answers_as_their_own_routes_do(self, url: str, worker: FakeWorker) -> None:
        chat = http.post(url + "/invocations", json=CHAT | {"max_tokens": 2}).json()
        assert chat["object"] == "chat.completion" and chat["choices"][0]["message"]["content"] == "w0 w1 "
        text = http.post(url + "/invocations", json={"prompt": "the cat", "max_tokens": 2}).json()
        assert text["object"] == "text_completion" and text["choices"][0]["text"] == "w0 w1 "
        streamed = http.post(url + "/invocations", json=CHAT | {"max_tokens": 2, "stream": True}).text
        assert streamed.startswith("data: {") and streamed.endswith("data: [DONE]\n\n")

    def test_messages_come_before_a_prompt(self, url: str, worker: FakeWorker) -> None:
        both = http.post(url + "/invocations", json=CHAT | {"prompt": "a", "max_tokens": 1}).json()
        assert both["object"] == "chat.completion"

    def test_what_is_wrong_is_told_in_their_routes_words(self, url: str, worker: FakeWorker) -> None:
        for asked, route in [
            (CHAT | {"top_p": 2}, "/v1/chat/completions"),
            (CHAT | {"model": "nobody"}, "/v1/chat/completions"),
            ({"prompt": []}, "/v1/completions"),
            ({"prompt": "fail"}, "/v1/completions"),
        ]:
            there, here = (http.post(url + each, json=asked) for each in (route, "/invocations"))
            assert here.status_code == there.status_code >= 400 and here.json() == there.json()
            assert "message" in here.json()["error"]

    def test_vertex_takes_chats_beside_prompts(self, url: str, worker: FakeWorker) -> None:
        asked = [CHAT | {"max_tokens": 2}, body(tokens=1), CHAT | {"max_tokens": 9, "stop": ["w2"]}]
        answer = http.post(url + "/vertex", json={"instances": asked})
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][:2] == ["w0 w1 ", "w0 "]

    @pytest.mark.parametrize("fields", [{"top_p": 2}, {"n": 2}, {"messages": []}])
    def test_vertex_refuses_a_bad_chat(self, url: str, worker: FakeWorker, fields: dict[str, Any]) -> None:
        answer = http.post(url + "/vertex", json={"instances": [CHAT | fields]})
        assert answer.status_code == 422 and answer.json()["error_type"] == "validation"


class TestVertex:
    def test_predictions_come_in_the_order_of_their_instances(self, url: str, worker: FakeWorker) -> None:
        asked = [body("the cat", tokens=3), body("a mat", return_full_text=True), body(tokens=1)]
        answer = http.post(url + "/vertex", json={"instances": asked})
        assert answer.content == b'{"predictions":["w0 w1 w2 ","a matw0 w1 ","w0 "]}'
        ids = answer.headers["x-request-id"].split(", ")
        assert len(ids) == 3 and all(map(worker.ledger.record, ids))

    def test_all_parameters_hold(self, url: str, worker: FakeWorker) -> None:
        """TGI looks at max_new_tokens and seed alone."""
        asked = [body(tokens=9, stop=["w3"], seed=7), body("the cat sat", truncate=1)]
        answer = http.post(url + "/vertex", json={"instances": asked})
        assert answer.json()["predictions"] == ["w0 w1 w2 w3 ", "w0 w1 "]

    def test_they_run_at_once(self, url: str, worker: FakeWorker) -> None:
        worker.pause()
        with Post(url, "/vertex", {"instances": [body()] * 4}) as waiting:
            until(lambda: len(worker.running) == 4, 30, "all four")
            worker.steps.set()
            assert waiting.read().endswith(b'{"predictions":["w0 w1 ","w0 w1 ","w0 w1 ","w0 w1 "]}')

    def test_none_and_too_many_are_refused(self, url: str, worker: FakeWorker) -> None:
        worker.hold()
        for count, word in ((0, "`instances` cannot be empty"), (5, "maximum allowed batch size of 4")):
            answer = http.post(url + "/vertex", json={"instances": [body()] * count})
            assert answer.status_code == 422 and answer.json()["error_type"] == "validation"
            assert word in answer.json()["error"]
        assert worker.queue.size() == 0

    def test_one_that_cannot_be_accepted_takes_the_others_back(self, url: str, worker: FakeWorker) -> None:
        worker.hold()
        answer = http.post(url + "/vertex", json={"instances": [body(), body(top_p=2)]})
        assert answer.status_code == 422 and "`top_p`" in answer.json()["error"]
        until(lambda: worker.queue.size() == 0, 30, "an empty queue")

    def test_one_that_fails_ends_the_others(self, url: str, worker: FakeWorker) -> None:
        answer = http.post(url + "/vertex", json={"instances": [body(tokens=1900), body("fail")]})
        assert answer.status_code == 424 and answer.json() == {
            "error": "Request failed during generation: the cat is not at home",
            "error_type": "generation",
        }
        first, _ = answer.headers["x-request-id"].split(", ")
        until(lambda: (r := worker.ledger.record(first)) and r.state == "cancelled", 30, "the cancel")

    @pytest.mark.parametrize("phase", ["queued", "running"])
    def test_a_client_that_leaves_cancels_all(self, url: str, worker: FakeWorker, phase: str) -> None:
        if phase == "queued":
            worker.hold()
        with Post(url, "/vertex", {"instances": [body(tokens=1900)] * 3}):
            ids = until(
                lambda: ids if len(ids := worker.queue.peek() or list(worker.running)) == 3 else None,
                30,
                "three jobs",
            )

        def cancelled() -> bool:
            records = [worker.ledger.record(job_id) for job_id in ids]
            return all(record is not None and record.state == "cancelled" for record in records)

        until(cancelled, 30, "the cancel")
        until(lambda: worker.queue.size() == 0 and not worker.running, 30, "an idle worker")


class TestTokenize:
    def test_places_are_bytes(self, url: str, worker: FakeWorker) -> None:
        answer = http.post(url + "/tokenize", json={"inputs": "é the  cât"})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        assert answer.json() == [
            {"id": 8, "text": "é", "start": 0, "stop": 2},
            {"id": 2, "text": "the", "start": 3, "stop": 6},
            {"id": 0, "text": "cât", "start": 8, "stop": 12},
        ]
        assert http.post(url + "/tokenize", json={"inputs": ""}).json() == []

    def test_parameters_are_read_but_nothing_is_cut(self, url: str, worker: FakeWorker) -> None:
        """As in TGI, `truncate` is of no effect, and no limit of the model's holds."""
        asked = body("cat " * 500, truncate=1)
        assert len(http.post(url + "/tokenize", json=asked).json()) == 500
        wrong = http.post(url + "/tokenize", json=body(max_new_tokens="two"))
        assert wrong.status_code == 422 and wrong.json()["error_type"] == "validation"
        assert http.post(url + "/tokenize", json={"inputs": ["the"]}).status_code == 422
        half = b'{"inputs":"\\ud800"}'
        answer = http.post(url + "/tokenize", content=half, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, "half a character"

    def test_a_long_text_has_a_long_answer(self, url: str, worker: FakeWorker) -> None:
        tokens = http.post(url + "/tokenize", json={"inputs": "cat é " * 10_000}).json()
        assert len(tokens) == 20_000 and tokens[-1]["start"] == tokens[-1]["stop"] - 2 == 69_997

    def test_it_never_waits_behind_generations(self, narrow_url: str, worker: FakeWorker) -> None:
        worker.hold()
        while (answer := submit(narrow_url)).status_code == 202:
            pass
        assert answer.status_code == 429
        assert len(http.post(narrow_url + "/tokenize", json={"inputs": "the cat"}, timeout=5).json()) == 2

    def test_an_unknown_model_and_one_that_loads(self, url: str, worker: FakeWorker) -> None:
        answer = http.post(url + "/tokenize", json={"inputs": "a", "model": "nobody"})
        assert answer.status_code == 404 and answer.json()["error_type"] == "model_not_found"


class TestAbout:
    def test_info_has_tgis_keys_and_then_ours(self, url: str, worker: FakeWorker) -> None:
        info = http.get(url + "/info").json()
        assert list(info)[: len(INFO)] == INFO
        assert (info["model_id"], info["model_pipeline_tag"]) == ("fake", "text-generation")
        assert [info["max_best_of"], info["max_stop_sequences"], info["max_client_batch_size"]] == [2, 4, 4]
        assert [info["max_input_tokens"], info["max_total_tokens"]] == [64, 2048]
        assert info["workers"][0]["name"] == "fake@test"

    @pytest.mark.parametrize("route", ["/", "/health", "/ping"])
    def test_health_is_an_empty_200_or_a_503_that_says_why(
        self, url: str, worker: FakeWorker, route: str
    ) -> None:
        well = http.get(url + route)
        assert well.status_code == 200 and not well.content
        worker.state = "draining"
        worker.publish()
        ill = until(lambda: (a := http.get(url + route)).status_code == 503 and a, 30, "the news")
        assert ill.json()["error_type"] == "healthcheck" and ill.json()["error"].startswith("unhealthy: ")
        worker.state = "serving"
        worker.publish()
        until(lambda: http.get(url + route).status_code == 200, 30, "its return")


class TestStrict:
    """TGI's habits on TGI's routes, and bounds that were set."""

    def test_what_does_not_fit_is_refused_or_cut(self, url: str, strict_url: str, worker: FakeWorker) -> None:
        worker.pause()
        refused = http.post(url + "/generate", json=body(tokens=10_000))
        assert refused.status_code == 422 and "Given: 2 `inputs` tokens and 10000" in refused.json()["error"]
        for route in ("/generate", "/generate_stream", "/", "/jobs"):
            with Post(strict_url, route, body(tokens=10_000)):
                (running,) = until(lambda: list(worker.running.values()), 30, "the job")
                assert running.claimed.job.params.max_new_tokens == 2046
                http.post(f"{strict_url}/jobs/{running.claimed.job.id}/cancel")
                worker.running.clear()

    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not allowed for this endpoint"),
            ({"stop": ["a", "b"]}, "`stop` supports up to 1 stop sequences. Given: 2"),
            ({"top_n_tokens": 2}, "`top_n_tokens` must be >= 0 and <= 1. Given: 2"),
        ],
    )
    def test_the_bounds_are_the_settings(
        self, strict_url: str, worker: FakeWorker, fields: dict[str, Any], sentence: str
    ) -> None:
        for route in ("/generate", "/jobs"):
            answer = http.post(strict_url + route, json=body(**fields))
            assert answer.json()["error"] == f"Input validation error: {sentence}"

    def test_info_tells_them(self, strict_url: str, worker: FakeWorker) -> None:
        info = http.get(strict_url + "/info").json()
        assert [info["max_best_of"], info["max_stop_sequences"], info["max_client_batch_size"]] == [1, 1, 5]
        assert http.post(strict_url + "/vertex", json={"instances": [body()] * 5}).status_code == 200
