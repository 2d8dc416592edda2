"""Whether what Intel's image brings is as it was: its torch, and all that is built against it.

python untouched.py --remember FILE   before anything is installed
python untouched.py FILE              afterwards; fails with what has changed
"""

import sys
from importlib.metadata import distributions
from pathlib import Path

THEIRS = ("torch", "habana", "hpu", "intel_extension", "neural_compressor", "pytorch_triton", "triton")
"""How the names of the distributions begin that must stay."""


def found() -> list[str]:
    """One line for each of them: name, version and where it lies; the first of a name is the one that is imported."""
    first: dict[str, str] = {}
    for d in distributions():
        name = d.metadata["Name"].lower().replace("-", "_")
        if name.startswith(THEIRS):
            first.setdefault(name, f"{name} {d.version} {d.locate_file('')}")
    return sorted(first.values())


def main(argv: list[str]) -> int:
    """The exit code."""
    if argv[0] == "--remember":
        if not any(line.startswith("torch ") for line in found()):
            print("this image has no torch: is it Intel's?", file=sys.stderr)
            return 1
        Path(argv[1]).write_text("\n".join(found()))
        return 0
    before, after = Path(argv[0]).read_text().splitlines(), found()
    for line in sorted({*before} ^ {*after}):
        print(f"{'was' if line in before else 'is now'} {line}", file=sys.stderr)
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
