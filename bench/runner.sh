#!/usr/bin/env bash
# The runner's own cost, ours, dvc's and snakemake's, in turns on the same generated graphs of trivial shell steps.
#   bench/runner.sh [STEPS] [ROUNDS]
# Needs a `python3` with dvc and snakemake (pip install dvc snakemake); PYTHON names another one.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet
python=${PYTHON:-python3}
"$python" bench/runner.py "${CARGO_TARGET_DIR:-target}/release/evergraft" "${1:-200}" "${2:-5}"
