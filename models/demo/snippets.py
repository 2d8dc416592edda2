"""Small Python functions and JSON objects, with the request that each of them answers."""

import json
from random import Random
from typing import NamedTuple

from models.demo.stories import BOYS, COLORS, GIRLS, SOUNDS, THINGS

PAIRS = (("a", "b"), ("x", "y"), ("m", "n"), ("left", "right"), ("first", "second"))
LISTS = ("items", "values", "numbers", "data")
ELEMENTS = ("x", "item", "value", "n")
CITIES = ("Paris", "Berlin", "Rome", "Madrid", "Oslo", "Tokyo", "Cairo", "Lima")

FUNCTIONS: dict[str, str] = {
    "adds two numbers": "def add({a}, {b}):\n    return {a} + {b}",
    "subtracts two numbers": "def subtract({a}, {b}):\n    return {a} - {b}",
    "multiplies two numbers": "def multiply({a}, {b}):\n    return {a} * {b}",
    "divides two numbers": (
        "def divide({a}, {b}):\n    if {b} == 0:\n"
        '        raise ValueError("cannot divide by zero")\n    return {a} / {b}'
    ),
    "returns the larger of two numbers": (
        "def larger({a}, {b}):\n    if {a} > {b}:\n        return {a}\n    return {b}"
    ),
    "sums a list": (
        "def total({items}):\n    result = 0\n    for {x} in {items}:\n"
        "        result += {x}\n    return result"
    ),
    "finds the largest item of a list": (
        "def largest({items}):\n    best = {items}[0]\n    for {x} in {items}:\n"
        "        if {x} > best:\n            best = {x}\n    return best"
    ),
    "computes the average of a list": ("def average({items}):\n    return sum({items}) / len({items})"),
    "counts the items of a list": (
        "def count({items}):\n    result = 0\n    for {x} in {items}:\n        result += 1\n    return result"
    ),
    "reverses a string": "def reverse(text):\n    return text[::-1]",
    "checks whether a number is even": "def is_even(n):\n    return n % 2 == 0",
    "checks whether a word is a palindrome": ("def is_palindrome(word):\n    return word == word[::-1]"),
    "computes the factorial of a number": (
        "def factorial(n):\n    if n <= 1:\n        return 1\n    return n * factorial(n - 1)"
    ),
    "computes Fibonacci numbers": (
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"
    ),
    "reads a file": ("def read_file(path):\n    with open(path) as file:\n        return file.read()"),
    "greets a person": 'def greet(name):\n    return f"Hello, {{name}}!"',
    "prints hello world": 'def main():\n    print("Hello, world!")',
}
REQUESTS = (
    "Write a function that {task}.",
    "Write a Python function that {task}.",
    "Show me a function that {task}.",
    "Python code that {task}, please.",
)
JSON_REQUESTS = ("Give me {kind} as JSON.", "Write JSON for {kind}.", "Show me {kind} in JSON.")


class Snippet(NamedTuple):
    """A piece of code, the language of its Markdown fence, and a request that it answers."""

    request: str
    language: str
    code: str


def function(rng: Random) -> Snippet:
    """Draws one Python function and the names of its variables."""
    task, template = rng.choice(list(FUNCTIONS.items()))
    a, b = rng.choice(PAIRS)
    code = template.format(a=a, b=b, items=rng.choice(LISTS), x=rng.choice(ELEMENTS))
    return Snippet(rng.choice(REQUESTS).format(task=task), "python", code)


def record(rng: Random) -> Snippet:
    """Draws one flat JSON object: a person, a pet or a thing."""
    name = rng.choice(GIRLS + BOYS)
    kind, fields = rng.choice(
        (
            ("a person", {"name": name, "age": rng.randrange(4, 80), "city": rng.choice(CITIES)}),
            ("a pet", {"name": name, "animal": rng.choice(list(SOUNDS)), "age": rng.randrange(12)}),
            ("a thing", {"thing": rng.choice(THINGS), "color": rng.choice(COLORS), "new": True}),
        )
    )
    request = rng.choice(JSON_REQUESTS).format(kind=kind)
    return Snippet(request, "json", json.dumps(fields))


def snippet(rng: Random) -> Snippet:
    """Draws a Python function or, less often, a JSON object."""
    return function(rng) if rng.random() < 0.75 else record(rng)
