"""The first minute of `sagrada up`: what is loading, and then one generation to see that it works."""

from __future__ import annotations

import shlex
import threading
import time
from typing import Any

from rich.console import Console

from sagrada import show
from sagrada.client import Client, ClientError, Unreachable
from sagrada.config import UpConfig

SAMPLE = "Once upon a time"
SAMPLE_TOKENS = 64


class Greeting(threading.Thread):
    """Watches the fleet until it is ready, then streams one sample to the terminal."""

    def __init__(self, config: UpConfig, console: Console, stop: threading.Event) -> None:
        super().__init__(name="greeting", daemon=True)
        self.ready = threading.Event()
        """Set when a model was served for the first time."""
        self._config, self._console, self._stop = config, console, stop
        self._began = time.monotonic()

    def run(self) -> None:
        """Until the sample is shown, or the fleet is told to stop."""
        with Client(self._config.url, api_key=self._config.api_key) as client:
            with show.progress(self._console) as say:
                while not self._stop.is_set() and not self._look(client, say):
                    self._stop.wait(0.2)
            if self.ready.is_set() and not self._stop.is_set():
                try:
                    self._welcome(client)
                except ClientError as error:
                    self._say(f"The sample could not be shown: {error}")

    def reason(self) -> str:
        """Why no model is served, in the gateway's words; empty if it does not answer."""
        with Client(self._config.url) as client:
            try:
                return client.ready()[1]
            except Unreachable:
                return ""

    def _look(self, client: Client, say: show.Say) -> bool:
        try:
            ready, why = client.ready()
        except Unreachable:
            ready, why = False, "waiting for the gateway"
        if ready:
            self.ready.set()
        else:
            say(why)
        return ready

    def _welcome(self, client: Client) -> None:
        info = client.info()
        seconds = time.monotonic() - self._began
        self._say(f"Ready after {seconds:.1f} s: {_described(info)}\n")
        if not self._config.sample:
            return
        if self._config.asks_for_keys and not self._config.api_key:
            self._say("It asks for keys: make one with `sagrada keys add NAME`, against the Redis above.")
            return
        began, times = time.monotonic(), list[float]()
        job = client.submit(SAMPLE, {"max_new_tokens": SAMPLE_TOKENS})
        self._console.print(SAMPLE, end="", style="bold", highlight=False)
        events = show.timed(client.stream(job.id), times)
        last = show.stream(self._console, events, lambda: not self._stop.is_set())
        if last is not None:
            self._say(f"\n{show.summary(last, began, times)}\n\n{_try_it(self._config)}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _described(info: dict[str, Any]) -> str:
    parts = [str(info.get("model_id", "?")), f"on {info.get('device', '?')}", f"in {info.get('dtype', '?')}"]
    return " ".join(parts) + f", Celery queue {info.get('queue', '?')}"


def _try_it(config: UpConfig) -> str:
    url, key = config.url, ' -H "Authorization: Bearer $API_KEY"' if config.asks_for_keys else ""
    body = shlex.quote('{"inputs": "Tell me a story.", "parameters": {"max_new_tokens": 80}}')
    return (
        f"Try it:  curl -N {url}/generate_stream -H 'Content-Type: application/json'{key} -d {body}\n"
        f"    or:  {'SAGRADA_API_KEY=$API_KEY ' if key else ''}sagrada generate 'Tell me a story.' --url {url}\n"
        "Ctrl-C drains and stops."
    )
