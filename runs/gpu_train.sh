#!/usr/bin/env bash
# The shipped model's first stages again, on one CUDA device: an image tokenizer and a generator of 64 x 64 emoji.
#
#     runs/gpu_train.sh [DIR]      stopped by itself after 30 minutes a stage; run again, it goes on
#
# The same recipes as runs/emoji_cpu.sh, whose stages took 50 and 100 minutes on one CPU core; small networks leave
# most of a GPU idle, so nothing is promised but the limit. Never run on a GPU yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/train.sh

dir=${1:-runs/gpu_train}
.venv/bin/python -c 'import torch; raise SystemExit(not torch.cuda.is_available())' ||
    { echo "there is no CUDA device here; runs/emoji_cpu.sh trains the same on a CPU" >&2; exit 2; }

stage() {  # stage NAME RECIPE SETTINGS...: a stage with its limit
    local name=$1 recipe=$2
    shift 2
    export -f train begin_or_go_on
    timeout --signal=INT 30m bash -c 'train "$@"' train "$dir/$name" "$recipe" "$@" ||
        { echo "$name is not finished: run the same line again" >&2; exit 1; }
}

stage tokenizer emoji_tokenizer tokenizer.loop.precision=bf16
stage generator emoji_cpu "generator.image_tokenizer=$dir/tokenizer/tokenizer/model" \
    generator.loop.precision=bf16
.venv/bin/vilg demo --model "$dir/generator/generator/model" --out "$dir/demo"
