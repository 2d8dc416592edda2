"""Many readers, broken connections, slow clients: every stream stays whole, and none holds a thread."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import SILENCE
from gateway.exchange import MAX_UNSENT
from tests.integration.gateway.client import http, job, submit
from tests.integration.gateway.conftest import GatewayProcess, sees_worker
from tests.integration.gateway.fake import FakeWorker
from tests.support.processes import children, until
from tests.support.sse import follow, frames


@contextlib.contextmanager
def raw_stream(url: str, job_id: str, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """The stream's socket, the request sent."""
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as sock:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(60)
        sock.connect((host, int(port)))
        sock.sendall(f"GET /jobs/{job_id}/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        yield sock


def clumsy_reader(url: str, job_id: str, seed: int) -> tuple[list[int], int]:
    """(every seq in the order it came, connections) of a reader that hangs up again and again."""
    chance, seqs, connections = random.Random(seed), list[int](), 0
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        patience, connections = chance.randint(1, 60), connections + 1
        headers = {"Last-Event-ID": str(seqs[-1])} if seqs else {}
        with http.stream("GET", f"{url}/jobs/{job_id}/stream", headers=headers) as response:
            assert response.status_code == 200
            for _, event in frames(response):
                if event["type"] == "resumed":
                    continue
                seqs.append(event["seq"])
                if event["type"] == "done":
                    return seqs, connections
                patience -= 1
                if not patience:
                    break
    raise AssertionError(f"no end for {job_id}: {seqs[-3:]}")


def test_readers_that_reconnect_at_random_miss_nothing_and_get_nothing_twice(
    url: str, worker: FakeWorker
) -> None:
    jobs, tokens, readers = 20, 100, 3
    ids = [submit(url, tokens).json()["id"] for _ in range(jobs)]
    trouble = threading.Event()

    def disturb() -> None:
        """New attempts, and the gateway's pub/sub connection cut, in the middle of it all."""
        while not trouble.wait(0.25):
            worker.resume_all()
            worker.redis.client_kill_filter(_type="pubsub")

    with ThreadPoolExecutor(jobs * readers + 1) as pool:
        disturbing = pool.submit(disturb)
        reads = [pool.submit(clumsy_reader, url, id, n) for n, id in enumerate(ids * readers)]
        try:
            got = [read.result(150) for read in reads]
        finally:
            trouble.set()
        disturbing.result(10)
    assert all(seqs == list(range(tokens + 1)) for seqs, _ in got)
    assert sum(connections for _, connections in got) > 2 * len(got), "they did reconnect"


def test_a_cut_pubsub_connection_is_not_seen_by_the_client(url: str, worker: FakeWorker) -> None:
    job_id = submit(url, 1000).json()["id"]
    cuts, seqs = 0, []
    with http.stream("GET", f"{url}/jobs/{job_id}/stream") as response:
        for _, event in frames(response):
            seqs.append(event["seq"])
            if event["seq"] in (10, 100, 200):
                cuts += worker.redis.client_kill_filter(_type="pubsub")
    assert seqs == list(range(1001)) and cuts >= 1


def threads_of(pid: int) -> int:
    """Threads of all processes of this gateway."""
    pids = [pid, *(int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return max(len(list(Path(f"/proc/{p}/task").iterdir())) for p in pids)


def test_200_streams_hold_no_thread_and_all_end(
    narrow: GatewayProcess, narrow_url: str, worker: FakeWorker
) -> None:
    worker.hold()
    ids = [submit(narrow_url, 5).json()["id"] for _ in range(49)]
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(raw_stream(narrow_url, ids[n % 49])) for n in range(200)]
        assert all(sock.recv(17, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK\r\n" for sock in socks)
        assert threads_of(narrow.process.pid) <= 4 + 4 + 6
        assert job(narrow_url, ids[0])["status"] == "queued", "threads are left for others"
        refused = http.get(f"{narrow_url}/jobs/{ids[0]}/stream")
        assert refused.status_code == 429 and refused.headers["retry-after"]
        assert job(narrow_url, ids[0], "?wait=60")["status"] == "queued", "no room to wait: answered at once"
        refused = http.post(narrow_url + "/generate", json={"inputs": "the cat"})
        assert refused.status_code == 429 and worker.queue.size() == 49, "nothing was accepted"
        worker.takes.set()
        for sock in socks:
            text = b"".join(iter(partial(sock.recv, 65536), b""))
            assert text.count(b"data: ") == 6 and b'"type":"done"' in text and text.endswith(b"0\r\n\r\n")


def test_a_slow_client_is_dropped_and_goes_on_later(url: str, worker: FakeWorker) -> None:
    """Texts of 8 kB a token fill what the gateway keeps for a client that does not read."""
    worker.word = "x" * 8192
    job_id = submit(url, 600).json()["id"]
    with raw_stream(url, job_id, receive_buffer=4096) as sock:
        quick = [e["seq"] for e in events_of(url, job_id)]
        assert quick == list(range(601)), "others are not held up"
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(1 << 20):
                received += data
    assert b'"type":"done"' not in received
    last = received.count(b"\nid: ") - 2  # the very last one may be cut
    rest = events_of(url, job_id, {"Last-Event-ID": str(last)})
    assert [e["seq"] for e in rest] == list(range(last + 1, 601))


def events_of(url: str, job_id: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    with http.stream("GET", f"{url}/jobs/{job_id}/stream", headers=headers) as response:
        return [event for _, event in frames(response) if event["type"] != "resumed"]


def test_leaving_a_jobs_stream_or_wait_cancels_nothing(url: str, worker: FakeWorker) -> None:
    job_id = submit(url, 300).json()["id"]
    with raw_stream(url, job_id) as sock:
        assert sock.recv(4096)
    with socket.create_connection(tuple(url.removeprefix("http://").split(":")), timeout=30) as sock:  # type: ignore[arg-type]
        sock.sendall(f"GET /jobs/{job_id}?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        time.sleep(0.1)
    assert job(url, job_id, "?wait=60")["status"] == "completed"


def test_a_head_request_waits_for_nothing(url: str, worker: FakeWorker) -> None:
    worker.hold()
    job_id = submit(url).json()["id"]
    for path in (f"/jobs/{job_id}/stream", f"/jobs/{job_id}?wait=60"):
        assert http.head(url + path).status_code == 200


def test_closed_streams_leave_nothing_behind(url: str, worker: FakeWorker) -> None:
    worker.hold()
    job_id = submit(url, 5).json()["id"]
    for _ in range(20):
        with raw_stream(url, job_id) as sock:
            assert sock.recv(17, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK\r\n"

    def nothing_left() -> bool:
        return not streams(url) and not worker.redis.pubsub_channels("sagrada:*:tokens")

    until(nothing_left, 30, "all streams closed and unsubscribed")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_old_clients_get_no_chunks(url: str, worker: FakeWorker, version: str) -> None:
    worker.hold()
    job_id = submit(url, 2).json()["id"]
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(f"GET /jobs/{job_id}/stream HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        head = sock.recv(17, socket.MSG_WAITALL)
        worker.takes.set()
        head, _, rest = (head + b"".join(iter(lambda: sock.recv(65536), b""))).partition(b"\r\n\r\n")
    assert (b"chunked" in head) == (version == "1.1")
    assert rest.startswith(b"retry: 1000\n\n") == (version == "1.0")
    assert b"Connection: close" in head and b'"type":"done"' in rest


def peak(pid: int) -> int:
    """The most bytes that a gateway's processes have had in memory."""
    status = [Path(f"/proc/{p}/status").read_text() for p in (pid, *children(pid))]
    return 1024 * sum(int(text.partition("VmHWM:")[2].split()[0]) for text in status)


@pytest.mark.full
def test_clients_that_never_read_cost_little_and_delay_nobody(
    gateway: GatewayProcess, url: str, worker: FakeWorker
) -> None:
    """40 dead clients of a stream of 10 MB beside 50 readers of their own streams."""
    worker.hold()
    big = submit(url, 1200).json()["id"]
    worker.words[big] = "x" * 8192
    others = [submit(url, 400).json()["id"] for _ in range(50)]
    with ThreadPoolExecutor(50) as pool, contextlib.ExitStack() as stack:
        dead = [stack.enter_context(raw_stream(url, big, receive_buffer=4096)) for _ in range(40)]
        assert all(sock.recv(17, socket.MSG_WAITALL) for sock in dead)
        before = peak(gateway.process.pid)
        reads = [pool.submit(events_of, url, job_id) for job_id in others]
        worker.takes.set()
        for read in reads:
            assert [event["seq"] for event in read.result(120)] == list(range(401))
        until(lambda: worker.ledger.record(big).terminal, 60, "the end of the big one")  # type: ignore[union-attr]
        until(lambda: streams(url) == 0, what="the dead to be dropped")
        assert peak(gateway.process.pid) - before < 40 * 2 * MAX_UNSENT
    assert [event["seq"] for event in events_of(url, big)] == list(range(1201))


def streams(url: str) -> int:
    """Open streams of all gateways: those of other tests may live on, and have none."""
    lines = http.get(url + "/metrics").text.splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("sagrada_gateway_streams{"))


@pytest.mark.full
def test_a_gateway_that_redis_cuts_for_being_too_far_behind_reads_the_logs(
    gateway: GatewayProcess, url: str, worker: FakeWorker
) -> None:
    def cut() -> int:
        return int(worker.redis.info("stats")["client_output_buffer_limit_disconnections"])

    before, processes = cut(), [gateway.process.pid, *children(gateway.process.pid)]
    limits = worker.redis.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    worker.redis.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
    worker.pause()
    ids = [submit(url, 250).json()["id"] for _ in range(3)]
    worker.words[ids[0]] = "x" * 65536
    try:
        with ThreadPoolExecutor(3) as pool:
            reads = [pool.submit(follow, url, job_id) for job_id in ids]
            until(lambda: streams(url) == 3, what="the streams")
            for pid in processes:
                os.kill(pid, signal.SIGSTOP)
            worker.steps.set()
            until(lambda: cut() > before, what="Redis to lose its patience")
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
            assert [[e["seq"] for e in read.result(60)] for read in reads] == [list(range(251))] * 3
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        worker.redis.config_set("client-output-buffer-limit", str(limits))


@pytest.mark.full
@pytest.mark.parametrize(
    "request_line", ["GET /jobs/{id}/stream HTTP/1.1", "GET /jobs/{id} HTTP/1.1", "GET /liv"]
)
def test_clients_that_stop_in_the_middle_keep_no_thread_for_long(
    redis_url: str, worker: FakeWorker, tmp_path: Path, request_line: str
) -> None:
    """Of an answer of 5 MB, or of their own request."""
    with (
        GatewayProcess(redis_url, tmp_path / "log", GATEWAY_THREADS="4") as narrow,
        contextlib.ExitStack() as stack,
    ):
        url = sees_worker(narrow)
        worker.hold()
        job_id = submit(url, 600).json()["id"]
        worker.words[job_id] = "x" * 8192
        worker.takes.set()
        until(lambda: job(url, job_id)["status"] == "completed", 60, "the end")
        head = request_line.format(id=job_id) + "\r\nHost: x\r\n\r\n" * request_line.endswith("1.1")
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", narrow.port))
            sock.sendall(head.encode())
        time.sleep(0.5)
        assert http.get(url + "/livez", timeout=2 * SILENCE + 100).status_code == 200
        assert len(events_of(url, job_id)) == 601
        if job_id in head:
            assert http.get(url + "/livez", timeout=SILENCE / 2).status_code == 200, "no thread waits at all"
    assert "Traceback" not in narrow.log.read_text()
