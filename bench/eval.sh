#!/usr/bin/env bash
# Evaluation: ours and transformers, in turns, and the ratios of their medians.
#   bench/eval.sh MODEL_DIR DATA_DIR [ROUNDS] [WORK ...] [limit=N] [key=value ...]
# Workloads: fixed, stops, fewshot, choices (bench/peer_eval.py says what they are); all by default. `limit`
# scales them; dtype=f32|bf16 goes to both, device to ours alone.
# Needs a `python3` with torch and transformers; PYTHON names another one.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:?usage: bench/eval.sh MODEL_DIR DATA_DIR [ROUNDS] [WORK ...] [key=value ...]} data=${2:?the data}
rounds=${3:-5}; shift $(( $# < 3 ? $# : 3 ))
works=() options=()
for word in "$@"; do if [[ $word == *=* ]]; then options+=("$word"); else works+=("$word"); fi; done
(( ${#works[@]} )) || works=(fixed stops fewshot choices)
python=${PYTHON:-python3}
out=$(mktemp -d); trap 'rm -rf "$out"' EXIT
"$python" bench/peer_eval.py make "$model" "$data" "$out" "${options[@]}"
cargo bench -q --no-run --bench eval ${FEATURES:+--features "$FEATURES"}
for work in "${works[@]}"; do
  for _ in $(seq "$rounds"); do
    # As the program itself runs its steps (src/exec/tuning.rs).
    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=2000 \
    MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=1099511627776 MALLOC_MMAP_THRESHOLD_=33554432 \
      cargo bench -q --bench eval ${FEATURES:+--features "$FEATURES"} -- "$model" "$out/$work.json" "${options[@]}" | tail -n 1 >> "$out/$work.ours"
    "$python" bench/peer_eval.py run "$model" "$out/$work.json" "${options[@]}" | tail -n 1 >> "$out/$work.peer"
  done
  "$python" - "$work" "$out/$work.ours" "$out/$work.peer" <<'PY'
import json, statistics, sys
work, *paths = sys.argv[1:]
ours, peer = ([json.loads(line) for line in open(path)] for path in paths)
median = lambda runs, key: statistics.median(run[key] for run in runs)
unit = "items_per_s" if ours[0]["scores"] else "tokens_per_s"
a, b = median(ours, unit), median(peer, unit)
print(f"{work}: {unit} ours {a:.1f}, peer {b:.1f}, ratio {a / b:.2f} (medians of {len(ours)}; "
      f"ours {[round(run[unit]) for run in ours]}, peer {[round(run[unit]) for run in peer]})")
least = median(ours, "least_seconds")
print(f"  {median(ours, 'seconds'):.2f} s; at the machine's limits ({median(ours, 'matrix_peak_gflop_per_s'):.0f} GFLOP/s, "
      f"{median(ours, 'gb_per_s'):.1f} GB/s) {least:.2f} s: {least / median(ours, 'seconds'):.2f} of the limit reached, "
      f"which is {median(peer, 'seconds') / least:.2f} times the peer")
if ours[0]["new_tokens"]:
    same = sum(a == b for a, b in zip(ours[0]["tokens"], peer[0]["tokens"]))
    print(f"  {same} of {len(ours[0]['tokens'])} continuations are the same")
else:
    far = max(abs(a - b) for x, y in zip(ours[0]["scores"], peer[0]["scores"]) for (a, _), (b, _) in zip(x, y))
    print(f"  largest difference of a log-likelihood: {far:.1e}")
PY
done
