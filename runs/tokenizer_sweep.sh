#!/usr/bin/env bash
# What matters for the emoji tokenizer: one setting changed at a time, at equal steps.
#
#     runs/tokenizer_sweep.sh [DIR] [NAME...]      all of them, or those named
#
# 1,000 steps of 16 pictures each from nothing, 5 to 12 minutes a line on 2 CPU cores with bf16, then
# `vilg evaluate tokenizer` on unseen concepts. A line that is finished is not run again. PRECISION=fp32
# is for processors that do not multiply bf16.
# Results: docs/lab/log.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/train.sh

dir=${1:-runs/tokenizer_sweep}
shift || true

declare -A lines=(
    [base]=""
    [whole_picture]="tokenizer.model.local_encoder=false"
    [two_blocks]="tokenizer.model.num_res_blocks=2"
    [full_resolution]="tokenizer.model.patch=1 tokenizer.model.channels=16 tokenizer.model.channel_multipliers=[1,2,4,8]"
    [patch4]="tokenizer.model.patch=4 tokenizer.model.channels=128 tokenizer.model.channel_multipliers=[1,2]"
    [wide]="tokenizer.model.channels=64"
    [codes1024]="tokenizer.model.num_codes=1024"
    [codes4096]="tokenizer.model.num_codes=4096"
    [dim8]="tokenizer.model.code_dim=8"
    [dim32]="tokenizer.model.code_dim=32"
    [rate]="tokenizer.optim.peak_lr=3e-3"
    [perceptual]="tokenizer.loss.perceptual=0.1"
    [adversarial]="tokenizer.loss.perceptual=0.1 tokenizer.loss.adversarial=0.1 tokenizer.loss.adversarial_from=500"
    [r1]="tokenizer.loss.perceptual=0.1 tokenizer.loss.adversarial=0.1 tokenizer.loss.adversarial_from=500 tokenizer.loss.r1_penalty=0.01"
    [recolour]="tokenizer.augmentation.recolour=0.3"
    [zoom]="tokenizer.augmentation.zoom=0.15"
    [gradient]="tokenizer.codebook.rule=gradient"
)
order=(base whole_picture two_blocks full_resolution patch4 wide codes1024 codes4096 dim8 dim32 rate perceptual adversarial
    r1 recolour zoom gradient)

for name in "${@:-${order[@]}}"; do
    out=$dir/$name
    [ -e "$out/scores/tokenizer.json" ] && continue
    # shellcheck disable=SC2086  # a line holds several settings
    train "$out" emoji_tokenizer \
        tokenizer.loop.num_steps=1000 "tokenizer.loop.precision=${PRECISION:-bf16}" ${lines[$name]}
    .venv/bin/vilg evaluate tokenizer --model "$out/tokenizer/model" --out "$out/scores"
done
