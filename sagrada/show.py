"""What the terminal shows of a fleet that starts and of a text that streams in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console

from sagrada.client import Event

Say = Callable[[str], None]


@contextmanager
def progress(console: Console) -> Iterator[Say]:
    """A function that shows how far something is: a moving line on a terminal, elsewhere one line per stage."""
    if console.is_terminal:
        with console.status("starting") as status:
            yield lambda text: status.update(text)
        return
    stages = [""]

    def say(text: str) -> None:
        # 12/40 and 13/40 are the same stage.
        if (stage := re.sub(r"[\d.]+", "", text)) != stages[-1]:
            stages.append(stage)
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    yield say


def stream(
    console: Console, events: Iterable[Event], go_on: Callable[[], bool] = lambda: True
) -> Event | None:
    """Print the tokens' text as they come; the last event, or None if `go_on` became false before it.

    Of several choices the first is printed as it comes, the others below it at the end.
    """
    others: dict[int, str] = {}
    last = None
    for event in events:
        if event.type == "token" and event.choice:
            others[event.choice] = others.get(event.choice, "") + event.text
        elif event.type == "token" and event.text:
            _write(console, event.text)
        if event.last or not go_on():
            last = event if event.last else None
            break
    console.print()
    for choice in sorted(others):
        _write(console, f"\n{others[choice]}\n")
    return last


def _write(console: Console, text: str) -> None:
    console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
    console.file.flush()


def timed(events: Iterable[Event], times: list[float]) -> Iterator[Event]:
    """The events, each one's arrival noted in `times` (monotonic seconds)."""
    for event in events:
        times.append(time.monotonic())
        yield event


def summary(last: Event, began: float, times: list[float]) -> str:
    """How it ended and how long it took; `began` and `times` are monotonic seconds."""
    if last.type == "failed":
        return f"The job failed: {last.error}"
    if last.type != "done":
        return f"The job is {last.type}."
    count = last.usage.completion_tokens if last.usage else len(times) - 1
    first, whole = times[0] - began, times[-1] - began
    return f"{count} tokens in {whole:.2f} s, the first after {first:.2f} s; ended by {last.finish_reason}"
