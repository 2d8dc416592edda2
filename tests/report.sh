#!/usr/bin/env bash
# The full matrix: everything in one environment, the models again under the older transformers, and beside
# optimum-habana what we call of Habana's kernels and the checks for the first card. Writes the report.
# Usage: report.sh VENV OLD_VENV HABANA_VENV REPORT
set -uo pipefail
venv=$1 old=$2 habana=$3 report=$4 failed=0

versions() {
  "$1/bin/python" - <<'PYTHON'
import os, platform, sys
from importlib.metadata import version
names = ["celery", "kombu", "redis", "torch", "transformers", "gunicorn"]
print(f"Python {sys.version.split()[0]}, {platform.machine()}, {os.cpu_count()} cores;",
      ", ".join(f"{name} {version(name)}" for name in names))
PYTHON
}

run() { # VENV PYTEST-ARGUMENTS...
  local python=$1/bin/python
  echo
  versions "$1"
  printf '$ pytest -n 3'
  printf ' %q' "${@:2}"
  echo
  "$python" -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --durations=15 "${@:2}" || failed=1
}

{
  echo "make test-all, $(date -u +%F), commit $(git rev-parse --short HEAD)"
  # The first card's checks run below, beside what the last of them compares with.
  run "$venv" tests -m "" --ignore tests/hpu/test_first_card.py
  # The long audit takes a quarter of an hour, and finds the same under both.
  run "$old" tests/models tests/hpu tests/integration/test_demo_model.py -m "" -k "not 5000" \
    --ignore tests/hpu/test_first_card.py
  run "$habana" tests/hpu/test_optimum_habana.py tests/hpu/test_first_card.py -m ""
  exit $failed
} 2>&1 | tee "$report"
