#!/usr/bin/env bash
# The shipped model, src/vilg/assets/emoji-64, in stages of at most two hours on 2 CPU cores.
#
#     runs/emoji_cpu.sh STAGE [DIR]      STAGE: tokenizer1, tokenizer2, 1, 2, 3, scores
#
# Each stage starts from the weights that the one before has committed, so a lost machine costs one
# stage at most. A stage that was stopped goes on where it stood: run the same line again.
#
# | stage      | trains                                      | cost      | expected at the end        |
# | tokenizer1 | 64 tokens a picture, 2,048 codes, by pixels | 70 min    | PSNR 23 dB on a batch      |
# | tokenizer2 | the same on: perceptual, adversarial        | 75 min    | PSNR 23 dB, perceptual 0.8 |
# | 1          | generator, 11 M parameters, both directions | 80 min    | t2i 3.9, i2t 0.6 nats      |
# | 2          | the same on, a quarter of it image to text  | 85 min    | t2i 1.0, i2t 0.6-1.5       |
# | 3          | the same on, with disturbed pictures        | 17 min    | t2i 5 (disturbed), i2t 1.0 |
# | scores     | nothing: `vilg evaluate`, for the card      | 10 min    |                            |
#
# The tokenizer goes to src/vilg/assets/emoji-tokenizer. The generator that is shipped so far still has
# the tokens of an earlier one (1,024 codes; its weights and log lie beside it), and stages 1 to 3 stand
# here as they made it, but for the tokenizer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stage=${1:?name a stage: tokenizer1, tokenizer2, 1, 2, 3, scores}
dir=${2:-runs/emoji_cpu}
shipped=src/vilg/assets/emoji-64
tokens=src/vilg/assets/emoji-tokenizer

train() {  # train NAME RECIPE SETTINGS...: begin, or go on with what is there
    local out=$dir/$1 recipe=$2
    shift 2
    local resume=()
    [ -e "$out/config.json" ] && resume=(--resume)
    .venv/bin/vilg train "$recipe" --out "$out" ${resume[@]+"${resume[@]}"} "$@"
}

ship() {  # ship PART NAME FOLDER: put a finished stage's weights and log where they are kept
    local part=$1 name=$2 folder=$3
    mkdir -p "$folder/logs"
    cp "$dir/$name/$part/model/"* "$folder/"
    cp "$dir/$name/$part/log.jsonl" "$folder/logs/$name.jsonl"
}

case $stage in
    tokenizer1)
        train tokenizer1 emoji_tokenizer --set tokenizer.loop.precision=bf16 &&
            ship tokenizer tokenizer1 "$tokens"
        ;;
    tokenizer2)
        train tokenizer2 emoji_tokenizer --set "tokenizer.init=$tokens" \
            tokenizer.loop.precision=bf16 tokenizer.loop.seed=1 tokenizer.loop.num_steps=9000 \
            tokenizer.optim.peak_lr=6e-4 tokenizer.loss.perceptual=0.3 \
            tokenizer.loss.adversarial=0.2 tokenizer.loss.adversarial_from=1500 \
            tokenizer.loss.discriminator.channels=32 \
            tokenizer.loss.discriminator.num_layers=2 &&
            ship tokenizer tokenizer2 "$tokens"
        ;;
    1)
        train stage1 emoji_cpu --set "generator.image_tokenizer=$tokens" &&
            ship generator stage1 "$shipped"
        ;;
    2)
        train stage2 emoji_cpu --set "generator.init=$shipped" generator.loop.seed=1 \
            generator.loop.num_steps=6500 generator.optim.peak_lr=8e-4 \
            generator.loss.image_to_text_share=0.25 &&
            ship generator stage2 "$shipped"
        ;;
    3)
        train stage3 emoji_cpu --set "generator.init=$shipped" generator.loop.seed=2 \
            generator.loop.num_steps=1300 generator.optim.peak_lr=5e-4 \
            generator.loss.image_to_text_share=0.25 generator.loss.disturbed=0.75 &&
            ship generator stage3 "$shipped"
        ;;
    scores)
        .venv/bin/vilg evaluate tokenizer --model "$tokens" --out "$tokens/scores"
        # The groups that the recipe trains on.
        .venv/bin/vilg evaluate generator --out "$shipped/scores" --groups smileys-emotion \
            animals-nature food-drink travel-places activities objects symbols
        ;;
    *) echo "unknown stage $stage: tokenizer1, tokenizer2, 1, 2, 3 or scores" >&2 && exit 2 ;;
esac
