"""torch, from the index that is given or, if that cannot be reached, by pip's own configuration: as in the Makefile.

python torch.py INDEX REQUIREMENT
"""

import subprocess
import sys
import urllib.request


def reachable(index: str) -> bool:
    """Whether the index answers."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=5):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    index, requirement = sys.argv[1:]
    source = ["--index-url", index] if reachable(index) else []
    print(f"torch from {index}" if source else f"{index} cannot be reached: torch by pip's own configuration")
    sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", *source, requirement]).returncode)
