#!/usr/bin/env bash
# Load time and peak memory of a model folder: ours and transformers', in turns.
#   bench/load.sh MODEL_DIR [ROUNDS] [DTYPE]
# Needs a `python3` with torch and transformers; PYTHON names another one. Peak memory counts
# mapped files. The interpreter's start and imports are left out of the time on both sides.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:?usage: bench/load.sh MODEL_DIR [ROUNDS] [DTYPE]} rounds=${2:-5} dtype=${3:-f32}
cargo bench --no-run --bench load 2>/dev/null
for _ in $(seq "$rounds"); do
  printf 'ours         '; cargo bench -q --bench load -- "$model" "$dtype"
  printf 'transformers '; "${PYTHON:-python3}" - "$model" "$dtype" <<'PY'
import json, sys, time
import torch
from transformers import AutoModelForCausalLM
dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[sys.argv[2]]
def peak():
    return next(int(l.split()[1]) // 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
imported, start = peak(), time.time()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=dtype)
loaded, at_load = time.time() - start, peak()
with torch.no_grad():
    logits = model(torch.tensor([[1]])).logits.float()
print(json.dumps(dict(load_s=loaded, first_token_s=time.time() - start, imports_peak_mib=imported,
                      load_peak_mib=at_load, first_token_peak_mib=peak(), sum=logits.sum().item())))
PY
done
