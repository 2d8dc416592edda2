"""From the command to the first token: `sagrada up` with the demo model, everything installed, nothing running.

    python -m bench.start --rounds 5

Includes the embedded Redis, the gateway, torch's import, loading and the warm-up of every bucket. The file cache is
as the machine has it: the first round is the coldest and is not counted.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import httpx

from bench.hardware import hardware
from sagrada.embedded import free_port

BODY = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 8}}


def first_token(url: str, within: float = 180.0) -> None:
    """Ask until a token comes."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            with httpx.stream("POST", url + "/generate_stream", json=BODY, timeout=30) as answer:
                if answer.status_code == 200:
                    for line in answer.iter_lines():
                        if line.startswith("data:"):
                            return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    sys.exit("no token came")


def measure() -> tuple[float, float]:
    """Seconds until the first token, and from Ctrl-C to the end."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "sagrada", "up", "--port", str(port), "--data-dir", folder]
        up = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            first_token(f"http://127.0.0.1:{port}")
            started = time.perf_counter() - began
            began = time.perf_counter()
            up.send_signal(signal.SIGINT)
            up.wait(60)
        finally:
            up.kill()
        return started, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(hardware("torch", "transformers", "celery"))
    rounds = [measure() for _ in range(options.rounds + 1)][1:]
    for what, values in zip(
        ("command to first token", "Ctrl-C to the end"), zip(*rounds, strict=True), strict=True
    ):
        median = statistics.median(values)
        print(
            f"{what:24} {median:5.1f} s (min {min(values):.1f}, max {max(values):.1f}; {len(values)} rounds)"
        )


if __name__ == "__main__":
    main()
