"""Text to token ids and back, from the files of a model's folder: the same on both sides of the queue."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from wire.errors import SagradaError

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What a folder holds about text; the blob that a worker publishes is made of those that exist."""

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
OWN_TEMPLATE = re.compile(r"(Code)?Llama|Gemma")
"""Tokenizer classes that build their post-processor from add_bos_token and add_eos_token."""

BYTE = re.compile("<0x[0-9A-F]{2}>")
"""How a vocabulary with byte fallback writes a byte."""

WORDS = 1_000
"""Words whose ids each thread keeps. The library's own 10,000 are, in a gateway's 64 threads, hundreds of MB."""


class TokenizerError(SagradaError):
    """The tokenizer files of a model cannot be used; the message says which and why."""


def read_files(folder: str | Path) -> dict[str, bytes]:
    """The tokenizer files in a model's folder, by name; TokenizerError without a tokenizer.json."""
    folder = Path(folder)
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if "tokenizer.json" not in files:
        raise TokenizerError(
            f"{folder.name} holds no tokenizer.json: save the model with a fast tokenizer "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...)) and try again"
        )
    return files


class Tokenizer:
    """A model's tokenizer, as transformers' AutoTokenizer reads it, without transformers."""

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        """`config` is tokenizer_config.json with the special tokens as plain strings."""
        self._backend = backend
        self.config = config
        added = backend.get_added_tokens_decoder()
        self._added = frozenset(added)
        self._special = frozenset(id for id, token in added.items() if token.special)
        self._spelling = _spelling_of(backend)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a model's folder."""
        return cls.from_files(read_files(folder))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        """The tokenizer of a published blob: file name → content."""
        try:
            backend = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
            config = _config(files)
        except KeyError:
            raise TokenizerError("the tokenizer files lack tokenizer.json") from None
        except Exception as error:  # tokenizers raises bare Exception on a bad file
            raise TokenizerError(f"the tokenizer files cannot be read: {error}") from error
        backend.no_truncation()
        backend.no_padding()
        if resize := getattr(backend.model, "_resize_cache", None):  # BPE and Unigram have one
            resize(WORDS)
        _add_missing_tokens(backend, config)
        _set_template(backend, config)
        return cls(backend, config)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, with the special tokens that the model expects unless told not to.

        However long the text: other threads run meanwhile, which only the library's calls for batches let them.
        """
        (found,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = found.ids
        return ids

    def spans(self, text: str, add_special_tokens: bool = True) -> list[tuple[int, int, int]]:
        """(id, start, stop) of each token, in characters of `text`; a special token that was added has 0 and 0."""
        (found,) = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)
        return [(id, start, stop) for id, (start, stop) in zip(found.ids, found.offsets, strict=True)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; incomplete characters come out as U+FFFD, unknown ids as nothing."""
        text: str = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def is_special(self, id: int) -> bool:
        """Whether text for people leaves this token out."""
        return id in self._special

    def token_text(self, id: int) -> str:
        """The token by itself, special or not, as TGI shows it."""
        return self.decode([id], skip_special_tokens=False)

    @property
    def vocab_size(self) -> int:
        """Tokens known, added ones included."""
        return int(self._backend.get_vocab_size())

    @property
    def added(self) -> dict[str, int]:
        """The ids of the tokens that stand beside the vocabulary proper, special or not, by text."""
        return {token.content: id for id, token in self._backend.get_added_tokens_decoder().items()}

    @property
    def special_tokens(self) -> dict[str, str]:
        """bos_token, eos_token, …: those that the model names; chat templates use them."""
        return {name: self.config[name] for name in SPECIAL_NAMES if self.config.get(name)}

    @property
    def chat_template(self) -> str | None:
        """The default chat template (Jinja source), or None."""
        return self._chat_templates.get("default")

    @property
    def tool_template(self) -> str | None:
        """The chat template of prompts with tools: one of its own if the model has several."""
        return self._chat_templates.get("tool_use", self.chat_template)

    @property
    def _chat_templates(self) -> dict[str, str]:
        given = self.config.get("chat_template") or {}
        if isinstance(given, list):
            return {entry["name"]: entry["template"] for entry in given}
        return {"default": given} if isinstance(given, str) else given

    def token_bytes(self, id: int) -> bytes:
        """What the token stands for, with the space before a word; perhaps a part of a character only."""
        piece = self._backend.id_to_token(id)
        if piece is None:
            return b""
        if id in self._added:
            return piece.encode()
        return self._spelling(piece) if self._spelling else self.token_text(id).encode()


def _spelling_of(backend: tokenizers.Tokenizer) -> Callable[[str], bytes] | None:
    """From an entry of the vocabulary to its bytes; None: only the decoder knows."""
    if backend.decoder is None:
        return None
    decoder = json.loads(backend.decoder.__getstate__())
    kinds = {step["type"] for step in decoder.get("decoders", [decoder])}
    if "ByteLevel" in kinds:
        return lambda piece: bytes(_BYTES[character] for character in piece if character in _BYTES)
    if "ByteFallback" not in kinds and "Metaspace" not in kinds:
        return None
    return lambda piece: (
        bytes([int(piece[3:5], 16)]) if BYTE.fullmatch(piece) else piece.replace("\u2581", " ").encode()
    )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be printed stand for themselves, the others come after Latin-1."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _config(files: Mapping[str, bytes]) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(files.get("special_tokens_map.json", b"{}"))
    config |= {
        k: v for k, v in json.loads(files.get("tokenizer_config.json", b"{}")).items() if v is not None
    }
    for name in SPECIAL_NAMES:
        if isinstance(config.get(name), dict):
            config[name] = config[name]["content"]
    if "chat_template.json" in files:
        config["chat_template"] = json.loads(files["chat_template.json"])["chat_template"]
    if "chat_template.jinja" in files:
        config["chat_template"] = files["chat_template.jinja"].decode()
    return config


def _add_missing_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Tokens that only tokenizer_config.json names are added by id, as transformers does."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    entries = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    for _, entry in entries:
        if entry["content"] not in known:
            backend.add_tokens([tokenizers.AddedToken(**entry)])


def _set_template(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Honour an explicit add_bos_token or add_eos_token where the tokenizer's class does."""
    explicit = "add_bos_token" in config or "add_eos_token" in config
    if not explicit or not OWN_TEMPLATE.match(str(config.get("tokenizer_class", ""))):
        return
    bos = config.get("bos_token") if config.get("add_bos_token", True) else None
    eos = config.get("eos_token") if config.get("add_eos_token", False) else None
    tokens = [(token, backend.token_to_id(token)) for token in (bos, eos) if token]
    single = [token for token in (bos, "$A", eos) if token]
    backend.post_processor = TemplateProcessing(single=single, special_tokens=tokens)
