"""`python -m worker groups CARDS [options]`: the groups of cards, one for each worker, as JSON. Takes none of them.

`sagrada worker --cards` asks here before it starts the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from worker.card import divide
from worker.card_lock import CardTaken, holder, taken
from worker.config import Config, ConfigError, from_arguments, variables
from worker.discovery import find, kind_of
from worker.seat import folder_of


def main(argv: Sequence[str]) -> int:
    """Print the groups; the exit code. ConfigError, CardError."""
    if not argv:
        raise ConfigError("Say which cards: python -m worker groups all, or 0,1")
    config, _ = from_arguments(argv[1:])
    if config.card:
        raise ConfigError(f"CARD={config.card!r} is one worker's, CARDS are for several: give one of the two")
    print(msgspec.json.encode(describe(argv[0], config)).decode())
    return 0


def describe(text: str, config: Config) -> dict[str, Any]:
    """What the supervisor of the workers needs to know; CardError if the cards are not to be had."""
    kind = kind_of(config.device)
    groups = divide(text, find(kind, variables()).cards, config.num_shard)
    for group in groups:
        for card in group.cards:
            if who := holder(folder_of(config), card):
                raise CardTaken(taken(card, who))
    return {
        "device": kind,
        "drain_timeout": config.drain_timeout,
        "groups": [{"card": group.text, "label": group.label} for group in groups],
    }
