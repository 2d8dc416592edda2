"""The command line: `sagrada up`, and what talks to a gateway that runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Console

from sagrada import __version__, show
from sagrada.cards import run as run_cards
from sagrada.client import Client, ClientError, Event, Job
from sagrada.config import (
    UpConfig,
    cards_option,
    gateway_options,
    launch_options,
    room_environment,
    up_options,
    variables,
)
from sagrada.embedded import NoServer
from sagrada.from_tgi import NotHere, translate
from sagrada.keys import keys
from sagrada.lock import DataDirInUse
from sagrada.refusals import Interrupted, NoAnswer, Refused
from sagrada.up import CannotStart, run


@contextmanager
def gateway_at(url: str, api_key: str | None) -> Iterator[Client]:
    """A client of the gateway at `url`, whose refusals become the command's."""
    try:
        with Client(url, api_key=api_key) as client:
            yield client
    except ClientError as error:
        kind = NoAnswer if error.status in (0, 429, 503) else Refused
        hint = " (SAGRADA_API_KEY, or --api-key)" if error.status == 401 else ""
        raise kind(f"{error}{hint}") from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sagrada")
def main() -> None:
    """Serve language models from a queue.

    `sagrada up` runs the whole fleet on this machine. The other commands talk to a gateway that runs, at --url or
    SAGRADA_URL, with the key in SAGRADA_API_KEY if it asks for one.

    \b
    Exit codes: 0 done · 1 refused, or the job did not complete · 2 wrong call · 3 no gateway, or it is busy
    """


@main.command()
@up_options
def up(**settings: Any) -> None:
    """Run the fleet: Redis, workers and the gateway, until Ctrl-C.

    Starts a Redis of its own (unless --redis-url), the workers with the model, and the gateway; streams one sample
    to the terminal; starts again what dies. Ctrl-C drains: running jobs finish, waiting ones stay in --data-dir for
    the next `up`. A second Ctrl-C stops at once.
    """
    try:
        run(UpConfig(**settings), Console())
    except (CannotStart, DataDirInUse, NoServer) as error:
        raise Refused(str(error)) from error


@main.command()
@launch_options
def launch(**given: str | tuple[str, ...] | None) -> None:
    """Run the fleet with the flags and variables of text-generation-inference's launcher: the one-container image.

    As `sagrada up`, whose variables work too; gateway and workers log here, and no sample is generated. A flag that
    cannot be honoured is refused with what to use instead, and one that needs no honouring is passed over with a line.
    """
    said = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in given.items()}
    flags = {f"--{name.replace('_', '-')}": value for name, value in said.items() if value}
    try:
        translated = translate(flags, variables())
    except NotHere as error:
        raise Refused(str(error)) from error
    for note in translated.notes:
        click.echo(note, err=True)
    _become("sagrada", ("up", "--logs", "here", "--sample", "no"), translated.settings)


_PASSED_ON: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}


@main.command(context_settings=_PASSED_ON)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def gateway(args: tuple[str, ...]) -> None:
    """Run one gateway: `sagrada gateway --help` lists its options."""
    _become("gateway", args)


@main.command(context_settings=_PASSED_ON)
@cards_option
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def worker(args: tuple[str, ...], cards: str | None) -> None:
    """Run one worker, or with --cards one per card: `sagrada worker --help` lists its options."""
    if not cards or "--help" in args or "-h" in args:
        _become("worker", args)
    sys.exit(run_cards(cards, args, lambda text: click.echo(text, err=True)))


@main.command(context_settings=_PASSED_ON)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def doctor(args: tuple[str, ...]) -> None:
    """Say what is wrong with this machine, and how to mend it: `sagrada doctor --help` lists its options."""
    _become("worker", ("doctor", *args))


@main.command(context_settings=_PASSED_ON)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def plan(args: tuple[str, ...]) -> None:
    """Print a server's plan of shapes: `sagrada plan --help` lists its options.

    Its buckets, the padding to expect, the memory of the KV cache, the time of the warm-up; without a device.
    """
    if find_spec("numpy") is None:
        raise Refused(
            "`sagrada plan` needs numpy, which comes with the worker: pip install 'sagrada[worker]'"
        )
    _become("models", ("plan", *args))


def _become(room: str, args: tuple[str, ...], settings: Mapping[str, str] | None = None) -> NoReturn:
    """`settings`: variables over the environment."""
    os.execve(sys.executable, [sys.executable, "-m", room, *args], {**room_environment(), **(settings or {})})


def request_options(command: Any) -> Any:
    """The prompt and the parameters of one generation: TGI's names."""
    options: tuple[Callable[[Any], Any], ...] = (
        click.argument("prompt"),
        click.option("--max-new-tokens", type=click.IntRange(min=1), help="Most tokens to generate."),
        click.option("--temperature", type=float, help="Sample at this temperature; without it, greedy."),
        click.option("--top-k", type=int, help="Sample among the k likeliest tokens."),
        click.option(
            "--top-p", type=float, help="Sample among the likeliest tokens of this probability mass."
        ),
        click.option("--repetition-penalty", type=float, help="Above 1: repeat less."),
        click.option("--seed", type=int, help="The same seed gives the same text."),
        click.option(
            "--stop", multiple=True, help="End where this text appears; may be given several times."
        ),
        click.option("--do-sample", is_flag=True, default=None, help="Sample instead of greedy choice."),
        click.option("--ignore-eos", is_flag=True, default=None, help="Go on after the end-of-text token."),
        click.option("--n", type=click.IntRange(min=1), help="So many texts of the one prompt."),
        click.option("--model", help="A served model's name. Default: the one that is served."),
        click.option("--priority", type=click.IntRange(0, 9), help="0 is the most urgent, 5 the default."),
        click.option(
            "--ttl", type=float, help="Seconds after which an unfinished job expires. Default: a day."
        ),
        click.option("--start-ttl", type=float, help="Seconds after which a job that still waits expires."),
        gateway_options,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _submit(client: Client, given: Mapping[str, Any]) -> Job:
    """Queue the generation that the options of `request_options` describe."""
    settings = {name: value for name, value in given.items() if value is not None and value != ()}
    own = {name: settings.pop(name) for name in ("model", "priority", "ttl", "start_ttl") if name in settings}
    prompt = settings.pop("prompt")
    inputs = sys.stdin.read() if prompt == "-" else prompt
    return client.submit(inputs, settings, **own)


@main.command()
@request_options
def generate(url: str, api_key: str | None, **given: Any) -> None:
    """Generate a continuation of PROMPT and print it as it comes.

    PROMPT `-` reads the standard input. The text goes to the standard output and how it ended to the standard error.
    Ctrl-C cancels the job.
    """
    with gateway_at(url, api_key) as client:
        began, times = time.monotonic(), list[float]()
        job = _submit(client, given)
        try:
            last = show.stream(Console(), show.timed(client.stream(job.id), times))
        except KeyboardInterrupt:
            client.cancel(job.id)
            click.echo()
            raise Interrupted(f"Interrupted: job {job.id} is cancelled.") from None
    _conclude(last, began, times)


def _conclude(last: Event | None, began: float, times: list[float]) -> None:
    if last is None:
        raise Refused("The stream ended without a last event.")
    sentence = show.summary(last, began, times)
    if last.type != "done":
        raise Refused(sentence)
    click.echo(sentence, err=True)


@main.command()
@request_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole job as JSON.")
def submit(url: str, api_key: str | None, as_json: bool, **given: Any) -> None:
    """Queue a generation and print the job's id. PROMPT `-` reads the standard input.

    Follow it with `sagrada stream ID`, ask with `sagrada status ID`, stop it with `sagrada cancel ID`.
    """
    with gateway_at(url, api_key) as client:
        job = _submit(client, given)
    click.echo(_json(job) if as_json else job.id)


@main.command()
@click.argument("job_id")
@click.option("--wait", type=click.FloatRange(min=0), help="Wait so many seconds for the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole job as JSON.")
@gateway_options
def status(job_id: str, wait: float | None, as_json: bool, url: str, api_key: str | None) -> None:
    """Print how the job stands, and its text when it is completed.

    Exits with 1 when the job failed, expired or was cancelled.
    """
    with gateway_at(url, api_key) as client:
        try:
            job = client.wait(job_id, wait) if wait else client.status(job_id)
        except TimeoutError:
            job = client.status(job_id)
    click.echo(_json(job) if as_json else _told(job))
    if job.ended and job.status != "completed":
        sys.exit(Refused.exit_code)


@main.command()
@click.argument("job_id")
@click.option("--after", type=int, default=-1, help="Start after the event with this `seq`.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
@gateway_options
def stream(job_id: str, after: int, as_json: bool, url: str, api_key: str | None) -> None:
    """Print the job's text from the beginning, then live to its end.

    It may be called any number of times, during the job and after it, and goes on where it was cut off when the
    gateway is restarted. Ctrl-C leaves the job running.
    """
    began, times = time.monotonic(), list[float]()
    with gateway_at(url, api_key) as client:
        events = show.timed(client.stream(job_id, after), times)
        last = _as_lines(events) if as_json else show.stream(Console(), events)
    if last is None and after >= 0:
        return  # everything was seen before
    _conclude(last, began, times)


def _as_lines(events: Iterator[Event]) -> Event | None:
    last = None
    for last in events:
        click.echo(_json(last))
    return last


@main.command()
@click.argument("job_id")
@gateway_options
def cancel(job_id: str, url: str, api_key: str | None) -> None:
    """Stop the job, whether it waits or runs. Harmless when it has ended."""
    with gateway_at(url, api_key) as client:
        click.echo(_told(client.cancel(job_id)))


main.add_command(keys)


def _json(value: Job | Event) -> str:
    fields = {k: v for k, v in msgspec.to_builtins(value).items() if v is not None}
    return msgspec.json.encode(fields).decode()


def _told(job: Job) -> str:
    """The job in a line, and what it gave."""
    if job.result is not None:
        return "\n\n".join(choice.text for choice in job.result.choices) or job.result.text
    if job.error is not None:
        return f"{job.status}: {job.error.message}"
    if job.queue_position is not None:
        wait = f", about {job.estimated_wait:.0f} s to wait" if job.estimated_wait else ""
        return f"{job.status}, number {job.queue_position} in the queue{wait}"
    return job.status


if __name__ == "__main__":
    main()
