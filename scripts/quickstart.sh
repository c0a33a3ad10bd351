#!/usr/bin/env bash
# Makes a virtual environment, installs hf_immunize, and runs the whole job on real weights and images.
# Arguments go to `hf-immunize quickstart`: scripts/quickstart.sh --seed 1 --output_dir runs/seed1
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${HF_IMMUNIZE_VENV:-$root/.venv}
extras=quickstart
# LoRA needs PEFT; it is one of the attackers called "all" and "finetuning".
named=false
for argument in "$@"; do
  case $argument in
    --attackers) named=true ;;
    --attackers=*) named=true argument=${argument#*=} ;;
    --*) named=false ;;
  esac
  if $named; then
    case $argument in
      all | finetuning | lora) extras=quickstart,attacks ;;
    esac
  fi
done
if [ ! -x "$venv/bin/python" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --editable "${root}[$extras]"
exec "$venv/bin/hf-immunize" quickstart "$@"
