"""Random JSON schemas and regular expressions that a model of any quality can get to the end of."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import jsonschema

from wire.grammar import Grammar, Regex, Schema

LITERALS = "abcXYZ019 _-äß€日🐢"
CLASSES = ("[a-f]", "[^a-z]", "[A-Z0-9]", "[0-9]", ".", "[ä-ü]", r"\.")
"""Not \\d and \\w: they mean all of Unicode, and Python's is of another year than llguidance's."""
FORMATS = ("date", "ipv4", "uuid")
NAMES = ("id", "name", "tags", "when", "größe", 'a "b"', "x/y")


def regex(chance: random.Random, depth: int = 3) -> str:
    """A pattern in what Python and Rust have in common."""

    def atom() -> str:
        kind = chance.random()
        if depth and kind < 0.3:
            return f"(?:{regex(chance, depth - 1)})"
        return chance.choice(CLASSES) if kind < 0.6 else re.escape(chance.choice(LITERALS))

    def piece() -> str:
        low, more = chance.randint(0, 3), chance.randint(0, 3)
        repeat = chance.choice(("", "", "", "?", f"{{{low},{low + more}}}", f"{{{low}}}", "*", "+"))
        return atom() + repeat

    def branch() -> str:
        return "".join(piece() for _ in range(chance.randint(1, 4)))

    return "|".join(branch() for _ in range(chance.choice((1, 1, 2, 3))))


class Schemas:
    """One random schema."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def root(self) -> dict[str, Any]:
        """An object, sometimes one that may hold itself."""
        schema = self.object(3)
        if self.chance.random() < 0.2:
            schema["properties"]["next"] = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
            node = {"type": "object", "properties": {"v": self.value(1), "next": {"$ref": "#/$defs/node"}}}
            schema["$defs"] = {"node": node | {"required": ["v"], "additionalProperties": False}}
        return schema

    def value(self, depth: int) -> dict[str, Any]:
        kinds: list[Callable[[int], dict[str, Any]]] = [self.string, self.integer, self.number, self.fixed]
        if depth:
            kinds += [self.object, self.array, self.tuple, self.union]
        return self.chance.choice(kinds)(depth - 1)

    def object(self, depth: int) -> dict[str, Any]:
        names = self.chance.sample(NAMES, self.chance.randint(1, 4))
        required = self.chance.sample(names, self.chance.randint(0, len(names)))
        schema = {"type": "object", "properties": {name: self.value(depth) for name in names}}
        return schema | {"required": required, "additionalProperties": False}

    def array(self, depth: int) -> dict[str, Any]:
        least = self.chance.randint(0, 2)
        bounds = {"minItems": least, "maxItems": least + self.chance.randint(0, 2)}
        return {"type": "array", "items": self.value(depth)} | bounds

    def tuple(self, depth: int) -> dict[str, Any]:
        items = [self.value(depth) for _ in range(self.chance.randint(1, 3))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def union(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self.value(depth), self.value(depth)]}

    def string(self, _: int) -> dict[str, Any]:
        kind = self.chance.random()
        if kind < 0.25:
            return {"type": "string", "pattern": f"^(?:{regex(self.chance, 1)})$"}
        if kind < 0.4:
            return {"type": "string", "format": self.chance.choice(FORMATS)}
        least = self.chance.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + self.chance.randint(0, 8)}

    def integer(self, _: int) -> dict[str, Any]:
        low = self.chance.randint(-1000, 1000)
        schema = {"type": "integer", "minimum": low, "maximum": low + self.chance.randint(0, 2000)}
        return schema | ({"multipleOf": 1} if self.chance.random() < 0.1 else {})

    def number(self, _: int) -> dict[str, Any]:
        low = round(self.chance.uniform(-10, 10), 2)
        return {
            "type": "number",
            "exclusiveMinimum": low,
            "maximum": round(low + self.chance.uniform(1, 99), 1),
        }

    def fixed(self, _: int) -> dict[str, Any]:
        values: list[Any] = [True, None, "a\nb", 'q"', -1.5, 7, {"k": []}, "ä🐢"]
        if self.chance.random() < 0.3:
            return {"type": self.chance.choice(["boolean", "null", ["boolean", "null"]])}
        return {"enum": self.chance.sample(values, self.chance.randint(1, 4))}


def grammars(count: int, seed: int) -> list[Grammar]:
    """Half of them schemas, half of them regular expressions."""
    chance = random.Random(seed)
    return [
        Regex(regex(chance)) if index % 2 else Schema(json.dumps(Schemas(chance).root()))
        for index in range(count)
    ]


def check(grammar: Grammar, text: str) -> None:
    """AssertionError, or jsonschema's, if the text is not what the grammar asks for, as others read it."""
    match grammar:
        case Regex(pattern):
            assert re.fullmatch(pattern, text), (pattern, text)
        case Schema(schema):
            validator = jsonschema.Draft202012Validator
            checker = validator.FORMAT_CHECKER
            jsonschema.validate(json.loads(text), json.loads(schema), validator, format_checker=checker)
        case _:
            raise AssertionError(f"{grammar} is none that is drawn here")
