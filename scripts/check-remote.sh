#!/usr/bin/env bash
# The remote cache against real servers on this machine: moto, of PyPI, for S3, and Azurite, of npm, for Azure.
#
#     scripts/check-remote.sh          # makes its own Python environment in .venv-moto; Azure needs npm
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${EVERGRAFT_MOTO_VENV:-$PWD/.venv-moto}
work=$(mktemp -d)
trap 'kill "${server:-}" "${proxy:-}" "${azurite:-}" 2>/dev/null || true; rm -rf "$work"' EXIT

if [ ! -x "$venv/bin/moto_server" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet 'moto[server]==5.2.5' boto3 'azure-storage-blob==12.31.1'
fi

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port)
"$venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$work/moto.log" 2>&1 &
server=$!
export AWS_ACCESS_KEY_ID=id AWS_SECRET_ACCESS_KEY=planted-secret AWS_REGION=us-east-1
export S3_SERVER=http://127.0.0.1:$port
export AWS_ENDPOINT_URL=$S3_SERVER

python=$venv/bin/python
s3() { "$python" scripts/s3.py "$@"; }
s3 make-bucket

echo "== the test: two machines, large files, a record is written once"
EVERGRAFT_TEST_REMOTE=s3://bucket/test cargo test --quiet --test it -- --ignored --nocapture a_real_server

evergraft=${EVERGRAFT:-target/debug/evergraft}
[ -x "$evergraft" ] || cargo build --quiet
cat >"$work/recipe.yaml" <<'RECIPE'
version: 1
name: remote
steps:
  a: { uses: command, with: { run: "head -c 3000000 /dev/zero > a", outputs: [a] } }
  b: { uses: command, with: { run: "wc -c < \"$STEP_A/a\" > b", steps: { a: "${{ steps.a }}" }, outputs: [b] } }
RECIPE
run() { # machine, address, expected numbers, further words that must be told
  local machine=$1 remote=$2 numbers=$3 words=${4:-}
  "$evergraft" run "$work/recipe.yaml" --outputs "$work/outputs" --cache-dir "$work/$machine" --remote "$remote" \
    >"$work/told" 2>&1 || { cat "$work/told"; exit 1; }
  grep -E '^warning|cached' "$work/told" | sed "s#$work#WORK#g"
  grep -q "$numbers" "$work/told" || { echo "expected: $numbers"; cat "$work/told"; exit 1; }
  if [ -n "$words" ]; then grep -q "$words" "$work/told" || { echo "expected: $words"; exit 1; }
  elif grep -q '^warning' "$work/told"; then echo "expected no warning"; exit 1; fi
  if grep -rq planted-secret "$work/told" "$work/outputs" "$work/$machine"; then echo "a secret was told"; exit 1; fi
  "$evergraft" cache verify --cache-dir "$work/$machine" >/dev/null
}

echo "== one machine makes the results, another takes them"
run one s3://bucket/x "2 run, 0 cached"
run two s3://bucket/x "0 run, 2 cached"

echo "== a conditional write: the server refuses a second record, and that is no failure"
s3 second-put x
run three s3://bucket/x "0 run, 2 cached"

echo "== a corrupted object of the same size, of another size, a lost one"
for what in flip cut lose; do
  s3 damage x "$what"
  run "machine-$what" s3://bucket/x "1 cached\|2 run" "remote cache"
  run "after-$what" s3://bucket/x "0 run, 2 cached"
done

echo "== a connection that is cut in the middle of a body: tried again, then left alone"
proxy_port=$(free_port)
"$python" scripts/s3.py cut-proxy "$proxy_port" "$port" >"$work/proxy.log" 2>&1 &
proxy=$!
for _ in $(seq 100); do (echo >"/dev/tcp/127.0.0.1/$proxy_port") 2>/dev/null && break; sleep 0.1; done
AWS_ENDPOINT_URL=http://127.0.0.1:$proxy_port run cut s3://bucket/x "2 run, 0 cached" "left alone from here on"

echo "== no such bucket, no server"
run nobucket s3://nobody/x "2 run, 0 cached" "left alone from here on"
AWS_ENDPOINT_URL=http://127.0.0.1:1 run noserver s3://bucket/x "2 run, 0 cached" "left alone from here on"

if command -v npm >/dev/null && npm install --silent --no-save --ignore-scripts --prefix "$work/npm" azurite@3.35.0; then
  echo "== Azure: the same test, one machine makes the results, another takes them, no such container"
  # The port that the emulator has by convention, which is where object_store and its own clients look.
  node "$work/npm/node_modules/azurite/dist/src/blob/main.js" --silent --skipApiVersionCheck --location "$work/azure" >"$work/azurite.log" 2>&1 &
  azurite=$!
  export AZURE_STORAGE_USE_EMULATOR=true
  "$python" - <<'PYTHON'
from azure.storage.blob import ContainerClient
ContainerClient.from_connection_string("UseDevelopmentStorage=true", "bucket", retry_total=30).create_container()
PYTHON
  EVERGRAFT_TEST_REMOTE=az://bucket/test cargo test --quiet --test it -- --ignored --nocapture a_real_server
  run azure-one az://bucket/x "2 run, 0 cached"
  run azure-two az://bucket/x "0 run, 2 cached"
  run azure-nobody az://nobody/x "2 run, 0 cached" "left alone from here on"
else
  echo "== Azure: skipped, npm cannot give an Azurite"
fi
echo "all as expected"
