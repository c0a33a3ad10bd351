#!/usr/bin/env bash
# Makes a virtual environment, installs hf_immunize, and runs the whole job on real weights and images.
# Arguments go to `hf-immunize quickstart`: scripts/quickstart.sh --seed 1 --output_dir runs/seed1
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${HF_IMMUNIZE_VENV:-$root/.venv}
if [ ! -x "$venv/bin/python" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --editable "$root[quickstart]"
exec "$venv/bin/hf-immunize" quickstart "$@"
