#!/usr/bin/env bash
# Does training both directions help each? Argued in the paper (section 3.1), measured nowhere.
#
#     runs/directions.sh [DIR] [fp32|bf16]
#
# The small generator of Table 7, three seeds: both directions; either alone for as many steps; either
# alone for twice as many, which reads as many sequences as both. Then likelihoods of unseen combinations and of
# seen pairs by runs/directions.py. Cost: 50 minutes on one thread of Zen 4 with bf16, beside another
# training. A run that was stopped goes on where it stood.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/train.sh

dir=${1:-runs/directions}
precision=${2:-fp32}  # bf16 where the processor has it
steps=1500

for seed in 0 1 2; do
    all=("generator.loop.seed=$seed" "generator.loop.precision=$precision")
    experiment "$dir/both-$seed" table7 "${all[@]}" "generator.loop.num_steps=$steps"
    for times in 1 2; do
        experiment "$dir/t2i-x$times-$seed" table7 "${all[@]}" \
            "generator.loop.num_steps=$((times * steps))" generator.loss.image_to_text_share=0
        experiment "$dir/i2t-x$times-$seed" table7 "${all[@]}" \
            "generator.loop.num_steps=$((times * steps))" generator.loss.text_to_image_share=0
    done
done
.venv/bin/python runs/directions.py --runs "$dir" --out "$dir"
