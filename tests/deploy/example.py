"""`.env.example` out of the code's own settings: `python -m tests.deploy.example > .env.example`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import click

from gateway.config import Config as GatewayConfig
from sagrada.config import gateway_options, up_options
from worker.config import Config as WorkerConfig

HEAD = """\
# Every setting, with its default and what it means. For `docker compose`, copy this file to .env and uncomment what you
# change; outside of containers the same names are environment variables. Empty is the same as not set.
# Made by `python -m tests.deploy.example` out of the code's own settings; a test holds it equal to them.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One line."""

    name: str
    default: str
    help: str


COMPOSE = (
    Setting("BIND", "0.0.0.0", "address of this machine that the gateway's port is published on"),
    Setting("PORT", "8080", "port of this machine that the gateway answers on"),
    Setting("TAG", "local", "tag of our own images"),
    Setting("CPU_WORKERS", "1", "workers on the CPU, each in a container of its own"),
    Setting("MODELS", "models", "volume of downloaded models; or a folder, ./my-models, for MODEL_ID=/models/NAME"),
    Setting("HF_TOKEN_FILE", "/dev/null", "file with the hub's access token, readable by uid 10001"),
    Setting("REDIS_GATEWAY_PASSWORD", "change-me-gateway", "of Redis's user `gateway`; letters and digits"),
    Setting("REDIS_WORKER_PASSWORD", "change-me-worker", "of Redis's user `worker`; letters and digits"),
    Setting("REDIS_FLOWER_PASSWORD", "change-me-flower", "of Redis's user `flower`; letters and digits"),
    Setting("REDIS_PRODUCER_PASSWORD", "", "of Redis's user `producer`; default: there is no such user"),
    Setting("REDIS_SUBSCRIBER_PASSWORD", "", "of Redis's user `subscriber`; default: there is no such user"),
    Setting("REDIS_KEYS_PASSWORD", "", "of Redis's user `keys`, for `sagrada keys`; default: there is no such user"),
    Setting("REDIS_MAXMEMORY", "1gb", "what Redis may hold before it accepts no new jobs"),
    Setting("REDIS_MEMORY", "2g", "memory of Redis's container: twice REDIS_MAXMEMORY"),
    Setting("GATEWAY_MEMORY", "2g", "memory of a gateway's container"),
    Setting("WORKER_MEMORY", "8g", "memory of a CPU worker's container"),
    Setting("WORKER_CPUS", "0", "processors of a CPU worker's container; 0: all"),
    Setting("OMP_NUM_THREADS", "", "threads of a CPU worker's engine; default: one per core of the machine"),
    Setting("GAUDI_MEMORY", "0", "host memory of the Gaudi workers' container; 0: all"),
    Setting("CUDA_MEMORY", "0", "host memory of the CUDA workers' container; 0: all"),
    Setting("CARDS", "all", "cards of the Gaudi or CUDA workers, one worker for each: docs/cards.md"),
    Setting("HABANA_VISIBLE_DEVICES", "all", "cards, by index, that Habana's runtime shows the container"),
    Setting("NOFILE", "65536", "open files per container; lower where the machine's own limit is lower"),
    Setting("STOP_GRACE_PERIOD", "90s", "time to stop in: longer than DRAIN_TIMEOUT and 45 s"),
    Setting(
        "TORCH_INDEX", "https://download.pytorch.org/whl/cpu", "where the CPU image's torch comes from; if it cannot "
        "be reached, pip's own configuration decides"
    ),
    Setting("CUDA_TORCH_INDEX", "https://download.pytorch.org/whl/cu128", "the same of the CUDA image"),
    Setting(
        "GAUDI_IMAGE",
        "vault.habana.ai/gaudi-docker/1.24.1/ubuntu24.04/habanalabs/pytorch-upstream-installer-2.11.0:latest",
        "Intel's image: of the release that the host's driver has",
    ),
    Setting("PROMETHEUS_PORT", "9090", "port of 127.0.0.1 that Prometheus answers on"),
    Setting("PROMETHEUS_RETENTION", "15d", "how long Prometheus remembers"),
    Setting("GRAFANA_PORT", "3000", "port of 127.0.0.1 that Grafana answers on"),
    Setting("GRAFANA_PASSWORD", "change-me-grafana", "of Grafana's user `admin`"),
    Setting("FLOWER_PORT", "5555", "port of 127.0.0.1 that Flower answers on"),
    Setting("FLOWER_BASIC_AUTH", "sagrada:change-me-flower", "user:password of Flower"),
)  # fmt: skip
"""What compose.yaml alone reads."""

BY_COMPOSE = {"REDIS_URL", "HOST", "DEVICE", "HF_TOKEN"}
"""Settings that compose.yaml gives by itself, and reads from nobody."""


def of(config: type[Any]) -> list[Setting]:
    """The settings of a gateway or a worker."""
    return [Setting(f.name.upper(), text(f.default), f.metadata["help"]) for f in fields(config)]


def text(default: object) -> str:
    """A default as an environment variable says it."""
    if default is None or callable(default):
        return ""
    return (
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


def of_sagrada() -> list[Setting]:
    """The settings of `sagrada up` and the command line."""

    @click.command()
    @up_options
    @gateway_options
    def command(**_: Any) -> None: ...

    found = []
    for option in command.params:
        assert isinstance(option, click.Option)
        default = option.get_default(click.Context(command), call=False)
        shown = option.show_default if isinstance(option.show_default, str) else text(default)
        found.append(Setting(str(option.envvar), shown, (option.help or "").rstrip(".")))
    return found


def sections() -> Iterator[tuple[str, list[Setting]]]:
    """Title and settings of each section."""
    gateway, worker = of(GatewayConfig), of(WorkerConfig)
    both = {s.name for s in gateway} & {s.name for s in worker}
    yield "docker compose", list(COMPOSE)
    yield "the gateway", [s for s in gateway if s.name not in both | {"PORT"}]
    yield "gateway and worker", [s for s in worker if s.name in both]
    yield "the worker", [s for s in worker if s.name not in both]
    rest = {s.name for s in [*gateway, *worker, *COMPOSE]}
    yield (
        "`sagrada up` and the command line, outside of compose",
        [s for s in of_sagrada() if s.name not in rest],
    )


def render() -> str:
    """The whole file."""
    lines = [HEAD]
    for title, settings in sections():
        lines.append(f"\n# --- {title} ---\n")
        for setting in settings:
            note = " (compose sets it itself)" if setting.name in BY_COMPOSE else ""
            lines += [f"# {line}" for line in textwrap.wrap(setting.help + note, 116)]
            lines.append(f"#{setting.name}={setting.default}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")
