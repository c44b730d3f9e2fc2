#!/usr/bin/env bash
# LoRA training on GSM8K: ours and transformers + PEFT, in turns, and the ratios of their medians.
#   bench/train.sh MODEL_DIR GSM8K.jsonl [ROUNDS] [key=value ...] [ours='key=value ...' ...]
# Keys go to both: steps, batch, max_len, r; dtype=f32|bf16; device=libtorch:cuda:0 puts both on a GPU. Each `ours` is one of our ways to train, with keys of
# its own: device, pc, pi. By default `device=flex`, and with FEATURES=libtorch `device=libtorch` too.
# Needs a `python3` with torch, transformers and peft; PYTHON names another one.
set -euo pipefail
cd "$(dirname "$0")/.."
usage="usage: bench/train.sh MODEL_DIR GSM8K.jsonl [ROUNDS] [key=value ...] [ours='key=value ...' ...]"
model=${1:?$usage} rows=${2:?$usage} rounds=${3:-5}; shift $(( $# < 3 ? $# : 3 ))
keys=() ways=()
for word in "$@"; do if [[ $word == ours=* ]]; then ways+=("${word#ours=}"); else keys+=("$word"); fi; done
if (( ! ${#ways[@]} )); then
  ways=(device=flex)
  [[ ${FEATURES:-} != *libtorch* ]] || ways+=(device=libtorch)
fi
out=$(mktemp -d); trap 'rm -rf "$out"' EXIT
bench=(cargo bench -q --bench train ${FEATURES:+--features "$FEATURES"})
"${bench[@]}" --no-run
for _ in $(seq "$rounds"); do
  for way in "${!ways[@]}"; do
    # As the program itself runs its steps (src/exec/tuning.rs). The way's keys are words.
    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=2000 \
    MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=1099511627776 MALLOC_MMAP_THRESHOLD_=33554432 \
      "${bench[@]}" -- "$model" "$rows" "${keys[@]}" ${ways[way]} | tail -n 1 >> "$out/ours-$way"
    echo "ours, ${ways[way]}: $(tail -n 1 "$out/ours-$way" | sed 's/,"rows".*/}/')"
  done
  "${PYTHON:-python3}" bench/peer_train.py "$model" "$rows" order="$out/ours-0" "${keys[@]}" | tail -n 1 >> "$out/peer"
  echo "peer: $(tail -n 1 "$out/peer")"
done
"${PYTHON:-python3}" - "$out" "${ways[@]}" <<'PY'
import json, statistics, sys
out, *ways = sys.argv[1:]
read = lambda name: [json.loads(line) for line in open(f"{out}/{name}")]
median = lambda runs, key: statistics.median(run[key] for run in runs)
peer = read("peer")
for number, way in enumerate(ways):
    ours = read(f"ours-{number}")
    print(f"{way} (medians of {len(ours)})")
    for key in ("real_tokens_per_s", "label_tokens_per_s", "peak_rss_mib"):
        a, b = median(ours, key), median(peer, key)
        print(f"  {key}: ours {a:.0f}, peer {b:.0f}, ratio {a / b:.2f}")
    print(f"  of the matrix-product peak: {median(ours, 'fraction_of_peak'):.2f} of {median(ours, 'matrix_peak_gflop_per_s'):.0f} GFLOP/s")
    print(f"  seconds before the first step: {median(ours, 'startup_s'):.2f}; FFNs kept: {median(ours, 'kept_ffns'):.3f}")
PY
