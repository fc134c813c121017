#!/usr/bin/env bash
# All that needs a CUDA device, in under four minutes: the tests marked gpu, then one table of speed and memory.
#
#     runs/gpu_check.sh            one GPU of 40 GB or more; paste the table into docs/scale.md, with the date
#     runs/gpu_check.sh --dry      the same on the CPU with toys, in a minute, to prove that the script runs
#
# Never run on a GPU yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-.venv/bin/python}
grep -rl --include='*.py' 'mark\.gpu' tests | xargs "$python" -m pytest -q -m gpu
PYTHONPATH=src:. "$python" -m bench.gpu "$@"
