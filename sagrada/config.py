"""Every setting of the command line: its option, its environment variable, its default. Read here alone."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from sagrada.client import DEFAULT_URL
from sagrada.from_tgi import FLAGS, Flag

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_REDIS = "redis://127.0.0.1:6379/0"
DEVICES = ("auto", "cpu", "cuda", "hpu")
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")

SECRETS = {"API_KEY": "gateway", "HF_TOKEN": "worker"}
"""Whose each is: the other's processes are not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpConfig:
    """What `sagrada up` runs. A field that is None leaves the choice to the worker or the gateway."""

    host: str
    port: int
    model_id: str
    revision: str | None
    device: str | None
    dtype: str | None
    workers: int
    slots: int | None
    redis_url: str | None
    """None: a server of our own, over the data folder."""
    data_dir: Path
    """Logs, lock and the embedded server's data."""
    drain_timeout: float
    lease_seconds: float | None
    logs: str = "files"
    """Where the children say what they say: `files` in the data folder, or `here`, where `up` itself does."""
    sample: bool = True
    """Whether the first thing that is generated is a sample for the terminal."""
    auth: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def asks_for_keys(self) -> bool:
        """Whether its gateway lets nobody in without one."""
        return self.auth == "keys" or self.api_key is not None

    @property
    def url(self) -> str:
        """Where the gateway answers, as seen from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    def environment(self, room: str, redis_url: str) -> dict[str, str]:
        """That of a child, `gateway` or `worker`: this process's own, and over it every setting that was chosen."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)} | {"redis_url": redis_url}
        ours = ("workers", "data_dir", "logs", "sample")
        own = {name.upper(): str(v) for name, v in chosen.items() if v is not None and name not in ours}
        # Unbuffered: what a child said last must be in its log when it dies.
        given = {**room_environment(), **own, "PYTHONUNBUFFERED": "1"}
        return {name: value for name, value in given.items() if SECRETS.get(name, room) == room}


def room_environment() -> dict[str, str]:
    """This process's environment for `python -m gateway`, `python -m worker` and `python -m models`.

    Rooms have plain names: whatever a person's current folder calls `worker` or `models` must not come before ours.
    """
    root = str(Path(__file__).parents[1])
    installed = root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    paths = [] if installed else [root]
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}


def variables() -> Mapping[str, str]:
    """The environment as it is: for what translates other programs' variables into ours."""
    return os.environ


def default_data_dir() -> Path:
    """Where programs keep a user's data by the XDG convention."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sagrada"


def gateway_options(command: F) -> F:
    """--url and --api-key: the gateway to talk to, and what it asks for."""
    command = click.option(
        "--api-key", envvar="SAGRADA_API_KEY", show_envvar=True, callback=_sendable,
        help="The key that the gateway asks for. Better in the environment, where other users do not see it.",
    )(command)  # fmt: skip
    return click.option(
        "--url", envvar="SAGRADA_URL", show_envvar=True, default=DEFAULT_URL, show_default=True,
        help="The gateway to talk to.",
    )(command)  # fmt: skip


def _sendable(context: click.Context, option: click.Parameter, key: str | None) -> str | None:
    """The key without the white space that it was copied with; None for an empty one."""
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise click.BadParameter("a key is of printable ASCII characters, without spaces.")
    return key or None


def redis_option(command: F) -> F:
    """--redis-url: the fleet's Redis, with the gateways' default."""
    return click.option(
        "--redis-url", envvar="REDIS_URL", show_envvar=True, default=DEFAULT_REDIS, show_default=True,
        callback=_usable_redis, help="The fleet's Redis; `sagrada up` says which is its own.",
    )(command)  # fmt: skip


def asks_for_keys() -> bool:
    """Whether a gateway that was started in this environment would ask for keys."""
    return os.environ.get("AUTH") == "keys" or bool(os.environ.get("API_KEY"))


def cards_option(command: F) -> F:
    """--cards: a worker for each of them."""
    return click.option("--cards", envvar="CARDS")(command)  # `python -m worker --help` explains it


def launch_options(command: F) -> F:
    """The flags of TGI's launcher, in the order of its reference; their variables are read by sagrada.from_tgi."""
    for flag in reversed(FLAGS):
        names = (flag.name, *flag.aliases, *(("-p",) if flag.name == "--port" else ()))
        how: dict[str, Any] = (
            {"is_flag": False, "flag_value": "true"} if flag.switch else {"multiple": flag.several}
        )
        command = click.option(*names, flag.name[2:].replace("-", "_"), help=_fate(flag), **how)(command)
    return command


def _fate(flag: Flag) -> str:
    taken = f"{flag.ours}." if flag.ours != flag.variable else ""
    why = f"{flag.why[:1].upper()}{flag.why[1:]}." if flag.why else ""
    said = {"taken": taken, "idle": "No effect.", "refused": "Refused."}[flag.fate]
    return f"{said} {why}".strip()


def up_options(command: F) -> F:
    """The options of `sagrada up`, in the order of its help."""
    for name, options in reversed(_UP.items()):
        envvar = name.removeprefix("--").replace("-", "_").upper()
        command = click.option(name, envvar=envvar, show_envvar=True, **options)(command)
    return command


def _usable_redis(context: click.Context, option: click.Parameter, url: str | None) -> str | None:
    if not url:
        return None
    # Here: with redis-py along, every other command would start at half the speed.
    from wire.redis_url import check

    try:
        return check(url)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


_POSITIVE = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0)
_UP: dict[str, dict[str, Any]] = {
    "--model-id": {
        "default": "demo",
        "show_default": True,
        "help": "What to serve: a folder in Hugging Face format, a name on the hub, or `demo`, which is built in.",
    },
    "--revision": {"help": "The model's branch, tag or commit on the hub."},
    "--device": {"type": click.Choice(DEVICES), "help": "Where it runs. Default: the best device found."},
    "--dtype": {"type": click.Choice(DTYPES), "help": "How weights and cache are kept. Default: by device."},
    "--workers": {
        "type": _POSITIVE,
        "default": 1,
        "show_default": True,
        "help": "Workers, each with the model of its own.",
    },
    "--slots": {"type": _POSITIVE, "help": "Sequences that one worker runs at once. Default: 32."},
    "--host": {"default": "127.0.0.1", "show_default": True, "help": "Address that the gateway listens on."},
    "--port": {
        "type": click.IntRange(1, 65535),
        "default": 8080,
        "show_default": True,
        "help": "Port that the gateway listens on.",
    },
    "--redis-url": {
        "help": "A Redis that runs already: redis://, rediss://, unix:// or sentinel://. "
        "Default: one is started, its data kept in --data-dir.",
        "callback": _usable_redis,
    },
    "--auth": {
        "type": click.Choice(("open", "keys")),
        "help": "keys: requests carry a key that `sagrada keys add` has made. Default: open, to anybody.",
    },
    "--api-key": {
        "callback": _sendable,
        "help": "A key that may do anything; with it nobody comes in without one. Better in the environment.",
    },
    "--data-dir": {
        "type": click.Path(file_okay=False, path_type=Path),
        "default": default_data_dir,
        "show_default": "~/.local/share/sagrada",
        "help": "Folder of queued and finished jobs, and of the logs.",
    },
    "--drain-timeout": {
        "type": _SECONDS,
        "default": 30.0,
        "show_default": True,
        "help": "Seconds that running jobs get to finish after Ctrl-C; the rest waits for the next `up`.",
    },
    "--lease-seconds": {
        "type": click.FloatRange(min=0.5),
        "help": "Seconds after which a silent worker counts as dead and its jobs move on. Default: 5.",
    },
    "--logs": {
        "type": click.Choice(("files", "here")),
        "default": "files",
        "show_default": True,
        "help": "Where gateway and workers log: in files of --data-dir, or here, as a container's processes do.",
    },
    "--sample": {
        "type": bool,
        "default": True,
        "show_default": True,
        "help": "Stream one sample to the terminal when the model is ready.",
    },
}
