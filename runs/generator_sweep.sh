#!/usr/bin/env bash
# What matters for the emoji generator: one setting changed at a time, at equal pairs seen but for the last.
#
#     runs/generator_sweep.sh [DIR] [NAME...]      all of them, or those named
#
# 9,600 pairs each from nothing (600 steps of 16), 3 to 8 minutes a line on 2 CPU cores with bf16, then
# likelihoods and captions of a few pairs of every split. A line that is finished is not run again.
# Results: docs/log.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/train.sh

dir=${1:-runs/generator_sweep}
shift || true

declare -A lines=(
    [base]=""
    [dense]='generator.patterns=["dense","dense","dense","dense","dense","dense","dense","dense"]'
    [disturbed0]="generator.loss.disturbed=0"
    [share100]="generator.loss.image_to_text_share=1"
    [still]="generator.augmentation.max_shift=0 generator.augmentation.zoom=0"
    [rate_low]="generator.optim.peak_lr=5e-4"
    [rate_high]="generator.optim.peak_lr=2e-3"
    [batch32]="generator.loop.batch_size=32 generator.loop.num_steps=300"
    [wide]="generator.width=384 generator.num_heads=6"
    [shallow_wide]='generator.width=384 generator.num_heads=6 generator.patterns=["row","column","row","convolution"]'
    [qk_norm]="generator.qk_norm=true"
    # 2.5 times the steps in the time of the base, or less.
    [small]='generator.width=192 generator.num_heads=3 generator.patterns=["row","column","row","convolution"] generator.loop.num_steps=1500'
)
order=(base dense disturbed0 share100 still rate_low rate_high batch32 wide shallow_wide qk_norm small)

for name in "${@:-${order[@]}}"; do
    out=$dir/$name
    [ -e "$out/scores/generator.json" ] && continue
    # shellcheck disable=SC2086  # a line holds several settings
    train "$out" emoji_cpu \
        generator.image_tokenizer=src/vilg/assets/emoji-tokenizer generator.loop.num_steps=600 \
        generator.loop.precision=bf16 ${lines[$name]}
    .venv/bin/vilg evaluate generator --model "$out/generator/model" --out "$out/scores" --limit 60 \
        --groups smileys-emotion animals-nature food-drink travel-places activities objects symbols
done
