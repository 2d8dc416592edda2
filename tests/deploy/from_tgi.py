"""The table of docs/from-tgi.md out of sagrada.from_tgi: `python -m tests.deploy.from_tgi` writes it anew."""

from __future__ import annotations

from pathlib import Path

from sagrada.from_tgi import FLAGS, Flag

FILE = Path(__file__).parents[2] / "docs" / "from-tgi.md"
BEGIN, END = "<!-- the table of sagrada/from_tgi.py -->\n", "<!-- its end -->\n"
FATES = {"taken": "taken", "idle": "no effect", "refused": "**refused**"}


def row(flag: Flag) -> str:
    """One flag."""
    names = ", ".join(f"`{name}`" for name in (flag.name, *flag.aliases))
    fate = FATES[flag.fate] + (f", as `{flag.ours}`" if flag.ours and flag.ours != flag.variable else "")
    harmless = [f"`{value}`" for value in sorted(flag.harmless - {""})]
    besides = f" ({', '.join(harmless)} {'is' if len(harmless) == 1 else 'are'} fine)" if harmless else ""
    return f"| {names} | {fate}{besides} | {flag.why} |\n"


def table() -> str:
    """All flags."""
    return "| flag | here | |\n|---|---|---|\n" + "".join(map(row, FLAGS))


def with_table(text: str) -> str:
    """The document with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    FILE.write_text(with_table(FILE.read_text()))
