"""The gateway's settings, read once from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from wire.job import MOST_CHOICES
from wire.redis_url import check

FLAGS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
"""How a setting that is true or false is written."""


class ConfigError(Exception):
    """A setting cannot be read; the message names the variable."""


def usable_key(key: str) -> None:
    """ValueError for what no client can send as a bearer token."""
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("a key is of printable ASCII characters, without spaces")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of one gateway; `metadata["help"]` is its line in `--help`, `"alias"` its name in TGI."""

    redis_url: str = field(
        default="redis://127.0.0.1:6379/0",
        metadata={
            "help": "the Redis that holds queue, jobs and logs: redis://, rediss://, unix:// or sentinel://",
            "check": check,
        },
    )
    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    port: int = field(default=8080, metadata={"help": "port to listen on", "least": 0, "most": 65535})
    gateway_workers: int = field(default=1, metadata={"help": "gunicorn processes", "least": 1})
    gateway_threads: int = field(
        default=64, metadata={"help": "threads per process; a waiting request holds none", "least": 1}
    )
    max_queued: int = field(
        default=10_000, metadata={"help": "jobs that may wait in a model's queue; more get 429", "least": 1}
    )
    max_streams: int = field(
        default=20_000, metadata={"help": "open streams and waits per process; more get 429", "least": 1}
    )
    max_body_bytes: int = field(
        default=2_000_000,
        metadata={"help": "largest request body; more gets 413", "least": 1, "alias": "payload_limit"},
    )
    drain_timeout: float = field(
        default=30.0, metadata={"help": "seconds that bound requests get to end after SIGTERM", "least": 0}
    )
    result_ttl: float = field(
        default=3600.0, metadata={"help": "seconds that a finished job is kept", "least": 1}
    )
    durability: str = field(
        default="relaxed",
        metadata={
            "help": "strict: accept a job only once Redis has it on disk (and on DURABILITY_REPLICAS); or relaxed",
            "words": ("relaxed", "strict"),
        },
    )
    durability_replicas: int = field(
        default=0, metadata={"help": "replicas that must have a job before it is accepted", "least": 0}
    )
    max_best_of: int = field(
        default=2,
        metadata={"help": "texts of which TGI's routes may give the best", "least": 1, "most": MOST_CHOICES},
    )
    max_stop_sequences: int = field(
        default=4, metadata={"help": "stop strings of a request on TGI's routes", "least": 0, "most": 128}
    )
    max_top_n_tokens: int = field(
        default=5,
        metadata={"help": "likeliest tokens that TGI's routes tell per place", "least": 0, "most": 20},
    )
    max_client_batch_size: int = field(
        default=4, metadata={"help": "prompts of one /v1/completions or /vertex request", "least": 1}
    )
    tgi_strict: bool = field(
        default=False,
        metadata={"help": "bring back five habits of TGI's that a client may rely on (docs/api.md)"},
    )
    auth: str = field(
        default="open",
        metadata={
            "help": "open: anybody may do anything; keys: requests carry a key that `sagrada keys add` has made",
            "words": ("open", "keys"),
        },
    )
    api_key: str = field(
        default="",
        repr=False,
        metadata={
            "help": "a key that may do anything; with it nobody comes in without one",
            "check": usable_key,
        },
    )
    cors_allow_origin: str = field(
        default="*", metadata={"help": "origins whose pages may call, with commas between them; *: any"}
    )
    sagrada_secret: str = field(
        default="", repr=False, metadata={"help": "key of idempotency ids; default: made once, kept in Redis"}
    )

    @classmethod
    def from_env(
        cls, given: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ
    ) -> Config:
        """What `given` says by field name, else the environment; empty is unset. ConfigError names the variable."""
        texts = {
            f.name: (given or {}).get(f.name)
            or environ.get(f.name.upper())
            or environ.get(f.metadata.get("alias", "").upper(), "")
            for f in fields(cls)
        }
        values: dict[str, Any] = {name: parse(name, text) for name, text in texts.items() if text}
        return cls(**values)


def _number(name: str, kind: Callable[[str], float], text: str) -> float:
    limits = {f.name: f.metadata for f in fields(Config)}[name]
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(f"{name.upper()} must be a number, not {text!r}") from None
    least, most = limits.get("least", float("-inf")), limits.get("most", float("inf"))
    if not least <= value <= most:
        raise ConfigError(f"{name.upper()} must be at least {least} and at most {most}, not {text}")
    return value


def _flag(name: str, text: str) -> bool:
    if (value := FLAGS.get(text.lower())) is None:
        raise ConfigError(f"{name.upper()} must be true or false, not {text!r}")
    return value


def parse(name: str, text: str) -> str | int | float | bool:
    """The value of the setting `name` out of its text; ConfigError names the variable."""
    setting = {f.name: f for f in fields(Config)}[name]
    kind, words = setting.type, setting.metadata.get("words")
    if "check" in setting.metadata:
        try:
            setting.metadata["check"](text)
        except ValueError as error:  # of the text itself nothing is told: it may hold a password
            raise ConfigError(f"{name.upper()} is not usable: {error}") from None
    if words and text not in words:
        raise ConfigError(f"{name.upper()} must be {' or '.join(words)}, not {text!r}")
    if kind == "str":
        return text
    if kind == "bool":
        return _flag(name, text)
    return _number(name, int if kind == "int" else float, text)
