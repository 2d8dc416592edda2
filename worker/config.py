"""What a worker is told: one frozen value, read once and strictly from options and the environment."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from wire.errors import SagradaError
from wire.keys import QUEUE_PREFIX, queue_of
from wire.redis_url import check


class ConfigError(SagradaError):
    """A setting cannot be used; the message names its variable."""


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("a whole number, 0 or greater")
    return int(text)


def _positive(text: str) -> int:
    if (value := _whole(text)) < 1:
        raise ValueError("a whole number greater than 0")
    return value


def _graphs(text: str) -> int:
    if 0 < (value := _whole(text)) < 3:
        raise ValueError("a whole number, at least 3: one shape for each phase; or 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seconds(text: str) -> float:
    if not 0 < (value := _number(text)) < 1e9:
        raise ValueError("seconds, greater than 0")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := _number(text)) < 1:
        raise ValueError("a number from 0, which is none, to below 1")
    return value


def _raise(text: str) -> float:
    if not 0 < (value := _number(text)) <= 100:
        raise ValueError("a number above 0 and up to 100")
    return value


def _word(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError("one of " + ", ".join(words))
        return text

    return parse


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False}
    if (value := words.get(text.lower())) is None:
        raise ValueError("true or false")
    return value


def _own_queue(text: str) -> str:
    if not text.startswith(QUEUE_PREFIX):
        raise ValueError(f"a name that starts with {QUEUE_PREFIX}")
    return text


def _redis(text: str) -> str:
    try:
        return check(text)
    except ValueError as error:  # the URL itself may hold a password
        raise ConfigError(f"REDIS_URL is not usable: {error}") from None


NO_CACHE = "none"
"""As RECIPE_CACHE: keep nothing."""


def _setting(default: Any, help: str, parse: Callable[[str], Any] = str) -> Any:
    return field(default=default, metadata={"help": help, "parse": parse})


@dataclass(frozen=True, kw_only=True)
class Config:
    """A worker's settings. Each field is an environment variable (its name in capitals) and an option."""

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        "where queue, ledger and registry are: redis://, rediss://, unix:// or sentinel://",
        _redis,
    )
    result_ttl: float = _setting(3600.0, "seconds that a finished job stays readable", _seconds)
    lease_seconds: float = _setting(5.0, "seconds after which a silent worker's jobs go to others", _seconds)
    drain_timeout: float = _setting(30.0, "seconds that running jobs get at shutdown", _seconds)
    engine_patience: float = _setting(10.0, "seconds of silence that make an engine hung, at least", _seconds)
    model_id: str = _setting("demo", "a model's folder, its name on the hub, `demo` or `scripted`")
    served_model_name: str = _setting("", "the name that clients ask for; default: MODEL_ID")
    queue: str = _setting("", "the Celery queue to serve; default: from the model's name", _own_queue)
    revision: str = _setting("", "the model's branch, tag or commit on the hub")
    device: str = _setting("auto", "auto, cpu, cuda or hpu", _word("auto", "cpu", "cuda", "hpu"))
    card: str = _setting(
        "", "the card to run on: a Gaudi's module id, a GPU's index or UUID, cores as in 0-3; default: any"
    )
    num_shard: int = _setting(1, "cards that one model spans", _positive)
    lock_dir: str = _setting(
        "",
        "folder of the locks that give a card to one worker; default: /run/lock, or /dev/shm",
    )
    dtype: str = _setting(
        "auto",
        "auto, float32, bfloat16, float16 or float64",
        _word("auto", "float32", "bfloat16", "float16", "float64"),
    )
    slots: int = _setting(32, "sequences that run at once", _positive)
    lookahead: int = _setting(4, "jobs taken beyond the free slots, so that none stays empty", _whole)
    block_size: int = _setting(0, "tokens per KV block; 0: as the device likes", _whole)
    kv_blocks: int = _setting(0, "KV blocks; 0: as the memory allows", _whole)
    max_input_tokens: int = _setting(0, "longest prompt; 0: as the model allows", _whole)
    max_total_tokens: int = _setting(0, "longest prompt and output together; 0: as the model allows", _whole)
    prefill_chunk: int = _setting(
        0, "most prompt tokens of one step, over all its sequences; 0: as the device likes", _whole
    )
    prefill_batch: int = _setting(
        0, "most sequences in one prefill step; 0: 8, or 1 where texts are deterministic", _whole
    )
    layout: str = _setting(
        "auto", "how decode reads KV blocks: auto, gather or flat", _word("auto", "gather", "flat")
    )
    steps_in_flight: int = _setting(
        0, "steps launched before the first is read; 0: as the device likes", _whole
    )
    graphs: int = _setting(
        0,
        "most planned shapes; more pad less and warm up for longer; 0: by WARM_UP_SECONDS, else 64",
        _graphs,
    )
    warm_up_seconds: int = _setting(
        0, "what warm-up may take; 0: as many planned shapes as GRAPHS says", _whole
    )
    ready_buckets: int = _setting(
        0, "planned shapes that must be warm before jobs are taken; 0: as the device likes", _whole
    )
    recipe_cache: str = _setting(
        "~/.cache/sagrada/recipes",
        "folder where what a Gaudi has compiled is kept for the next start, or none",
    )
    histogram: str = _setting(
        "", "file of the shapes that were run: the next start plans for them; default: none"
    )
    prefix_caching: bool = _setting(True, "begin a prompt with what is known of one that began alike", _flag)
    deterministic: bool = _setting(
        False, "the same text whoever runs beside it and wherever it is resumed, at a price", _flag
    )
    watermark_gamma: float = _setting(
        0.0, "share of the vocabulary that watermarks favour, 0.5 for TGI's; default: none are served", _share
    )
    watermark_delta: float = _setting(2.0, "what a watermark adds to their logits", _raise)
    cache_dir: str = _setting("", "where downloaded models are kept; default: the hub's own cache")
    hf_token: str = _setting("", "the hub's access token")
    hf_hub_offline: bool = _setting(False, "never ask the hub, use what is in the cache", _flag)

    @property
    def name(self) -> str:
        """The served model's name."""
        return self.served_model_name or self.model_id

    @property
    def task_queue(self) -> str:
        """The Celery queue."""
        return self.queue or queue_of(self.name)

    def __repr__(self) -> str:
        """Without secrets: REDIS_URL may hold a password."""
        return f"Config(model={self.name!r}, queue={self.task_queue!r}, device={self.device!r})"


def load(options: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The settings: an option wins over its variable, an empty one counts as not given. ConfigError if unusable."""
    values = {}
    for setting in fields(Config):
        variable = setting.name.upper()
        text = (options or {}).get(setting.name) or environ.get(variable, "")
        if not text:
            continue
        try:
            values[setting.name] = setting.metadata["parse"](text)
        except ValueError as error:
            raise ConfigError(f"{variable}={text!r} is not usable: give {error}") from None
    config = Config(**values)
    _check(config)
    return config


def variables(environ: Mapping[str, str] = os.environ) -> Mapping[str, str]:
    """The environment as it is: for those who look at what others will read in it."""
    return environ


SERVE = "Serve one model: take jobs from its Celery queue, run them in one continuous batch."


def parser(prog: str = "python -m worker", description: str = SERVE) -> argparse.ArgumentParser:
    """The options of `python -m worker`, and of what else looks at a worker's settings."""
    made = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="Every option is an environment variable too: --model-id is MODEL_ID. "
        "`sagrada worker --cards 0,1` (or CARDS) starts such a worker for each card and starts again what dies, "
        "--cards all for all cards of the machine.",
    )
    for setting in fields(Config):
        given = f" [{setting.default}]" if setting.default not in ("", False) else ""
        text = (setting.metadata["help"] + given).replace("%", "%%")
        made.add_argument("--" + setting.name.replace("_", "-"), metavar=setting.name.upper(), help=text)
    made.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR [INFO]")
    return made


def from_arguments(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> tuple[Config, str]:
    """The settings and the log level out of a command line."""
    options = vars(parser().parse_args(argv))
    log_level = options.pop("log_level")
    return load({name: text for name, text in options.items() if text}, environ), log_level


def _check(config: Config) -> None:
    if config.num_shard > 1:
        raise ConfigError(
            f"NUM_SHARD={config.num_shard} is not usable yet: a model runs on one card. Leave it out, or give 1"
        )
    if not config.watermark_gamma and config.watermark_delta != Config.watermark_delta:
        raise ConfigError(
            f"WATERMARK_DELTA={config.watermark_delta:g} is of no use without WATERMARK_GAMMA: give that too, 0.5 for "
            "TGI's"
        )
    inputs, total = config.max_input_tokens, config.max_total_tokens
    if inputs and total and inputs >= total:
        raise ConfigError(
            f"MAX_INPUT_TOKENS={inputs} leaves no room for output: make it smaller than "
            f"MAX_TOTAL_TOKENS={total}"
        )
