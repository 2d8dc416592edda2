"""The fleet's edge as the gateway sees it: one thread that drives the real ledger and registry, and no engine."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from redis import Redis
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from wire.commands import Claimed, Outcome
from wire.events import Done, Failed, Finish, Token
from wire.job import Completion, FinishReason, Job, Result, Scored, Usage, choice_seed
from wire.keys import queue_of
from wire.ledger import Ledger
from wire.queue import TaskQueue
from wire.registry import Registry, WorkerInfo, WorkerState
from wire.tokenizer import Tokenizer

MODEL = "fake"
EOS = 1
WORDS = ["<unk>", "</s>", "the", "cat", "sat", "on", "a", "mat", "é", "fail", "now"]


CHAT_TEMPLATE = (
    '{% if tools %}{{ tools | tojson }} <tool_call> {"name": …}\n{% endif %}'
    "{% for message in messages %}{{ message.role }} {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
"""Of a model that writes its calls as Hermes does."""


def tokenizer_files() -> dict[str, bytes]:
    """A word-level tokenizer of eleven words; every other word is <unk>."""
    vocab = {word: id for id, word in enumerate(WORDS)}
    backend = Backend(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    backend.add_special_tokens(["</s>"])
    config = json.dumps({"eos_token": "</s>", "chat_template": CHAT_TEMPLATE}).encode()
    return {"tokenizer.json": backend.to_str().encode(), "tokenizer_config.json": config}


def likely(job: Job, id: int) -> dict[str, Any]:
    """A token's `top`, if the job asks for it: the chosen one, then the end of the text and what follows it."""
    ids = [id, *(other for other in range(1, 12) if other != id)][: job.params.top_n]
    return {"top": tuple(Scored(each, WORDS[each], -0.5 - at) for at, each in enumerate(ids))} if ids else {}


def scored(job: Job) -> dict[str, Any]:
    """The first token's `prompt`, if the job asks for it."""
    if not job.params.prompt_logprobs:
        return {}
    ids = job.ids or ()
    return {"prompt": tuple(Scored(id, WORDS[id], -0.25 if at else None) for at, id in enumerate(ids))}


@dataclass
class Running:
    """A claimed job and what it has said."""

    claimed: Claimed
    said: list[Token] = field(default_factory=list)


class FakeWorker:
    """Claims what is queued, says one word per step and job: "w0 ", "w1 ", ….

    "fail" in the prompt fails at once, "fail on" after two words.
    """

    def __init__(self, redis_url: str, *, model: str = MODEL, step: float = 0.002, most: int = 2048) -> None:
        """`most`: tokens of prompt and answer together."""
        self.redis = Redis.from_url(redis_url)
        self.ledger, self.registry = Ledger(self.redis), Registry(self.redis)
        self.model, self.step, self.word, self.most = model, step, "w", most
        self.words: dict[str, str] = {}
        """The word of a job that has one of its own."""
        self.pieces: list[str] | None = None
        """What every job says instead, token by token, and then ends."""
        self.queue = TaskQueue(self.redis, queue_of(model))
        self.tokenizer = Tokenizer.from_files(tokenizer_files())
        self.boot, self.progress, self.error = f"boot-{model}", 0.0, ""
        self.state: WorkerState = "serving"
        self.running: dict[str, Running] = {}
        self.takes = threading.Event()
        self.takes.set()
        self.steps = threading.Event()
        self.steps.set()
        self.fenced: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._published = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeWorker:
        self.publish()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self.registry.remove(self.boot)
        self.redis.close()

    def publish(self) -> None:
        info = WorkerInfo(
            boot=self.boot,
            name=f"{self.model}@test",
            model=self.model,
            queue=self.queue.name,
            state=self.state,
            stage="weights" if self.state == "loading" else "",
            progress=self.progress,
            error=self.error,
            device="cpu",
            dtype="float32",
            slots=64,
            running=len(self.running),
            max_input_tokens=64,
            max_total_tokens=self.most,
            eos_ids=(EOS,),
            tokenizer=self.registry.put_blob(tokenizer_files()),
            started=1.0,
            counters={"tokens": 7.0},
        )
        self.registry.publish(info, 30)
        self._published = time.monotonic()

    def hold(self) -> None:
        """Claim nothing more."""
        with self._lock:
            self.takes.clear()

    def pause(self) -> None:
        """Say nothing more."""
        with self._lock:
            self.steps.clear()

    def resume_all(self) -> None:
        """As if the worker had died and another had claimed its jobs."""
        with self._lock:
            for job_id in list(self.running):
                self._claim(job_id)

    def _run(self) -> None:
        while not self._stop.is_set():
            if time.monotonic() - self._published > 5:
                self.publish()
            with self._lock:
                if self.takes.is_set():
                    for job_id in self.queue.peek(1000):
                        self.queue.remove(job_id)
                        self._claim(job_id)
                if self.steps.is_set():
                    for job_id in list(self.running):
                        self._say(job_id)
            time.sleep(self.step if self.running else 5 * self.step)

    def _claim(self, job_id: str) -> None:
        reply = self.ledger.claim(job_id, self.boot)
        self.running.pop(job_id, None)
        if isinstance(reply, Claimed):
            self.running[job_id] = Running(reply, list(reply.tokens))

    def _say(self, job_id: str) -> None:
        now = self.running[job_id]
        job, n = now.claimed.job, len(now.said)
        words = (job.inputs or self.tokenizer.decode(job.ids or ())).split()
        if "fail" in words and n >= 2 * ("on" in words):
            self._finish(now, Failed(seq=n, error="the cat is not at home"))
            return
        if job.params.candidates > 1:
            self._say_all(now)
            return
        if self.pieces is not None:
            self._recite(now, self.pieces)
            return
        last, text = n + 1 >= job.params.max_new_tokens, f"{self.words.get(job.id, self.word)}{n} "
        about = likely(job, 2 + n % 9) | (scored(job) if n == 0 else {})
        token = Token(seq=n, index=n, id=2 + n % 9, text=text, logprob=-0.5, special=False, **about)
        found = [stop for stop in job.params.stop if stop in text]
        if found and not job.params.include_stop:
            token = msgspec.structs.replace(token, text=text.partition(found[0])[0])
        stopped = bool(found) or token.id in job.params.stop_token_ids
        if last or stopped:
            self._done(now, [token], "length" if last else "stop_sequence")
        elif n + 1 == (job.params.min_new_tokens or -1):  # the tests' way to ask for an end of sequence
            said = [token, Token(seq=n + 1, index=n + 1, id=EOS, text="", logprob=-0.1, special=True)]
            self._done(now, said, "eos_token")
        elif self.ledger.append(job_id, now.claimed.attempt, token) is Outcome.OK:
            now.said.append(token)
        else:
            self._drop(job_id)

    def _recite(self, now: Running, pieces: list[str]) -> None:
        most = now.claimed.job.params.max_new_tokens
        said = [
            Token(seq=n, index=n, id=2 + n % 9, text=text, logprob=-0.5, special=False)
            for n, text in enumerate(pieces[:most])
        ]
        if len(pieces) < most:
            said.append(Token(seq=len(said), index=len(said), id=EOS, text="", logprob=-0.1, special=True))
        self._done(now, said, "eos_token" if len(pieces) < most else "length")

    def _say_all(self, now: Running) -> None:
        """Several texts, all at once, each a word shorter than the one before: choice 1 says "w1.0 ", "w1.1 ", …."""
        job, tokens, texts = now.claimed.job, list[Token](), list[Completion]()
        for choice in range(job.params.n):
            said = [f"{self.word}{choice}.{index} " for index in range(job.params.max_new_tokens - choice)]
            for index, text in enumerate(said):
                tokens.append(
                    Token(
                        seq=len(tokens),
                        index=index,
                        id=2 + index % 9,
                        text=text,
                        logprob=-0.5,
                        special=False,
                        choice=choice,
                        **likely(job, 2 + index % 9),
                        **(scored(job) if not tokens else {}),
                    )
                )
            seed = choice_seed(job.params.seed, choice)
            texts.append(
                Completion(text="".join(said), finish_reason="eos_token", seed=seed, tokens=len(said))
            )
        usage = Usage.of(len(job.ids or ()), job.params.candidates * job.params.max_new_tokens)
        first, several = texts[0], len(texts) > 1
        ends = [
            Finish(finish_reason=each.finish_reason, seed=each.seed, tokens=each.tokens) for each in texts
        ]
        end = Done(
            seq=len(tokens),
            finish_reason=first.finish_reason,
            seed=first.seed,
            usage=usage,
            choices=tuple(ends) if several else (),
        )
        result = Result(
            text=first.text,
            finish_reason=first.finish_reason,
            seed=first.seed,
            usage=usage,
            choices=tuple(texts) if several else (),
        )
        self._finish(now, end, result, tokens)

    def _done(self, now: Running, tail: list[Token], reason: FinishReason) -> None:
        job, said = now.claimed.job, now.said + tail
        usage = Usage.of(len(job.ids or ()), len(said))
        text = "".join(token.text for token in said)
        end = Done(seq=len(said), finish_reason=reason, seed=job.params.seed, usage=usage)
        result = Result(text=text, finish_reason=reason, seed=job.params.seed, usage=usage)
        self._finish(now, end, result, tail)

    def _finish(
        self, now: Running, end: Done | Failed, result: Result | None = None, tail: list[Token] | None = None
    ) -> None:
        self.ledger.finish(now.claimed.job.id, now.claimed.attempt, end, result, tail or [])
        self._drop(now.claimed.job.id, fenced=False)

    def _drop(self, job_id: str, fenced: bool = True) -> None:
        if fenced:
            self.fenced.append(job_id)
        self.running.pop(job_id, None)
