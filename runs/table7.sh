#!/usr/bin/env bash
# The paper's Table 7 on emoji: two-stage against end-to-end, at equal steps, three seeds.
#
#     runs/table7.sh [DIR] [fp32|bf16]
#
# For each seed a two-stage generator, its end-to-end twin, the tokenizer's decoder trained for as many
# steps alone, and the twin trained on with a discriminator; then all cells of the table by
# runs/table7.py, with one contact sheet of the same tokens through all decoders. Cost: see docs/log.md.
# A run that was stopped goes on where it stood.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=${1:-runs/table7}
precision=${2:-fp32}  # bf16 where the processor has it

train() {  # train STAGE RECIPE SEED [SETTINGS...]: begin, or go on with what is there
    local stage=$1 recipe=$2 seed=$3 out=$dir/$2-$3 resume=()
    shift 3
    [ -e "$out/config.json" ] && resume=(--resume)
    .venv/bin/vilg train "$recipe" --out "$out" ${resume[@]+"${resume[@]}"} --set \
        "$stage.loop.seed=$seed" "$stage.loop.precision=$precision" "$@"
}

for seed in 0 1 2; do
    train generator table7 $seed
    train generator table7_e2e $seed
    train tokenizer table7_decoder $seed
    train generator table7_adversarial $seed \
        "generator.init=$dir/table7_e2e-$seed/generator/model"
done
.venv/bin/python runs/table7.py --runs "$dir" --out "$dir"
