#!/usr/bin/env bash
# Gets the data of recipes/smollm2-arc.yaml with git, and checks every file:
#
#   scripts/fetch-arc-data.sh [DIR]      (default: data)
#
# ARC, OpenBookQA and BoolQ as LLM-Adapters ships them (ODC-By 1.0), and Shakespeare's plays (public
# domain) as the text of the update.
set -euo pipefail
dir=${1:-data}
sums=$(cat <<'SUMS'
6a06cece3dec32f4fb1c1b0fc29dab14be7cf3053b417290dbc6cd845359f5ff  commonsense/arc_e/train.json
3f32a84716ca6d57d38728bf80cc8117aecd17445c2cf29a68b571b810eb82dc  commonsense/arc_e/test.json
a9debff28aafed86a08211dc3584a3b6cb38edca8c56bb34cd5002ed54aeebfb  commonsense/arc_c/train.json
4a89ce368ae01a71d268d9851686738b2a0a1d84271116bab49a1dd2b48ecad7  commonsense/arc_c/test.json
a1e094eeea01f70c0baa880f37497b26700ae99b243927b9c529984de9b1fe90  commonsense/obqa/train.json
8479930f7b8a26052c78250280b5465a4016ca7fc806af440d0f37e243f3099e  commonsense/obqa/test.json
5ccbaceebaddc69765e1c4a363632196b81851d303696672165ab59ec4e48c83  commonsense/boolq/train.json
89df2397cbca81dc31adcc6f7f5b635821aa0565aafde46725b2b4bd39b4dfa9  commonsense/boolq/test.json
86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed  text/tinyshakespeare.txt
SUMS
)
check() { (cd "$dir" && sha256sum --check --quiet <<<"$sums"); }

mkdir -p "$dir"
if check >/dev/null 2>&1; then echo "$dir is complete already"; exit 0; fi
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
git clone --quiet --depth 1 https://github.com/AGI-Edgerunners/LLM-Adapters "$tmp/adapters"
git clone --quiet --depth 1 https://github.com/karpathy/char-rnn "$tmp/char-rnn"
for pair in arc_e=ARC-Easy arc_c=ARC-Challenge obqa=openbookqa boolq=boolq; do
  mkdir -p "$dir/commonsense/${pair%=*}"
  cp "$tmp/adapters/dataset/${pair#*=}"/{train,test}.json "$dir/commonsense/${pair%=*}/"
done
mkdir -p "$dir/text"
cp "$tmp/char-rnn/data/tinyshakespeare/input.txt" "$dir/text/tinyshakespeare.txt"
check
echo "$dir holds the data"
