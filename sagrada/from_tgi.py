"""From text-generation-inference's launcher to Sagrada: each of its flags, and what becomes of it here.

A flag is *taken*, under its own name or another; or it is *idle*, for what it adjusts is decided otherwise here, and a
line at the start says so; or it is *refused*, where going on without it would give clients something else than was
asked for. docs/from-tgi.md is this table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Fate = Literal["taken", "idle", "refused"]

FALSE = frozenset({"", "false", "0", "no", "off"})


class NotHere(Exception):
    """A flag of TGI's that Sagrada does not have; the message says what to use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag of TGI's launcher."""

    name: str
    fate: Fate
    ours: str = ""
    """The setting of ours that takes it; empty: none."""
    why: str = ""
    """What to use instead, or why nothing is needed; of a refused flag always."""
    aliases: tuple[str, ...] = ()
    switch: bool = False
    """It may stand without a value, which is then `true`."""
    several: bool = False
    """It may be given several times; commas join what it says."""
    harmless: frozenset[str] = frozenset()
    """Values of a refused flag that ask for nothing, and are passed over."""
    in_environment: bool = True
    """Whether a variable of its name means it."""

    @property
    def variable(self) -> str:
        """TGI's environment variable."""
        return _variable(self.name)

    @property
    def variables(self) -> tuple[str, ...]:
        """The same, and those of its aliases."""
        names = (self.variable, *map(_variable, self.aliases))
        return names if self.in_environment else ()


def _variable(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_").upper()


def _taken(name: str, ours: str = "", why: str = "", *, aliases: tuple[str, ...] = ()) -> Flag:
    return Flag(name=name, fate="taken", ours=ours or _variable(name), why=why, aliases=aliases)


def _idle(name: str, why: str, *, switch: bool = False) -> Flag:
    return Flag(name=name, fate="idle", why=why, switch=switch)


def _refused(name: str, why: str, *, switch: bool = False, harmless: frozenset[str] = frozenset()) -> Flag:
    return Flag(name=name, fate="refused", why=why, switch=switch, harmless=harmless)


_NO_RATIO = "prompts are prefilled in pieces between decode steps: nothing waits for a batch to be worth it"
_ONE_PROCESS = "an engine is one process, and its worker speaks to it over a pipe"

FLAGS: tuple[Flag, ...] = (
    _taken("--model-id", why="`demo`, which is built in, if it is not given"),
    _taken("--revision"),
    _idle("--validation-workers", "the gateway tokenises in its own threads: GATEWAY_THREADS"),
    _refused(
        "--sharded",
        "a model runs on one card so far: for more throughput run a worker per card, `sagrada worker --cards all`",
        harmless=FALSE,
    ),
    _taken("--num-shard", why="1; more is refused by the worker so far"),
    _refused(
        "--quantize",
        "weights are served as the checkpoint has them: choose a checkpoint of the type you want, and DTYPE",
    ),
    _refused("--speculate", "there is no speculative decoding: leave it out", harmless=frozenset({"0"})),
    _taken("--dtype", why="float32 and float64, too"),
    _refused("--kv-cache-dtype", "the cache is kept in the type of the weights: set DTYPE"),
    _refused(
        "--trust-remote-code",
        "code out of a model's repository is never run: serve a model of a family that transformers itself has",
        switch=True,
        harmless=FALSE,
    ),
    _taken("--max-concurrent-requests", "MAX_STREAMS", "20000 if it is not given: who waits costs a socket"),
    _taken("--max-best-of"),
    _taken("--max-stop-sequences"),
    _taken("--max-top-n-tokens"),
    _taken(
        "--max-input-tokens", why="as the model allows, if it is not given", aliases=("--max-input-length",)
    ),
    _taken("--max-total-tokens", why="as the model allows, if it is not given"),
    _idle("--waiting-served-ratio", _NO_RATIO),
    _taken(
        "--max-batch-prefill-tokens",
        "PREFILL_CHUNK",
        "a longer prompt takes several steps, and is not refused",
    ),
    _idle("--max-batch-total-tokens", "the room for tokens is measured at the start: KV_BLOCKS bounds it"),
    _idle("--max-waiting-tokens", _NO_RATIO),
    _taken("--max-batch-size", "SLOTS"),
    _idle("--cuda-graphs", "all planned shapes are captured, whatever the device: GRAPHS says how many"),
    Flag(
        name="--hostname",
        fate="taken",
        ours="HOST",
        why="the flag only: in a container the variable HOSTNAME is the container's own name",
        in_environment=False,
    ),
    _taken("--port", why="80 in the container"),
    _idle("--prometheus-port", "/metrics is on the gateway's own port"),
    _idle("--shard-uds-path", _ONE_PROCESS),
    _idle("--master-addr", _ONE_PROCESS),
    _idle("--master-port", _ONE_PROCESS),
    _taken("--huggingface-hub-cache", "CACHE_DIR"),
    _taken("--weights-cache-override", "CACHE_DIR", "it wins over --huggingface-hub-cache"),
    _idle(
        "--disable-custom-kernels",
        "kernels are taken only where they compute what plain torch does",
        switch=True,
    ),
    _refused(
        "--cuda-memory-fraction",
        "the room is what a trial at the start leaves: set KV_BLOCKS to leave memory to others",
        harmless=frozenset({"1", "1.0"}),
    ),
    _refused(
        "--rope-scaling", "write `rope_scaling` into the model's config.json, where its family reads it"
    ),
    _refused("--rope-factor", "write `rope_scaling` into the model's config.json, where its family reads it"),
    _idle("--json-output", "logs are lines of text: time, level, name, message", switch=True),
    _idle("--otlp-endpoint", "no traces are sent: /metrics and a job's own times say where it was"),
    _idle("--otlp-service-name", "no traces are sent"),
    Flag(name="--cors-allow-origin", fate="taken", ours="CORS_ALLOW_ORIGIN", several=True),
    _taken("--api-key", why="compared exactly, upper and lower case included"),
    _taken("--watermark-gamma", why="none is served if neither is given; 0.5 if only --watermark-delta is"),
    _taken("--watermark-delta"),
    _refused("--ngrok", "open a tunnel with a program of its own", switch=True, harmless=FALSE),
    _refused("--ngrok-authtoken", "open a tunnel with a program of its own"),
    _refused("--ngrok-edge", "open a tunnel with a program of its own"),
    _refused(
        "--tokenizer-config-path", "put the tokenizer's files into the model's folder, and give that folder"
    ),
    _refused(
        "--disable-grammar-support",
        "grammars are compiled beside the step loop and cost those who send none nothing: leave it out",
        switch=True,
        harmless=FALSE,
    ),
    Flag(
        name="--env",
        fate="refused",
        why="`sagrada doctor` looks at the machine, and says what is wrong with it",
        switch=True,
        in_environment=False,
    ),
    _taken("--max-client-batch-size"),
    _refused(
        "--lora-adapters", "merge the adapter into the weights, and serve them as a model of their own name"
    ),
    _idle("--usage-stats", "nothing is ever reported to anybody"),
    _taken("--payload-limit", "MAX_BODY_BYTES"),
    _idle("--max-image-fetch-size", "text models are served, and nothing is fetched for a request"),
    _idle("--enable-prefill-logprobs", "whoever asks for decoder_input_details gets them", switch=True),
    _taken("--graceful-termination-timeout", "DRAIN_TIMEOUT", "30 if it is not given"),
)
"""In the order of TGI's own reference."""

DEFAULTS = {"WATERMARK_DELTA": {"WATERMARK_GAMMA": "0.5"}}
"""What TGI has by default and we have not: setting of ours → what it brings along."""


@dataclass(frozen=True, slots=True)
class Translated:
    """What a launcher's command line and environment come to."""

    settings: Mapping[str, str]
    """Variables of ours, over the environment."""
    notes: tuple[str, ...]
    """What has no effect here, and why: a sentence for each."""


def translate(given: Mapping[str, str], environ: Mapping[str, str]) -> Translated:
    """The settings out of `given`, flags by name, and TGI's variables; NotHere for what must not be passed over.

    What the command line says wins; of two variables for one thing, ours does.
    """
    settings: dict[str, str] = {}
    notes: list[str] = []
    for flag, value, said in _meant(given, environ):
        match flag.fate:
            case "refused" if value.lower() not in flag.harmless:
                raise NotHere(f"{said} is not Sagrada's: {flag.why}.")
            case "idle":
                notes.append(f"{said} has no effect: {flag.why}.")
            case "taken" if flag.name in given or not environ.get(flag.ours):
                settings[flag.ours] = value
    for ours, more in DEFAULTS.items():
        if settings.get(ours) or environ.get(ours):
            settings = {**{k: v for k, v in more.items() if not environ.get(k)}, **settings}
    return Translated(settings, tuple(notes))


def _meant(given: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[tuple[Flag, str, str]]:
    """(flag, value, where it was said) of all that are given, the environment's first."""
    for flag in FLAGS:
        if flag.name in given:
            continue
        for name in flag.variables:
            if value := environ.get(name, ""):
                yield flag, value, name
                break
    for flag in FLAGS:
        if flag.name in given:
            yield flag, given[flag.name], flag.name
