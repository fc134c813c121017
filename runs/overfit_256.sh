#!/usr/bin/env bash
# The paper's geometry on a CPU: 16 pictures of 256x256, f = 8, W = 32, 1,024 tokens, all patterns.
#
#     runs/overfit_256.sh [DIR] [fp32|bf16]
#
# Builds the scenes, trains tokenizer and generator, and asks the generator for them again.
# Cost: 42 minutes on one thread of Zen 4 with bf16, beside another training. Expected: cached sampling
# gives back all 16 pictures and captions in either language; exit status 1 under 15 (95% of a picture's
# tokens are enough). A run that was stopped goes on where it stood.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/train.sh

dir=${1:-runs/overfit_256}
precision=${2:-fp32}  # bf16 where the processor has it

[ -e "$dir/scenes/manifest.json" ] ||
    .venv/bin/python datasets/scenes/build.py --num 16 --size 256 --out "$dir/scenes"
experiment "$dir/run" overfit_256 \
    "tokenizer.data.source=$dir/scenes" "generator.data.source=$dir/scenes" \
    "tokenizer.loop.precision=$precision" "generator.loop.precision=$precision"
.venv/bin/python runs/overfit_256.py --model "$dir/run/generator/model" --data "$dir/scenes" \
    --out "$dir"
