"""The house rules, read off the syntax tree: who may import whom, and what may stand where."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ARROWS: dict[str, frozenset[str]] = {
    "wire": frozenset(),
    "models": frozenset(),
    "gateway": frozenset({"wire"}),
    "worker": frozenset({"wire", "models"}),
    "sagrada": frozenset({"wire"}),
}
"""Room → the rooms that it may import."""

THIRD_PARTY: dict[str, frozenset[str]] = {
    "wire": frozenset({"msgspec", "msgpack", "redis", "hiredis", "kombu", "tokenizers", "jinja2"}),
    # kombu: celery's send raises its errors. werkzeug: flask's own. flask_swagger_ui: for its files alone.
    "gateway": frozenset(
        {"flask", "flask_swagger_ui", "werkzeug", "gunicorn", "celery", "kombu", "msgspec", "redis"}
    ),
    "worker": frozenset({"celery", "kombu", "redis", "msgspec"}),
    "models": frozenset(
        {
            "torch",
            "transformers",
            "safetensors",
            "huggingface_hub",
            "numpy",
            "llguidance",
            "optimum",
            "habana_frameworks",
        }
    ),
    "sagrada": frozenset({"click", "rich", "httpx", "msgspec"}),
}
"""Room → the third parties that it may import."""

EXCEPTIONS: dict[str, frozenset[str]] = {
    "worker.scripted": frozenset({"tokenizers"}),  # the fake model makes its own tokenizer
    "models.demo.train": frozenset({"tokenizers"}),  # so does the script that trains the demo
}
"""Module → what it alone may import besides."""

NARROWED: dict[str, frozenset[str]] = {
    "sagrada.client": frozenset({"httpx", "msgspec"}),  # so that it can be released by itself
    "sagrada.bound": frozenset(),
    "sagrada.embedded": frozenset(),
}
"""Modules that may import less than their room, and no room but what is named here."""

TORCH = frozenset({"torch", "transformers"})
TORCH_FREE = frozenset(
    {
        "models",
        "models.__main__",
        "models.blocks",
        "models.checkpoint",
        "models.cost",
        "models.demo",
        "models.environment",
        "models.errors",
        "models.histogram",
        "models.limits",
        "models.picture",
        "models.plan",
        "models.planner",
        "models.prefix",
        "models.report",
        "models.room",
        "models.step",
    }
)
"""The part of models that the worker's parent, the scheduler's tests and `plan` import."""

WITHOUT_TORCH = {
    "models.checkpoint": frozenset({"huggingface_hub"}),
    "models.picture": frozenset({"numpy"}),
    "models.planner": frozenset({"numpy"}),
}
"""Modules of that part → the third parties that they may import: these bring no torch along."""

ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb"})
LAUNCHERS = frozenset({"worker.launcher"})
"""Besides every config: they set a child's environment."""

PICKLES = frozenset({"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"})
PICKLE_NAMES = frozenset({"pickle", "application/x-python-serialize"})


@dataclass(frozen=True)
class Module:
    """One source file of a room."""

    name: str
    path: Path
    known: frozenset[str]
    """The names of all modules of the house."""

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), str(self.path))

    @cached_property
    def imports(self) -> frozenset[str]:
        """Every module it imports: at the top, inside functions and under TYPE_CHECKING alike."""
        return frozenset(name for node in ast.walk(self.tree) for name in self._targets(node))

    def _targets(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(node)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in self.known else base

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        parts = package[: len(package) - node.level + 1]
        return ".".join([*parts, node.module] if node.module else parts)


def modules(root: Path) -> list[Module]:
    """Every module of the five rooms under `root`."""
    found = {_name(path.relative_to(root)): path for room in ARROWS for path in (root / room).rglob("*.py")}
    return [Module(name, path, frozenset(found)) for name, path in sorted(found.items())]


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def violations(root: Path) -> list[str]:
    """One sentence per broken rule."""
    house = modules(root)
    return [
        *(sentence for module in house for rule in RULES for sentence in rule(module)),
        *cycles(house),
        *_one_habana_file(house),
    ]


def arrows(module: Module) -> Iterator[str]:
    """Rooms import only as DESIGN draws."""
    allowed = frozenset() if module.name in NARROWED else ARROWS[module.room]
    for target in module.imports:
        room = target.partition(".")[0]
        if room in ARROWS and room != module.room and room not in allowed:
            yield f"{module.name} imports {target}: {module.room} may import {sorted(allowed) or 'no other room'}."


def third_party(module: Module) -> Iterator[str]:
    """Each room has its own list of third parties."""
    allowed = NARROWED.get(module.name, THIRD_PARTY[module.room]) | EXCEPTIONS.get(module.name, frozenset())
    for target in module.imports:
        top = target.partition(".")[0]
        if top not in ARROWS and top not in sys.stdlib_module_names and top not in allowed:
            yield f"{module.name} imports {target}: not on {module.room}'s list."


def torch_free(module: Module) -> Iterator[str]:
    """What the parent imports of models stays free of torch."""
    if module.name not in TORCH_FREE:
        return
    for target in module.imports:
        top = target.partition(".")[0]
        if top in THIRD_PARTY["models"] - WITHOUT_TORCH.get(module.name, frozenset()):
            yield f"{module.name} imports {target}: the worker's parent imports this module."
        if top == "models" and target not in TORCH_FREE:
            yield f"{module.name} imports {target}, which is not held to be free of torch."


def environment(module: Module) -> Iterator[str]:
    """The environment is read in config alone, and copied by launchers for a child."""
    if module.name.rpartition(".")[2] == "config" or module.name in LAUNCHERS:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            named = node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            named = next((alias.name for alias in node.names if alias.name in ENVIRONMENT), "")
        elif isinstance(node, ast.keyword):
            named = "environ" if node.arg in ("envvar", "auto_envvar_prefix") else ""
        else:
            continue
        if named in ENVIRONMENT:
            yield f"{module.name}:{node.lineno} reads the environment: that is {module.room}/config.py's."


def pickles(module: Module) -> Iterator[str]:
    """Nothing that is read can run code."""
    for target in module.imports:
        if target.partition(".")[0] in PICKLES:
            yield f"{module.name} imports {target}: msgpack, never pickle."
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and node.value in PICKLE_NAMES:
            yield f"{module.name}:{node.lineno} names a pickle serializer."
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            yield f"{module.name}:{node.lineno} calls torch.load: safetensors only."


RULES = (arrows, third_party, torch_free, environment, pickles)


def cycles(house: list[Module]) -> Iterator[str]:
    """No cycle of any kind, whether closed at the top of a module or inside a function."""
    graph = {m.name: sorted(m.imports & m.known - {m.name}) for m in house}
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> Iterator[str]:
        if name in path:
            yield "A cycle: " + " → ".join([*path[path.index(name) :], name]) + "."
        elif name not in done:
            for target in graph[name]:
                yield from walk(target, [*path, name])
            done.add(name)

    for name in graph:
        yield from walk(name, [])


def _one_habana_file(house: list[Module]) -> Iterator[str]:
    users = [m.name for m in house if any(t.partition(".")[0] == "habana_frameworks" for t in m.imports)]
    if len(users) > 1:
        yield f"habana_frameworks is imported by {', '.join(users)}: it belongs in the one HPU device file."
