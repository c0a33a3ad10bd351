#!/usr/bin/env bash
# Makes a virtual environment, installs hf_immunize with its test extra, and runs the tests that are fast.
# Arguments go to pytest: scripts/test.sh -m slow
# HF_IMMUNIZE_EXTRAS=test,browser installs what the tests in a browser need too; they are skipped otherwise.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${HF_IMMUNIZE_VENV:-$root/.venv}
if [ ! -x "$venv/bin/python" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --editable "${root}[${HF_IMMUNIZE_EXTRAS:-test}]"
cd "$root"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/python" -m mypy hf_immunize
if [ $# -eq 0 ]; then
  # Two processes of one thread each: on two cores they take half the time.
  export OMP_NUM_THREADS=1
  set -- -n 2 -m "not slow and not gpu"
fi
exec "$venv/bin/python" -m pytest "$@"
