"""A whole server through HTTP: gateway, Redis and worker, beside `transformers serve --continuous-batching`.

Both serve the same folder (a random Llama with a byte-level tokenizer: a character is a token), greedy, on the CPU. So
many clients at once send one request after another and wait for whole answers. The model's end token has a score of
zero, which greedy never chooses: every request gets all the tokens that it asks for, whatever the server. Tokens are
counted from the answers. Ours is asked through TGI's API (/generate), the peer through OpenAI's (/v1/completions).

Both servers run all the time; each round puts the same requests to one, then to the other, in random order, and ratios
are taken within the round. CPU is that of all processes of a server, Redis and gateway included. A server that has
nothing to do should cost nothing: what it took during the other's turn is printed too.

The peer has the worker's environment, as many KV tokens as the worker, and otherwise its own defaults
(--peer-options adds to them). The bias: client, gateway, Redis and engine share the machine's cores, and the peer is
one process with nothing between HTTP and engine, remembers nothing and survives nothing.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import LlamaForCausalLM

from bench.hardware import hardware, spread
from bench.loop import random_llama
from sagrada.embedded import EmbeddedServer, free_port
from tests.support.processes import children
from tests.support.tiny import EOS, VOCAB, write_tokenizer
from worker.launcher import DEFAULTS

ROOT = Path(__file__).parents[1]
TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = 256
"""Tokens of a KV block of the peer."""
LETTERS = "abcdefghijklmnopqrstuvwxyz "
NOT_INSTALLED = (
    "transformers serve is not installed: pip install -e '.[bench]', or name a Python that has it "
    "with --peer-python"
)


class NoAnswer(RuntimeError):
    """A server did not answer, or not in time; the message says which, and how far it got."""


@dataclass(frozen=True)
class Request:
    """A prompt of so many characters, which are its tokens, and how many new ones it wants."""

    prompt: str
    new: int


@dataclass(frozen=True)
class Answer:
    """What came back for it."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Server:
    """A running server and how to ask it."""

    name: str
    url: str
    processes: tuple[int, ...]
    """Those that were started; their children count too."""
    ask: Callable[[httpx.Client, Request], Answer]

    def cpu(self) -> float:
        """Seconds that its processes have taken so far."""
        waiting, seconds = list(self.processes), 0.0
        while waiting:
            pid = waiting.pop()
            waiting += children(pid)
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += TICK * (int(fields[11]) + int(fields[12]))
        return seconds


@dataclass(frozen=True)
class Cost:
    """What one server took for a round."""

    tokens: int
    wall: float
    cpu: float
    idle: float
    """CPU seconds per second of the *other's* turn."""
    texts: tuple[str, ...]


def ask_ours(client: httpx.Client, request: Request) -> Answer:
    """Through TGI's API."""
    parameters = {"max_new_tokens": request.new, "details": True}
    answer = client.post("/generate", json={"inputs": request.prompt, "parameters": parameters})
    body = answer.raise_for_status().json()
    return Answer(body["generated_text"], body["details"]["generated_tokens"])


def asker(model: Path) -> Callable[[httpx.Client, Request], Answer]:
    """Through OpenAI's API, which wants the model's name."""

    def ask(client: httpx.Client, request: Request) -> Answer:
        settings = {"model": str(model), "max_tokens": request.new, "temperature": 0}
        answer = client.post("/v1/completions", json={"prompt": request.prompt} | settings)
        body = answer.raise_for_status().json()
        return Answer(body["choices"][0]["text"], body["usage"]["completion_tokens"])

    return ask


@contextmanager
def running(command: Sequence[str], log: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process from here to the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**DEFAULTS, **os.environ, **settings}, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def ours(model: Path, folder: Path, options: argparse.Namespace) -> Iterator[Server]:
    """Redis, worker and gateway, serving."""
    redis, port = EmbeddedServer(folder / "redis"), free_port()
    redis.start()
    settings = {
        "REDIS_URL": redis.url, "MODEL_ID": str(model), "DTYPE": "float32", "PORT": str(port),
        "SLOTS": str(max(options.clients)), "MAX_TOTAL_TOKENS": str(options.prompt + options.new),
    }  # fmt: skip
    with ExitStack() as stack:
        stack.callback(redis.stop)
        started = [
            stack.enter_context(running([sys.executable, "-m", room], folder / f"{room}.log", **settings))
            for room in ("worker", "gateway")
        ]
        assert redis.child is not None
        url = f"http://127.0.0.1:{port}"
        wait_for(url + "/readyz", started, folder / "worker.log", options.patience)
        yield Server("ours", url, (redis.child.pid, *[process.pid for process in started]), ask_ours)


@contextmanager
def peer(model: Path, folder: Path, options: argparse.Namespace) -> Iterator[Server]:
    """transformers' server, listening; it makes its KV cache at the first request."""
    port, log = free_port(), folder / "peer.log"
    blocks = max(options.clients) * -(-(options.prompt + options.new) // PAGE)
    command = [options.peer_python, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--continuous-batching", "--attn-implementation", "sdpa", "--cb-num-blocks", str(blocks)]
    command += shlex.split(options.peer_options)
    with running(command, log, HF_HUB_OFFLINE="1") as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(url + "/health", [process], log, options.patience)
        yield Server("transformers serve", url, (process.pid,), asker(model))


def wait_for(url: str, needed: Sequence[subprocess.Popen[bytes]], log: Path, patience: float) -> None:
    """Until the address answers 200; NoAnswer with the end of the log, at once if a process that it needs ended."""
    end = time.monotonic() + patience
    while time.monotonic() < end and all(process.poll() is None for process in needed):
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise NoAnswer(
        f"{url} was not ready within {patience:g} s, or its process ended; {log.name} ends:\n{tail}"
    )


def serve(server: Server, work: Sequence[Request], clients: int, patience: float) -> list[Answer]:
    """All answers, in order, so many clients asking at once; NoAnswer if one fails or takes too long."""
    answers: dict[int, Answer] = {}
    failures: list[Exception] = []
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(work)):
        waiting.put(index)

    def client() -> None:
        with httpx.Client(base_url=server.url, timeout=patience) as connection:
            while not failures:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    answers[index] = server.ask(connection, work[index])
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise NoAnswer(
            f"{server.name} answered {len(answers)} of {len(work)} requests of {clients} clients, "
            f"then: {type(failures[0]).__name__} {failures[0]} (patience {patience:g} s)"
        )
    return [answers[index] for index in range(len(work))]


def work_of(clients: int, turn: int, options: argparse.Namespace) -> list[Request]:
    """What a round asks, of either server."""
    chance = random.Random(f"{options.seed} {clients} {turn}")

    def text() -> str:
        return "".join(chance.choices(LETTERS, k=chance.randint(16, options.prompt)))

    return [Request(text(), chance.randint(16, options.new)) for _ in range(clients * options.each)]


def turn_of(servers: Sequence[Server], clients: int, turn: int, options: argparse.Namespace) -> list[Cost]:
    """One round: every server, in random order; what each took."""
    work = work_of(clients, turn, options)
    costs: dict[int, Cost] = {}
    for index in random.Random(turn).sample(range(len(servers)), len(servers)):
        before, began = [server.cpu() for server in servers], time.perf_counter()
        answers = serve(servers[index], work, clients, options.patience)
        wall = time.perf_counter() - began
        cpu = [server.cpu() - then for server, then in zip(servers, before, strict=True)]
        texts, tokens = tuple(answer.text for answer in answers), sum(answer.tokens for answer in answers)
        others = sum(cpu) - cpu[index]
        costs[index] = Cost(tokens, wall, cpu[index], others / wall, texts)
    return [costs[index] for index in range(len(servers))]


def report(servers: Sequence[Server], clients: int, rounds: list[list[Cost]]) -> None:
    """A line for each server, the ratios, and how many texts are the same."""
    print(f"\n{clients} clients, {len(rounds)} rounds, median [quartiles]")
    for server, costs in zip(servers, zip(*rounds, strict=True), strict=True):
        speed = spread([cost.tokens / cost.wall for cost in costs], 1)
        cpu = spread([1e3 * cost.cpu / cost.tokens for cost in costs], 1)
        print(f"  {server.name:20}{speed:>24} tokens/s{cpu:>24} ms of CPU per token")
    if len(servers) == 1:
        return
    speeds = [(mine.tokens / mine.wall) / (theirs.tokens / theirs.wall) for mine, theirs in rounds]
    burnt = [(mine.cpu / mine.tokens) / (theirs.cpu / theirs.tokens) for mine, theirs in rounds]
    print(f"  tokens/s, ours over the peer's: {spread(speeds)}")
    print(f"  CPU per token, ours over the peer's: {spread(burnt)}")
    for who, costs in zip(("peer", "ours"), zip(*rounds, strict=True), strict=True):
        print(f"  cores that {who} took while it was not asked: {spread([cost.idle for cost in costs])}")
    pairs = [pair for mine, theirs in rounds for pair in zip(mine.texts, theirs.texts, strict=True)]
    print(f"  same text: {sum(a == b for a, b in pairs)} of {len(pairs)}", flush=True)


def make_model(folder: Path, options: argparse.Namespace) -> Path:
    """A random Llama with the byte-level tokenizer that never ends by itself."""
    shape = {"hidden": options.hidden, "layers": options.layers, "heads": options.hidden // 64}
    positions = max(2048, options.prompt + options.new)
    random_llama(folder, vocab=VOCAB, positions=positions, scale=3.0, **shape)
    auto: Any = LlamaForCausalLM
    model = auto.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[EOS] = 0
    model.config.eos_token_id = model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def has_server(python: str) -> bool:
    """Whether that Python can run transformers' server; psutil is how it learns of the CPU's memory."""
    check = "import fastapi, uvicorn, openai, psutil, transformers.cli.serve"
    return subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--each", type=int, default=2, help="requests of a client, one after another")
    parser.add_argument("--prompt", type=int, default=256, help="longest prompt; the shortest is 16")
    parser.add_argument("--new", type=int, default=128, help="most new tokens; the fewest are 16")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--peer-python", default=sys.executable, help="where transformers[serving] is")
    parser.add_argument("--peer-options", default="", help="more of its command line, in one word")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for an answer, or a start")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def start(stack: ExitStack, folder: Path, options: argparse.Namespace) -> list[Server]:
    """Ours, and the peer if it is installed; both end with the stack."""
    model = make_model(folder / "model", options)
    servers = [stack.enter_context(ours(model, folder, options))]
    if has_server(options.peer_python):
        servers.append(stack.enter_context(peer(model, folder, options)))
    else:
        print(NOT_INSTALLED, file=sys.stderr)
    return servers


def main() -> int:
    """Start both, measure, print; 1, with a sentence, if a server did not answer. Without the peer, ours alone."""
    options = parse()
    print(hardware("torch", "transformers", "celery"))
    print(f"{vars(options)}; both with {DEFAULTS}", flush=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            servers = start(stack, Path(folder), options)
            for clients in options.clients:
                rounds = [turn_of(servers, clients, turn, options) for turn in range(options.rounds + 1)]
                report(servers, clients, rounds[1:])  # the first one was the warm-up
        except NoAnswer as error:
            print(f"no comparison: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
