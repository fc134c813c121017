#!/usr/bin/env bash
# The shipped model, src/vilg/assets/emoji-64, in stages of at most two hours on 2 CPU cores.
#
#     runs/emoji_cpu.sh STAGE [DIR]      STAGE: tokenizer, 1, 2, 3, scores
#
# Each stage starts from the weights that the one before has committed, so a lost machine costs one
# stage at most. A stage that was stopped goes on where it stood: run the same line again.
#
# | stage     | trains                                      | cost      | expected at the end        |
# | tokenizer | 64 tokens a picture, 1,024 codes            | 25 min    | PSNR 20 dB on a batch      |
# | 1         | generator, 11 M parameters, both directions | 80 min    | t2i 3.9, i2t 0.6 nats      |
# | 2         | the same on, a quarter of it image to text  | 85 min    | t2i 1.0, i2t 0.6-1.5       |
# | 3         | the same on, with disturbed pictures        | 17 min    | t2i 5 (disturbed), i2t 1.0 |
# | scores    | nothing: `vilg evaluate`, for the card      | 10 min    |                            |
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stage=${1:?name a stage: tokenizer, 1, 2, scores}
dir=${2:-runs/emoji_cpu}
shipped=src/vilg/assets/emoji-64

train() {  # train NAME RECIPE SETTINGS...: begin, or go on with what is there
    local out=$dir/$1 recipe=$2
    shift 2
    local resume=()
    [ -e "$out/config.json" ] && resume=(--resume)
    .venv/bin/vilg train "$recipe" --out "$out" ${resume[@]+"${resume[@]}"} "$@"
}

ship() {  # ship PART NAME: put a finished stage's weights and log where the package looks for them
    local part=$1 name=$2
    mkdir -p "$shipped/logs"
    cp "$dir/$name/$part/model/"* "$shipped/"
    cp "$dir/$name/$part/log.jsonl" "$shipped/logs/$name.jsonl"
}

case $stage in
    tokenizer) train tokenizer emoji_tokenizer && ship tokenizer tokenizer ;;
    1) train stage1 emoji_cpu && ship generator stage1 ;;
    2)
        train stage2 emoji_cpu --set "generator.init=$shipped" generator.loop.seed=1 \
            generator.loop.num_steps=6500 generator.optim.peak_lr=8e-4 \
            generator.loss.image_to_text_share=0.25 &&
            ship generator stage2
        ;;
    3)
        train stage3 emoji_cpu --set "generator.init=$shipped" generator.loop.seed=2 \
            generator.loop.num_steps=1300 generator.optim.peak_lr=5e-4 \
            generator.loss.image_to_text_share=0.25 generator.loss.disturbed=0.75 &&
            ship generator stage3
        ;;
    scores)
        .venv/bin/vilg evaluate tokenizer --out "$shipped/scores"
        # The groups that the recipe trains on.
        .venv/bin/vilg evaluate generator --out "$shipped/scores" --groups smileys-emotion \
            animals-nature food-drink travel-places activities objects symbols
        ;;
    *) echo "unknown stage $stage: tokenizer, 1, 2, 3 or scores" >&2 && exit 2 ;;
esac
