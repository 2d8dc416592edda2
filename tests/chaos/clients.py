"""Clients of the storm: each does one job in its own way and says what became of it."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

from tests.support.sse import TERMINAL, frames, text_of

PATIENCE = 180.0
"""Seconds for one job: it may be begun again several times, behind others that are, too."""
PAUSE = 0.1


@dataclass(frozen=True)
class Wish:
    """What a client asks for; the same wish always has the same answer."""

    inputs: str
    tokens: int
    seed: int | None
    """None: greedy."""
    n: int = 1
    """Choices."""

    def body(self, bound: bool = False) -> dict[str, Any]:
        """The request; of one that is bound to its connection, for the first choice alone: that is all it may have."""
        sampling = {} if self.seed is None else {"do_sample": True, "seed": self.seed, "temperature": 0.9}
        parameters = {"max_new_tokens": self.tokens, "ignore_eos": True, **sampling}
        return {"inputs": self.inputs, "parameters": parameters | ({} if bound else {"n": self.n})}

    def best(self) -> dict[str, Any]:
        """The request for both of two samples, ranked; their seeds are drawn, as TGI has it."""
        sampling = {"do_sample": True, "temperature": 0.9, "best_of": 2, "n": 2}
        parameters = {"max_new_tokens": self.tokens, "ignore_eos": True, **sampling}
        return {"inputs": self.inputs, "parameters": parameters}


Answers: TypeAlias = Mapping[Wish, list[dict[str, Any]]]
"""The token events of each wish, from a run that nothing disturbed, choice by choice."""

POISON = "begun several times"
"""What a job is told that was interrupted too often without a token: one of `best_of` has none before its end."""


class Wrong(AssertionError):
    """A job was lost, or its stream is not what it should be."""


class Client:
    """One at a time; `dice` decides what it does, `counts` says what it did."""

    def __init__(self, addresses: list[str], answers: Answers, dice: random.Random) -> None:
        self._addresses, self._answers, self._dice = addresses, answers, dice
        self._http = httpx.Client(timeout=httpx.Timeout(30, connect=5))
        self.counts: Counter[str] = Counter()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def one(self) -> None:
        """Do one job; Wrong if it was lost or is not what it should be."""
        wish = self._dice.choice(list(self._answers))
        ways: dict[Callable[[Wish], None], int] = {
            self._stream: 40, self._poll: 30, self._slow: 5, self._cancel: 10, self._bound: 10, self._leave: 5,
            self._best: 5,
        }  # fmt: skip
        (way,) = self._dice.choices(list(ways), list(ways.values()))
        way(wish)
        self.counts[way.__name__.strip("_")] += 1

    def _url(self) -> str:
        return self._dice.choice(self._addresses)

    # What a client insists on

    def _insist(self, call: Callable[[], httpx.Response], what: str) -> httpx.Response:
        """The first answer that is none of an outage: a gateway may be dead, Redis away, the queue full."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                answer = call()
                if answer.status_code not in (429, 503):
                    return answer
            except httpx.TransportError:
                pass
            time.sleep(PAUSE)
        raise Wrong(f"{what}: no answer within {PATIENCE:g} s")

    def submit(self, wish: Wish) -> str:
        """The id of an accepted job."""
        return self._submit(wish.body())

    def answer(self, wish: Wish) -> list[dict[str, Any]]:
        """Its token events, choice by choice."""
        return arranged(self.events(self.submit(wish))[:-1])

    def _submit(self, body: dict[str, Any]) -> str:
        """Asked for under one key until there is an answer."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        answer = self._insist(
            lambda: self._http.post(f"{self._url()}/jobs", json=body, headers=key), "submit"
        )
        if answer.status_code not in (200, 202):
            raise Wrong(f"submit: {answer.status_code} {answer.text}")
        self.counts["accepted"] += 1
        return str(answer.json()["id"])

    def _job(self, job: str, wait: float = 0) -> dict[str, Any]:
        answer = self._insist(
            lambda: self._http.get(f"{self._url()}/jobs/{job}", params={"wait": wait}, timeout=wait + 10),
            "poll",
        )
        if answer.status_code != 200:
            raise Wrong(f"job {job} is lost: {answer.status_code} {answer.text}")
        return dict(answer.json())

    # The ways

    def _stream(self, wish: Wish) -> None:
        job = self.submit(wish)
        self._whole(wish, job, self.events(job))

    def _slow(self, wish: Wish) -> None:
        job = self.submit(wish)
        self._whole(wish, job, self.events(job, lambda _: time.sleep(self._dice.uniform(0.01, 0.1))))

    def _poll(self, wish: Wish) -> None:
        job, end = self.submit(wish), time.monotonic() + PATIENCE
        while time.monotonic() < end:
            seen = self._job(job, self._dice.choice([0, 1, 20]))
            if seen["status"] not in ("queued", "in_progress"):
                break
            time.sleep(PAUSE)
        self._same_text(wish, job, seen)

    def _cancel(self, wish: Wish) -> None:
        job, after = self.submit(wish), self._dice.randint(0, wish.tokens)

        def stop(count: int) -> None:
            if count == after:
                self._insist(lambda: self._http.post(f"{self._url()}/jobs/{job}/cancel"), "cancel")

        stop(0)
        events = self.events(job, stop)
        if events[-1]["type"] == "done":
            self._whole(wish, job, events)
            return
        unknown = [event for event in arranged(events[:-1]) if event not in self._answers[wish]]
        if events[-1]["type"] != "cancelled" or unknown:
            raise Wrong(f"job {job} was cancelled: {unknown} are not its tokens, {events[-1]}")

    def _bound(self, wish: Wish) -> None:
        """TGI's /generate: an answer is right; where the connection breaks, nothing was promised."""
        try:
            answer = self._http.post(f"{self._url()}/generate", json=wish.body(bound=True), timeout=PATIENCE)
        except httpx.TransportError:
            self.counts["broken"] += 1
            return
        if answer.status_code == 200 and answer.json()["generated_text"] != text_of(self._answers[wish]):
            raise Wrong(f"/generate: {answer.text}, not {text_of(self._answers[wish])!r}")
        self.counts[f"generate {answer.status_code}"] += 1

    def _leave(self, wish: Wish) -> None:
        """TGI's stream, left in the middle: its job ends as cancelled, or never was."""
        try:
            with self._http.stream(
                "POST", f"{self._url()}/generate_stream", json=wish.body(bound=True)
            ) as response:
                for number, _ in enumerate(frames(response)):
                    if number == wish.tokens // 2:
                        return
        except httpx.TransportError:
            self.counts["broken"] += 1

    def _best(self, wish: Wish) -> None:
        """Both of two: each is what a job with its seed says, and both are counted."""
        job = self._submit(wish.best())
        *tokens, end = self.events(job)
        if end["type"] == "failed" and POISON in end["error"] and not tokens:
            self.counts["gave up"] += 1
            return
        if end["type"] != "done" or end["usage"]["completion_tokens"] != 2 * wish.tokens:
            raise Wrong(f"job {job}: best of two ended as {end}")
        for choice, each in enumerate(end["choices"]):
            alone = self.answer(Wish(wish.inputs, wish.tokens, each["seed"]))
            said = arranged({**event, "choice": 0} for event in tokens if event["choice"] == choice)
            if said != alone:
                raise Wrong(f"job {job}, choice {choice}: {_difference(said, alone)}")

    def events(self, job: str, seen: Callable[[int], None] = lambda _: None) -> list[dict[str, Any]]:
        """Every event of the job; hangs up now and then, and comes back to whichever gateway."""
        end, events, said = time.monotonic() + PATIENCE, list[dict[str, Any]](), Counter[int]()
        while time.monotonic() < end:
            headers = {"Last-Event-ID": str(len(events) - 1)} if events else {}
            stay = self._dice.choice([1, 5, 50, 10_000])
            try:
                with self._http.stream(
                    "GET", f"{self._url()}/jobs/{job}/stream", headers=headers
                ) as response:
                    if response.status_code == 404:
                        raise Wrong(f"job {job} is lost: {response.read()!r}")
                    if response.status_code == 200:
                        for event_id, event in frames(response):
                            if event["type"] == "resumed":
                                self.counts["resumed"] += 1
                                continue
                            if event_id != str(event["seq"]) or event["seq"] != len(events):
                                raise Wrong(f"job {job}: after {len(events)} events came {event_id}, {event}")
                            if event["type"] == "token":
                                if event["index"] != said[event["choice"]]:
                                    raise Wrong(f"job {job}: of its choice {event} is not the next")
                                said[event["choice"]] += 1
                            event.pop("logprob", None)  # its last bits depend on who else ran
                            events.append(event)
                            if event["type"] in TERMINAL:
                                return events
                            seen(len(events))
                            stay -= 1
                            if not stay:
                                break
            except httpx.TransportError:
                pass
            time.sleep(PAUSE)
        raise Wrong(f"job {job}: no end within {PATIENCE:g} s, {len(events)} events so far")

    def _whole(self, wish: Wish, job: str, events: list[dict[str, Any]]) -> None:
        said = arranged(events[:-1])
        if events[-1]["type"] != "done" or said != self._answers[wish]:
            raise Wrong(f"job {job}: {_difference(said, self._answers[wish])}, then {events[-1]}")

    def _same_text(self, wish: Wish, job: str, seen: dict[str, Any]) -> None:
        texts = [text_of(self._answers[wish], choice) for choice in range(wish.n)]
        result = seen["result"] or {"text": None}
        told = [each["text"] for each in result.get("choices", [result])]
        if seen["status"] != "completed" or told != texts or result["text"] != texts[0]:
            raise Wrong(f"job {job} is {seen['status']}: {seen['result']}, not {texts}")


def arranged(tokens: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choice by choice: those of one job may come in any order, and `seq` tells it."""
    bare = ({name: value for name, value in token.items() if name != "seq"} for token in tokens)
    return sorted(bare, key=lambda token: (token["choice"], token["index"]))


def _difference(got: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> str:
    for index, (mine, theirs) in enumerate(zip(got, wanted, strict=False)):
        if mine != theirs:
            return f"event {index} is {mine}, not {theirs}"
    return f"{len(got)} events of {len(wanted)}"
