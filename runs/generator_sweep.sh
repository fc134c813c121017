#!/usr/bin/env bash
# What matters for the emoji generator: one setting changed at a time, in about the time of the base.
#
#     runs/generator_sweep.sh [DIR] [NAME...]      all of them, or those named
#
# A quarter of the pairs and a small net, so that a line sees them often in little time: 24,000 pairs, 23
# epochs, 7 minutes on one CPU thread with bf16. Then captions, names and likelihoods of 60 pairs of every
# split. The base is not `emoji_cpu`, which has learnt from it: settings it does not name are the recipe's.
# Lines of another width, depth or batch have the steps that fit the time and a rate that suits them; `deep`
# goes with `wide`. A line that is finished is not run again. Results: docs/lab/log.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/train.sh

dir=${1:-runs/generator_sweep}
shift || true

declare -A lines=(
    [base]=""
    [unshared]="generator.share_codes=false"
    [disturbed0]="generator.loss.disturbed=0"
    [disturbed25]="generator.loss.disturbed=0.25"
    [share100]="generator.loss.image_to_text_share=1 generator.loop.num_steps=1150"
    [still]="generator.augmentation.max_shift=0 generator.augmentation.zoom=0"
    [rate_low]="generator.optim.peak_lr=7e-4"
    [rate_high]="generator.optim.peak_lr=3e-3"
    [batch8]="generator.loop.batch_size=8 generator.loop.num_steps=2500 generator.optim.peak_lr=1e-3"
    [batch32]="generator.loop.batch_size=32 generator.loop.num_steps=800"
    [deep]='generator.width=256 generator.num_heads=4 generator.patterns=["row","column","row","column","row","column","row","convolution"] generator.loop.num_steps=700 generator.optim.peak_lr=1e-3'
    [wide]="generator.width=256 generator.num_heads=4 generator.loop.num_steps=1200"
    [wider]="generator.width=384 generator.num_heads=6 generator.loop.num_steps=800 generator.optim.peak_lr=1e-3"
    [qk_norm]="generator.qk_norm=true"
    [dense]='generator.patterns=["dense","dense","dense","dense"]'
)
order=(base unshared disturbed0 disturbed25 share100 still rate_low rate_high batch8 batch32 deep wide wider
    qk_norm dense)

for name in "${@:-${order[@]}}"; do
    out=$dir/$name
    [ -e "$out/scores/generator.json" ] && continue
    # shellcheck disable=SC2086  # a line holds several settings
    train "$out" emoji_cpu generator.image_tokenizer=src/vilg/assets/emoji-tokenizer \
        'generator.data.only=["group=animals-nature","group=food-drink"]' generator.loop.precision=bf16 \
        generator.width=192 generator.num_heads=3 'generator.patterns=["row","column","row","convolution"]' \
        generator.loop.batch_size=16 generator.loop.num_steps=1500 \
        generator.loss.disturbed=0.75 generator.loss.image_to_text_share=0.5 \
        generator.augmentation.max_shift=4 generator.augmentation.zoom=0.2 \
        generator.optim.peak_lr=1.5e-3 generator.optim.ema_decay=0.99 ${lines[$name]}
    .venv/bin/vilg evaluate generator --model "$out/generator/model" --out "$out/scores" --limit 60 \
        --only group={animals-nature,food-drink}
done
