#!/usr/bin/env bash
# The shipped model, src/vilg/assets/emoji-64, in stages of at most two and a half hours on one thread.
#
#     runs/emoji_cpu.sh STAGE [DIR]      STAGE: tokenizer1 to tokenizer6, 1 to 3, scores
#
# Each stage starts from the weights that the one before has committed, so a lost machine costs one
# stage at most. A stage that was stopped goes on where it stood: run the same line again. Two trainings
# with OMP_NUM_THREADS=1 each do more than one on two cores, at batches of 8 (docs/lab/log.md).
#
# | stage      | trains                                      | cost, one thread | expected at the end      |
# | tokenizer1 | 64 tokens a picture, 2,048 codes, by pixels | 50 min           | PSNR 23 dB on a batch    |
# | tokenizer2 | the same on, perceptual, recoloured         | 70 min           | perceptual 0.9           |
# | tokenizer3 | its decoder alone, with a discriminator     | 120 min          | perceptual 0.8-0.9       |
# | tokenizer4 | the same without it, perceptual times five  | 70 min           | perceptual 0.7-0.8       |
# | tokenizer5 | its decoder on refined tokens too           | 50 min, two      | perceptual 1.3, pooled   |
# | tokenizer6 | more of that, Lite0 at 224                  | 75 min, two      | perceptual 1.1, pooled   |
# | 1          | generator, 8 M parameters, both directions  | 100 min          | t2i 2.8, i2t 0.65        |
# | 2          | the same on, after moved prefixes           | 80 min           | t2i 2.8, i2t 0.5         |
# | 3          | the same on, more in a step                 | 40 min, two      | t2i 1.3, i2t 0.01        |
# | scores     | nothing: `vilg evaluate`, for the cards     | 30 min, two      |                          |
#
# The shipped stage 2 began with 7,000 more steps of stage 1 (logs/stage1_more.jsonl), which no line here repeats.
#
# All with bf16 products: a processor without avx512_bf16 takes about twice as long.
#
# The tokenizer goes to src/vilg/assets/emoji-tokenizer, the generator with its tokens to emoji-64, which gets
# the decoder that the tokenizer has then, and tokenizer3 to 6 give it theirs.
# tokenizer3 is averaged with what it began with (runs/average.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/train.sh

stage=${1:?name a stage: tokenizer1 to tokenizer6, 1 to 3, scores}
dir=${2:-runs/emoji_cpu}
shipped=src/vilg/assets/emoji-64
tokens=src/vilg/assets/emoji-tokenizer

kept() {  # kept NAME FOLDER: print where a stage's beginning is kept; run again, it must not begin with its own end
    local before=$dir/before_$1
    mkdir -p "$dir" && { [ -e "$before" ] || cp -r "$2" "$before"; } && echo "$before"
}

ship() {  # ship PART NAME FOLDER [MODEL]: put a finished stage's weights and log where they are kept
    local part=$1 name=$2 folder=$3 model=${4:-$dir/$2/$1/model}
    mkdir -p "$folder/logs"
    cp "$model/"* "$folder/"
    cp "$dir/$name/$part/log.jsonl" "$folder/logs/$name.jsonl"
}

train_decoder() {  # train_decoder NAME SETTINGS...: the decoder alone learns on; tokens and their fingerprint stay
    local name=$1 before
    shift
    before=$(kept "$name" "$tokens") || return
    train "$dir/$name" emoji_tokenizer "tokenizer.init=$before" tokenizer.decoder_only=true \
        tokenizer.loop.precision=bf16 tokenizer.optim.peak_lr=6e-4 tokenizer.augmentation.recolour=0.15 "$@"
}

ship_decoder() {  # ship_decoder NAME [MODEL]: to the tokenizer's folder, and to the generator's
    ship tokenizer "$1" "$tokens" "${@:2}" && cp "$tokens/image_tokenizer.safetensors" "$shipped/"
}

case $stage in
    tokenizer1)
        train "$dir/tokenizer1" emoji_tokenizer tokenizer.loop.precision=bf16 &&
            ship tokenizer tokenizer1 "$tokens"
        ;;
    tokenizer2)
        train "$dir/tokenizer2" emoji_tokenizer "tokenizer.init=$tokens" \
            tokenizer.loop.precision=bf16 tokenizer.loop.seed=1 tokenizer.loop.num_steps=6000 \
            tokenizer.optim.peak_lr=1e-3 tokenizer.loss.perceptual=0.1 \
            tokenizer.augmentation.recolour=0.15 &&
            ship tokenizer tokenizer2 "$tokens"
        ;;
    tokenizer3)
        train_decoder tokenizer3 tokenizer.loop.seed=2 tokenizer.loop.num_steps=6000 tokenizer.loss.perceptual=0.1 \
            tokenizer.loss.adversarial=0.1 tokenizer.loss.adversarial_from=300 tokenizer.loss.r1_penalty=0.01 \
            tokenizer.loss.adaptive_weight_limit=4 tokenizer.loss.discriminator.channels=32 \
            tokenizer.loss.discriminator.num_layers=2 &&
            .venv/bin/python runs/average.py \
                "$dir/before_tokenizer3" "$dir/tokenizer3/tokenizer/model" 0.8 "$dir/average" &&
            ship_decoder tokenizer3 "$dir/average"
        ;;
    tokenizer4)
        train_decoder tokenizer4 tokenizer.loop.seed=3 tokenizer.loop.num_steps=5000 tokenizer.loss.perceptual=0.5 &&
            ship_decoder tokenizer4
        ;;
    tokenizer5)  # tokens of 2,000 pictures are refined first (docs/lab/decisions/0015). Those of the shipped one were
        # refined at commit 109fcf6, with half the perceptual weight that there is now, and it is of Lite0 at 128,
        # as it was until commit 776936d: 35 minutes.
        train_decoder tokenizer5 tokenizer.loop.seed=4 tokenizer.loop.num_steps=3500 tokenizer.loss.perceptual=0.5 \
            tokenizer.loss.perceptual_net=lite0_pooled tokenizer.refine_steps=16 tokenizer.refine_pictures=2000 &&
            ship_decoder tokenizer5
        ;;
    tokenizer6)  # more of that
        train_decoder tokenizer6 tokenizer.loop.seed=5 tokenizer.loop.num_steps=5000 tokenizer.loss.perceptual=0.5 \
            tokenizer.loss.perceptual_net=lite0_pooled tokenizer.refine_steps=16 tokenizer.refine_pictures=3000 &&
            ship_decoder tokenizer6
        ;;
    1)
        train "$dir/stage1" emoji_cpu "generator.image_tokenizer=$tokens" \
            generator.loop.precision=bf16 &&
            ship generator stage1 "$shipped"
        ;;
    2)  # on from what stage 1 has shipped, after moved prefixes (docs/lab/decisions/0012)
        before=$(kept stage2 "$shipped")
        train "$dir/stage2" emoji_cpu "generator.image_tokenizer=$tokens" "generator.init=$before" \
            generator.loop.precision=bf16 generator.loop.seed=2 generator.loop.num_steps=20000 \
            generator.optim.peak_lr=7e-4 generator.prefix_augmentation.noise=6 \
            generator.prefix_augmentation.max_shift=2 &&
            ship generator stage2 "$shipped"
        ;;
    3)  # on from stage 2, more texts and pictures in a step (docs/lab/decisions/0013)
        before=$(kept stage3 "$shipped")
        train "$dir/stage3" emoji_cpu "generator.image_tokenizer=$tokens" "generator.init=$before" \
            generator.loop.precision=bf16 generator.loop.seed=3 generator.loop.num_steps=18000 \
            generator.loop.batch_size=16 generator.optim.peak_lr=7e-4 "generator.optim.betas=[0.9,0.99]" \
            generator.prefix_augmentation.noise=6 generator.prefix_augmentation.max_shift=2 \
            generator.augmentation.noise=3 generator.augmentation.max_shift=2 generator.augmentation.zoom=0.1 \
            generator.loss.texts_per_picture=2 generator.loss.image_to_text_share=0.5 &&
            ship generator stage3 "$shipped"
        ;;
    scores)
        .venv/bin/vilg evaluate tokenizer --model "$tokens" --out "$tokens/scores"
        for measured in "generator --limit 60" "drawing --limit 60"; do  # on the groups that the recipe trains on
            # shellcheck disable=SC2086  # a suite and how much of it
            .venv/bin/vilg evaluate $measured --out "$shipped/scores" --only \
                group={smileys-emotion,animals-nature,food-drink,travel-places,activities,objects,symbols}
        done
        # Last, since it stops where bf16 is not multiplied: leave the precision out there.
        .venv/bin/vilg evaluate tokenizer --model "$tokens" --splits unseen_concept \
            --refine 200 --precision bf16 --out "$tokens/scores/refined"
        ;;
    *) echo "unknown stage $stage: tokenizer1 to tokenizer6, 1 to 3 or scores" >&2 && exit 2 ;;
esac
