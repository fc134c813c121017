#!/usr/bin/env bash
# The paper's Table 7 on emoji: two-stage against end-to-end, at equal steps, three seeds; and what a
# discriminator adds to the latter.
#
#     runs/table7.sh [DIR] [fp32|bf16] [SEED...]
#
# For each seed a two-stage generator, its end-to-end twin, the tokenizer's decoder trained alone for as
# many steps by the same loss, and the twin trained on, once with a discriminator and once without; then
# all cells of the table by runs/table7.py, and a contact sheet whose last rows are the same tokens through
# all decoders. Given seeds are trained and nothing is measured: so two processors share the work. Cost of a
# seed: about an hour on one thread. A run that was stopped goes on where it stood.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/train.sh

dir=${1:-runs/table7}
precision=${2:-fp32}  # bf16 where the processor has it
seeds=("${@:3}")

for seed in ${seeds[@]:-0 1 2}; do
    for recipe in table7 table7_e2e table7_decoder table7_e2e_longer table7_adversarial; do
        stage=generator settings=()
        case $recipe in
            table7_decoder) stage=tokenizer ;;
            *longer | *adversarial)
                settings=("generator.init=$dir/table7_e2e-$seed/generator/model")
                ;;
        esac
        experiment "$dir/$recipe-$seed" $recipe "$stage.loop.seed=$seed" \
            "$stage.loop.precision=$precision" ${settings[@]+"${settings[@]}"}
    done
done
[ ${#seeds[@]} -gt 0 ] || .venv/bin/python runs/table7.py --runs "$dir" --out "$dir"
