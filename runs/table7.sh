#!/usr/bin/env bash
# The paper's Table 7 on emoji: two-stage against end-to-end, at equal steps, three seeds.
#
#     runs/table7.sh [DIR] [fp32|bf16]
#
# For each seed a two-stage generator, its end-to-end twin, and the tokenizer's decoder trained for as
# many steps alone; then all cells of the table by runs/table7.py, with one contact sheet of the same
# tokens through all decoders. Cost: see docs/log.md. A run that was stopped goes on where it stood.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=${1:-runs/table7}
precision=${2:-fp32}  # bf16 where the processor has it

train() {  # train STAGE RECIPE SEED: begin, or go on with what is there
    local out=$dir/$2-$3 resume=()
    [ -e "$out/config.json" ] && resume=(--resume)
    .venv/bin/vilg train "$2" --out "$out" ${resume[@]+"${resume[@]}"} --set \
        "$1.loop.seed=$3" "$1.loop.precision=$precision"
}

for seed in 0 1 2; do
    train generator table7 $seed
    train generator table7_e2e $seed
    train tokenizer table7_decoder $seed
done
.venv/bin/python runs/table7.py --runs "$dir" --out "$dir"
