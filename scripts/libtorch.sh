#!/usr/bin/env bash
# Gets LibTorch 2.9.0 and runs a command with what the feature `libtorch` needs to build:
#
#     scripts/libtorch.sh cargo build --release --features libtorch
#
# Without a command it prints the variables to set. The first of these that is there is taken:
# $LIBTORCH (a folder with lib/ and include/), a `python3` that has torch 2.9 or 2.11, and the virtual
# environment $EVERGRAFT_TORCH_VENV [default: .venv-libtorch in this repository], which is made with pip.
# On x86-64 Linux the wheel has the CUDA libraries too (about 3 GB to fetch); it also runs without a GPU.
set -euo pipefail
venv=${EVERGRAFT_TORCH_VENV:-$(cd "$(dirname "$0")/.." && pwd)/.venv-libtorch}

# Where a Python has torch of a version that the bindings compile with; fails without one.
torch_of() {
  "$1" - 2>/dev/null <<'PYTHON'
import importlib.util, os, re
folder = os.path.dirname(importlib.util.find_spec("torch").origin)
version = re.search(r"__version__ = '([^']+)'", open(os.path.join(folder, "version.py")).read()).group(1)
if not re.match(r"2\.(9|11)\.", version) or not os.path.isdir(os.path.join(folder, "include")):
    raise SystemExit(1)
print(folder)
PYTHON
}

if [ -z "${LIBTORCH:-}" ]; then
  if ! LIBTORCH=$(torch_of python3) && ! LIBTORCH=$(torch_of "$venv/bin/python"); then
    echo "installing torch 2.9.0 into $venv" >&2
    python3 -m venv "$venv" || {
      echo "error: cannot make a Python environment; on Debian and Ubuntu: apt install python3-venv" >&2
      exit 1
    }
    "$venv/bin/pip" install --quiet torch==2.9.0 >&2
    LIBTORCH=$(torch_of "$venv/bin/python") || {
      echo "error: torch was installed into $venv, but its headers are not there" >&2
      exit 1
    }
  fi
fi
if ! [ -d "$LIBTORCH/lib" ] || ! [ -d "$LIBTORCH/include" ]; then
  echo "error: \$LIBTORCH is $LIBTORCH, where there is no lib/ and include/" >&2
  exit 1
fi
if ! command -v c++ >/dev/null; then
  echo "error: there is no C++ compiler (c++); on Debian and Ubuntu: apt install g++" >&2
  exit 1
fi
export LIBTORCH
# The bindings ask for 2.9.0 and also compile with 2.11.
export LIBTORCH_BYPASS_VERSION_CHECK=1
# Threads of tests that wait by spinning would hold each other up.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

if [ $# -eq 0 ]; then
  printf 'export LIBTORCH=%q LIBTORCH_BYPASS_VERSION_CHECK=1\n' "$LIBTORCH"
else
  exec "$@"
fi
