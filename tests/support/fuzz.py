"""Bodies that no client should send, one after the other from a seed: what a good body becomes when it is damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Damage = Callable[[random.Random, dict[str, Any]], bytes]

JSON_TYPES = (
    "application/json",
    "application/json; charset=utf-8",
    "application/json; charset=utf-16",
    "application/problem+json",
)
OTHER_TYPES = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
    "json",
    "*/*",
)
NUMBERS = (
    "1e400", "-1e400", "1" + "0" * 400, "NaN", "Infinity", "-Infinity", "-0", "1e-400", "00", "0x10",
    "1_000", "+1", ".5",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, "", "x", 0, -1, 1.5, 2**31, 2**53 + 1, 2**64, -(2**63), 1e308, [], {}, [[]], [None],
    {"": {}}, "\x00", "\ufffe",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bad:
    """One request."""

    content: bytes
    headers: Mapping[str, str]
    pieces: int = 1
    """Sent in so many chunks, without a length; 1: at once."""
    how: str = field(default="", compare=False)
    """The damage's name, for a failing test."""

    def body(self) -> bytes | Iterator[bytes]:
        """What an HTTP client is given."""
        if self.pieces == 1:
            return self.content
        size = max(1, len(self.content) // self.pieces)
        return iter([self.content[at : at + size] for at in range(0, len(self.content), size)])


def bodies(seed: int, good: Mapping[str, Any], most_bytes: int) -> Iterator[Bad]:
    """Without end. `most_bytes`: what a server takes; some are larger."""
    chance = random.Random(seed)
    while True:
        how, damage = chance.choice([*DAMAGES.items()])
        content = damage(chance, json.loads(json.dumps(good)))
        if how == "huge":
            content = content.ljust(most_bytes + chance.randint(1, 1 << 16), b" ")
        types = JSON_TYPES if chance.random() < 0.9 else OTHER_TYPES
        pieces = 1 if chance.random() < 0.7 else chance.randint(2, 5)
        yield Bad(content, {"Content-Type": chance.choice(types)}, pieces, how)


def _dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(Container, key) of everything in a body."""
    if isinstance(value, dict):
        own: list[tuple[Any, Any]] = [(value, key) for key in value]
    elif isinstance(value, list):
        own = [(value, at) for at in range(len(value))]
    else:
        return []
    return own + [place for container, key in own for place in _places(container[key])]


def _put(chance: random.Random, body: dict[str, Any], value: Any) -> dict[str, Any]:
    container, key = chance.choice(_places(body))
    container[key] = value
    return body


def _truncated(chance: random.Random, body: dict[str, Any]) -> bytes:
    whole = _dump(body)
    return whole[: chance.randrange(len(whole))]


def _flipped(chance: random.Random, body: dict[str, Any]) -> bytes:
    data = bytearray(_dump(body))
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _noise(chance: random.Random, body: dict[str, Any]) -> bytes:
    return chance.randbytes(chance.randint(0, 300))


def _wrong_type(chance: random.Random, body: dict[str, Any]) -> bytes:
    return _dump(_put(chance, body, chance.choice(VALUES)))


def _number(chance: random.Random, body: dict[str, Any]) -> bytes:
    """What JSON's own writers cannot write."""
    return _dump(_put(chance, body, "@@")).replace(b'"@@"', chance.choice(NUMBERS).encode())


def _deep(chance: random.Random, body: dict[str, Any]) -> bytes:
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    depth = chance.choice((50, 1_000, 20_000))
    closing = closing * depth if chance.random() < 0.5 else b""
    return _dump(_put(chance, body, "@@")).replace(b'"@@"', opening * depth + b"0" + closing)


def _missing(chance: random.Random, body: dict[str, Any]) -> bytes:
    container, key = chance.choice(_places(body))
    del container[key]
    return _dump(body)


def _twice(chance: random.Random, body: dict[str, Any]) -> bytes:
    key = chance.choice([*body])
    again = json.dumps({key: chance.choice(VALUES)}, ensure_ascii=True).encode()
    return _dump(body)[:-1] + b"," + again[1:]


def _encoded(chance: random.Random, body: dict[str, Any]) -> bytes:
    text = json.dumps(_put(chance, body, "größe"), ensure_ascii=False)
    return text.encode(
        chance.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7", "cp500"))
    )


def _control(chance: random.Random, body: dict[str, Any]) -> bytes:
    text = json.dumps(_put(chance, body, "@@"))
    return text.replace("@@", "".join(chr(chance.randrange(32)) for _ in range(5))).encode()


def _surrogate(chance: random.Random, body: dict[str, Any]) -> bytes:
    if chance.random() < 0.5:
        return json.dumps(_put(chance, body, "a\ud800b")).encode()
    return _dump(_put(chance, body, "a\udfffb"))


def _long(chance: random.Random, body: dict[str, Any]) -> bytes:
    value = chance.choice(
        ("a" * 100_000, ["a"] * 10_000, "\u20ac" * 30_000, {str(n): n for n in range(5_000)})
    )
    return _dump(_put(chance, body, value))


def _around(chance: random.Random, body: dict[str, Any]) -> bytes:
    before, after = chance.choice(
        ((b"", b"x"), (b"", b"\x00"), (b"[", b"]"), (b"//\n", b""), (b"\xef\xbb\xbf", b""), (b"\x0c", b""))
    )
    return before + _dump(body) + after


def _other(chance: random.Random, body: dict[str, Any]) -> bytes:
    return chance.choice(
        (b"", b" ", b"null", b"true", b"0", b'""', b"[]", b"{}", b"'", b"{'inputs': 'a'}", b"\xff\xfe")
    )


def _huge(chance: random.Random, body: dict[str, Any]) -> bytes:
    return _dump(body)


DAMAGES: Mapping[str, Damage] = {
    function.__name__.strip("_"): function
    for function in (
        _truncated, _flipped, _noise, _wrong_type, _number, _deep, _missing, _twice, _encoded, _control, _surrogate,
        _long, _around, _other, _huge,
    )
}  # fmt: skip
