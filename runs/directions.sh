#!/usr/bin/env bash
# Does training both directions help each? Argued in the paper (section 3.1), measured nowhere.
#
#     runs/directions.sh [DIR] [fp32|bf16]
#
# The small generator of Table 7, three seeds: both directions; either alone for as many steps; either
# alone for twice as many, which costs what both cost. Then likelihoods of unseen combinations and of
# seen pairs by runs/directions.py. Cost: see docs/log.md. A run that was stopped goes on where it stood.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=${1:-runs/directions}
precision=${2:-fp32}  # bf16 where the processor has it
steps=1500

train() {  # train NAME SEED SETTINGS...: begin, or go on with what is there
    local out=$dir/$1-$2 seed=$2 resume=()
    shift 2
    [ -e "$out/config.json" ] && resume=(--resume)
    .venv/bin/vilg train table7 --out "$out" ${resume[@]+"${resume[@]}"} --set \
        "generator.loop.seed=$seed" "generator.loop.precision=$precision" "$@"
}

for seed in 0 1 2; do
    train both $seed "generator.loop.num_steps=$steps"
    for times in 1 2; do
        train "t2i-x$times" $seed "generator.loop.num_steps=$((times * steps))" \
            generator.loss.image_to_text_share=0
        train "i2t-x$times" $seed "generator.loop.num_steps=$((times * steps))" \
            generator.loss.text_to_image_share=0
    done
done
.venv/bin/python runs/directions.py --runs "$dir" --out "$dir"
