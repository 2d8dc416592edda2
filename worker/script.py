"""What the scripted model says: a pure function of prompt, seed and position, and the tokenizer to read it with.

Its vocabulary: token b is the byte b, then come the special tokens. Its text is short phrases, some of characters
of several bytes, so that a cut may fall within one. A prompt may hold directives, each at an output position n:

    !eos@n      end of sequence at n
    !raise@n    the step that would sample n raises
    !hang@n     … never ends
    !exit@n     … ends the process
    !slow=s     every step with this sequence takes s seconds more
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from models.step import Sampled, Sampling

BOS, EOS, USER, ASSISTANT = 256, 257, 258, 259
SPECIAL = {BOS: "<s>", EOS: "</s>", USER: "<|user|>", ASSISTANT: "<|assistant|>"}
VOCAB_SIZE = 256 + len(SPECIAL)

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

PHRASES = tuple(
    phrase.encode()
    for phrase in (
        "the old mill ", "a quiet sea, ", "seven lamps, ", "she counted. ", "rain at dusk ", "über Nacht, ",
        "crème brûlée", "naïve idea; ", "雨が降る。", "東京の夜 ", "Привет! ", "ночь, ", "🌍🌊🔥 ", "a 🐢 sleeps, ",
    )
)  # fmt: skip

_DIRECTIVE = re.compile(rb"!(eos|raise|hang|exit)@(\d+)|!(slow)=([0-9.]+)")


class Script:
    """All that the model will ever say to one prompt under one sampling."""

    def __init__(self, prompt: Iterable[int], sampling: Sampling, seed: int = 0) -> None:
        self._prompt = tuple(prompt)
        luck = (sampling.seed,) if sampling.do_sample else ()
        self._key = blake2b(repr((seed, luck, self._prompt)).encode(), digest_size=16).digest()
        self._min_new_tokens, self._top_n = sampling.min_new_tokens, sampling.top_n
        self.constrained = sampling.constrained
        self._phrases = self._endless()
        self._bytes = bytearray()

    @cached_property
    def directives(self) -> dict[str, float]:
        """Directive → its number."""
        text = bytes(i for i in self._prompt if i < 256)
        return {(a or c).decode(): float(b or d) for a, b, c, d in _DIRECTIVE.findall(text)}

    @cached_property
    def first_word(self) -> str:
        """What its prompt begins with."""
        return bytes(i for i in self._prompt if i < 256).partition(b" ")[0].decode(errors="replace")

    def token(self, position: int) -> Sampled:
        """What comes at this output position."""
        if self.directives.get("eos") == position >= self._min_new_tokens:
            return Sampled(EOS, -0.125, self._top(EOS, -0.125))
        while len(self._bytes) <= position:
            self._bytes += next(self._phrases)
        logprob = -(1 + position % 32) / 32
        return Sampled(self._bytes[position], logprob, self._top(self._bytes[position], logprob))

    def _top(self, token: int, logprob: float) -> tuple[tuple[int, float], ...]:
        """The chosen token and its neighbours, each a nat less likely than the last."""
        return tuple(((token + i) % (EOS + 1), logprob - i) for i in range(self._top_n))

    def _endless(self) -> Iterator[bytes]:
        count = 0
        while True:
            digest = blake2b(count.to_bytes(8), key=self._key).digest()
            yield from (PHRASES[byte % len(PHRASES)] for byte in digest)
            count += 1


def say(prompt: Iterable[int], sampling: Sampling, count: int, seed: int = 0) -> list[int]:
    """The first `count` token ids, past an end of sequence if there is one: what a test may expect."""
    script = Script(prompt, sampling, seed)
    return [script.token(position).id for position in range(count)]


def write_tokenizer(folder: Path) -> None:
    """The files that make `folder` a model's, as far as text goes."""
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, text in SPECIAL.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {char: byte for byte, char in enumerate(byte_alphabet())}
    files: dict[str, object] = {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab | {text: i for i, text in SPECIAL.items()}, "merges": []},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[BOS],
            "eos_token": SPECIAL[EOS],
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
        "config.json": {
            "model_type": "scripted",
            "vocab_size": VOCAB_SIZE,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        },
    }
    for name, content in files.items():
        part = folder / f"{name}.{os.getpid()}"
        part.write_text(json.dumps(content, ensure_ascii=False))
        part.replace(folder / name)  # another worker may be reading it


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's bytes_to_unicode)."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    stand_ins = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]
