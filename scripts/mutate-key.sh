#!/usr/bin/env bash
# Shows that the tests against wrong hits can fail:  scripts/mutate-key.sh [MUTANT...]
#
# Takes one thing after another out of the key (src/key.rs) in a copy of the tree, and runs the tests that
# say what a key must tell apart. Every mutant must turn them red; one that does not is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$PWD

declare -A mutants=(
  [kind]='s/kind: node\.kind\.name\.to_owned\(\),/kind: String::new(),/'
  [step_version]='s/step_version: node\.kind\.version,/step_version: 0,/'
  [params]='s/^            params,$/            params: Value::Null,/'
  [seed]='s/let mut params = node\.params\.clone\(\);/&\n        forget(\&mut params, "seed");/'
  [learning_rate]='s/let mut params = node\.params\.clone\(\);/&\n        forget(\&mut params, "optimizer.learning_rate");/'
  [printed]='s/printed = seen\.into_values\(\)\.collect\(\);/drop(seen);/'
  [file_content]='s/"\$file": digest/"$file": ""/'
  [step_content]='s/"\$artifact": input\.digest/"$artifact": ""/'
)
tests=(properties:: run::an_upstream run::explain_names sharing::files_of_the_future insight::plan_and_run_agree
  pipeline::)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git ls-files -z | xargs -0 cp --parents -t "$scratch"
# Dependencies are built already; a copy, so that no mutant stays behind in the tree's own target folder.
mkdir "$scratch/target"
[ ! -d "$tree/target/debug" ] || cp -a --reflink=auto "$tree/target/debug" "$scratch/target/"
export CARGO_TARGET_DIR=$scratch/target EVERGRAFT_NO_PROGRESS=1
cd "$scratch"

survivors=()
[[ $# -gt 0 ]] || set -- "${!mutants[@]}"
for mutant; do
  [[ -v mutants[$mutant] ]] || { echo "no such mutant: $mutant (there are: ${!mutants[*]})" >&2; exit 2; }
  sed -E "${mutants[$mutant]}" "$tree/src/key.rs" >src/key.rs
  ! cmp -s "$tree/src/key.rs" src/key.rs || { echo "$mutant: src/key.rs has no such line any more" >&2; exit 2; }
  cargo test --quiet --test it --no-run 2>/dev/null || { echo "$mutant: does not compile" >&2; exit 2; }
  if cargo test --quiet --test it -- "${tests[@]}" >tests.log 2>&1; then
    survivors+=("$mutant")
    echo "$mutant: SURVIVED"
  else
    red=$(sed -nE 's/^    ([a-z_]+::[a-z_:]+)$/\1/p' tests.log | sort -u | paste -sd ' ')
    echo "$mutant: red: $red"
  fi
done
[[ ${#survivors[@]} == 0 ]] || { echo "not told apart: ${survivors[*]}" >&2; exit 1; }
