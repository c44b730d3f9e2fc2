#!/usr/bin/env bash
# LoRA training on GSM8K: ours and transformers + PEFT, in turns, and the ratios of their medians.
#   bench/train.sh MODEL_DIR GSM8K.jsonl [ROUNDS] [key=value ...]
# Keys go to both: steps, batch, max_len, r; to ours alone: pc, pi, device; dtype=f32|bf16.
# Needs a `python3` with torch, transformers and peft; PYTHON names another one.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:?usage: bench/train.sh MODEL_DIR GSM8K.jsonl [ROUNDS] [key=value ...]} rows=${2:?the rows}
rounds=${3:-5}; shift $(( $# < 3 ? $# : 3 ))
out=$(mktemp -d); trap 'rm -rf "$out"' EXIT
cargo bench -q --no-run --bench train ${FEATURES:+--features "$FEATURES"}
for _ in $(seq "$rounds"); do
  # As the program itself runs its steps (src/exec/tuning.rs).
  OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=2000 \
  MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=1099511627776 MALLOC_MMAP_THRESHOLD_=33554432 \
    cargo bench -q --bench train ${FEATURES:+--features "$FEATURES"} -- "$model" "$rows" "$@" | tail -n 1 >> "$out/ours"
  tail -n 1 "$out/ours" | sed "s/,\"rows\".*/}/"
  "${PYTHON:-python3}" bench/peer_train.py "$model" "$rows" order="$out/ours" "$@" | tail -n 1 | tee -a "$out/peer"
done
"${PYTHON:-python3}" - "$out/ours" "$out/peer" <<'PY'
import json, statistics, sys
ours, peer = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
for key in ("real_tokens_per_s", "label_tokens_per_s", "peak_rss_mib"):
    a, b = (statistics.median(run[key] for run in runs) for runs in (ours, peer))
    print(f"{key}: ours {a:.0f}, peer {b:.0f}, ratio {a / b:.2f} (medians of {len(ours)})")
print(f"fraction of the matrix-product peak: {statistics.median(run['fraction_of_peak'] for run in ours):.2f}")
PY
