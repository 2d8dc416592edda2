"""Which tokens end a text: all that a model's folder names, for no one place names them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.errors import ModelRefused


def eos_ids(model: Any, folder: Path) -> tuple[int, ...]:
    """The ids of generation_config.json, config.json and the tokenizer's eos_token, as far as logits reach."""
    named = [*_ids(model.generation_config), *_ids(model.config), *_tokenizers(folder)]
    return tuple(dict.fromkeys(id for id in named if 0 <= id < model.config.vocab_size))


def _ids(config: Any) -> list[int]:
    """The files have none, one or a list."""
    ids = getattr(config, "eos_token_id", None)
    return [] if ids is None else list(ids) if isinstance(ids, list | tuple) else [ids]


def _tokenizers(folder: Path) -> list[int]:
    """The id of the tokenizer's eos_token, if it has one; ModelRefused if its files cannot be read."""
    try:
        config = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")
        token = config.get("eos_token")
        text = token["content"] if isinstance(token, dict) else token
        added = {int(id): entry for id, entry in (config.get("added_tokens_decoder") or {}).items()}
        added |= {entry["id"]: entry for entry in _read(folder / "tokenizer.json").get("added_tokens", ())}
        return [id for id, entry in added.items() if entry["content"] == text]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"the tokenizer files in {folder} cannot be read: {error!r}") from error


def _read(file: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return read
