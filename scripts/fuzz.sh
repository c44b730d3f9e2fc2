#!/usr/bin/env bash
# Runs one fuzz target:  scripts/fuzz.sh TARGET [SECONDS]
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and a C++ compiler. docs/fuzzing.md tells more.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1 seconds=${2:-600}
fuzz=tests/fuzz corpus=tests/fuzz/corpus/$target
mkdir -p "$corpus"

# What a run begins with: the hostile files, and the fixtures of that kind that are small.
for kind in "$target" "${target}_index"; do
  for file in tests/fixtures/hostile/"$kind"/*; do
    [[ -f $file ]] && cp "$file" "$corpus/$kind-${file##*/}"
  done
done
case $target in
  gguf) seeds=(tests/fixtures/models/gguf-q4_0/model.gguf) ;;
  # Their hostile files begin with one that is in order.
  llama2c | llama2c_tokenizer) seeds=() ;;
  safetensors) seeds=(tests/fixtures/models/*/model.safetensors.index.json) ;;
  config_json) seeds=(tests/fixtures/models/*/config.json) ;;
  adapter_config) seeds=(tests/fixtures/models/*/adapter_config.json) ;;
  task) seeds=(src/eval/tasks/*.yaml tests/fixtures/tasks/*.yaml) ;;
  recipe) seeds=(recipes/*.yaml tests/fixtures/design.yaml) ;;
  *) echo "no such target: $target" >&2; exit 2 ;;
esac
for file in "${seeds[@]}"; do
  name=${file//\//_}
  cp "$file" "$corpus/seed-$name"
done

# Recipes of the diagnostics' test, one file each.
if [[ $target == recipe ]]; then
  awk -v out="$corpus/diagnostics-" '
    /^=== / { n++; text = 1; next }
    /^---$/ { text = 0 }
    text { print > (out n) }' tests/fixtures/diagnostics.txt
fi

# Numbers alone have no words to choose from.
dictionary=()
[[ -f $fuzz/dictionaries/$target.dict ]] && dictionary=("-dict=$fuzz/dictionaries/$target.dict")

# Sanitizers are nightly options; this lets the stable compiler take them.
export RUSTC_BOOTSTRAP=1
exec cargo fuzz run --fuzz-dir "$fuzz" "$target" -- \
  -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 -max_len=8192 \
  "${dictionary[@]}" -print_final_stats=1
