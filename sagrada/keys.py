"""`sagrada keys`: who may use the gateways of a Redis, for what, and how much."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sagrada.config import asks_for_keys, redis_option
from sagrada.refusals import NoAnswer, Refused

if TYPE_CHECKING:
    from wire.apikeys import ApiKey, ApiKeys


@contextmanager
def store(url: str) -> Iterator[ApiKeys]:
    """The keys in the Redis at `url`, whose refusals become the command's."""
    from wire.apikeys import ApiKeyError, StoreAway, opened  # here: see sagrada/config.py

    try:
        with opened(url) as keys:
            yield keys
    except ApiKeyError as error:
        raise Refused(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
    except StoreAway as error:
        raise NoAnswer(f"{error}. Name the gateways' with --redis-url or REDIS_URL.") from error


@click.group()
def keys() -> None:
    """Make, list and revoke the API keys of a fleet's gateways.

    They are kept in the fleet's Redis, as digests: the key itself is shown once. Gateways ask for keys when they run
    with AUTH=keys; a new key is good at once, and one that is revoked is refused at once.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--tenant",
    help="Whose jobs it sees: keys of one tenant share them. Default: NAME; '': those of plain Celery producers.",
)
@click.option("--models", help="The served models that it may use, with commas between them. Default: all.")
@click.option(
    "--requests-per-minute",
    type=click.IntRange(min=1),
    help="Generations it may ask for. Default: any number.",
)
@click.option(
    "--tokens-per-minute",
    type=click.IntRange(min=1),
    help="Tokens it may ask for: those of its prompts, and `max_new_tokens` of each text. Default: any number.",
)
@redis_option
def add(
    name: str,
    tenant: str | None,
    models: str | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    redis_url: str,
) -> None:
    """Make a key and print it, once: it cannot be shown again. NAME is for you to know it by.

    A key that replaces another of the same NAME goes on with its jobs.
    """
    with store(redis_url) as kept:
        key_id, key = kept.add(
            name,
            tenant=tenant,
            models=None if models is None else tuple(model.strip() for model in models.split(",")),
            requests_per_minute=requests_per_minute or 0,
            tokens_per_minute=tokens_per_minute or 0,
        )
    click.echo(key)
    click.echo(f"This is the key {key_id}. It is not shown again: keep it where secrets are kept.", err=True)
    if not asks_for_keys():
        click.echo(
            "Gateways ask for keys once they are started with AUTH=keys; now anybody may call.", err=True
        )


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each.")
@redis_option
def list_(as_json: bool, redis_url: str) -> None:
    """Show all keys, those that are revoked included; never the secrets."""
    with store(redis_url) as kept:
        known = kept.all()
    if as_json:
        for key_id, key in known.items():
            click.echo(msgspec.json.encode({"id": key_id} | _shown(key)))
    elif known:
        Console().print(_table(known))
    else:
        click.echo("There are no keys: make one with `sagrada keys add NAME`.", err=True)


def _shown(key: ApiKey) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(key)
    del fields["digest"]  # of no use to anybody
    return fields


def _table(known: dict[str, ApiKey]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "name", "tenant", "models", "req/min", "tokens/min", "created", "revoked"):
        table.add_column(heading, overflow="fold", justify="right" if heading.endswith("/min") else "left")
    for key_id, key in known.items():
        models = "all" if key.models is None else ", ".join(key.models)
        rates = [f"{rate:,}" if rate else "any" for rate in (key.requests_per_minute, key.tokens_per_minute)]
        times = [_date(key.created), _date(key.revoked)]
        # Names are anybody's: no brackets of theirs are markup.
        table.add_row(*map(escape, (key_id, key.name, key.tenant, models, *rates, *times)))
    return table


def _date(moment: float | None) -> str:
    return "" if moment is None else time.strftime("%Y-%m-%d", time.localtime(moment))


@keys.command()
@click.argument("key_id", metavar="ID")
@redis_option
def revoke(key_id: str, redis_url: str) -> None:
    """Refuse the key with this ID from now on. What was accepted from it runs to its end."""
    with store(redis_url) as kept:
        key = kept.revoke(key_id)
    click.echo(f"The key {key_id} ({key.name}) is revoked.")
