"""What pyproject.toml asks for, as lines for `pip install -r`: python requirements.py [EXTRA...].

An image's layer of dependencies hangs on that file alone: a change of the code leaves it in the cache.
"""

import re
import sys
import tomllib
from pathlib import Path

OWN = re.compile(r"sagrada\[(?P<extras>[\w,-]+)\]")


def lines(project: dict, extras: list[str]) -> list[str]:
    """The requirements of the base and of these extras, and of the extras that they name."""
    found = list(project["dependencies"])
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            own = OWN.fullmatch(text)
            found += lines(project, own["extras"].split(",")) if own else [text]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    print("\n".join(lines(project, sys.argv[1:])))
