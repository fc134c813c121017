"""Compare generators of one direction with those of both, on the runs that directions.sh has trained.

Nats a token, languages together, of all unseen combinations and of 500 seen pairs; means over the seeds of
training with the 95% interval of Student's t, and the paired difference to training both.
"""

import json
import statistics
from pathlib import Path

import torch
from seeds import SEEDS, command_line, interval
from torch import Tensor

from vilg.api import Vilg
from vilg.data.pairs import Pair
from vilg.model.folder import load_model
from vilg.shipped.emoji import EMOJI
from vilg.shipped.likelihoods import likelihoods
from vilg.shipped.recipes import EMOJI_GROUPS
from vilg.shipped.samples import Settings, encode_captions, read_splits
from vilg.text import LANGUAGES
from vilg.tokenizer.tokens import encoded_tokens

SPLITS = ("unseen_combination", "train")
RUNS = {
    "image_given_text": ("both", "t2i-x1", "t2i-x2"),
    "text_given_image": ("both", "i2t-x1", "i2t-x2"),
}


def nats(folder: Path, samples: list[Pair], image_ids_SN: Tensor) -> dict[str, float]:
    """Return the mean of both languages in both directions, whichever the model has learnt."""
    vilg = Vilg(load_model(folder))
    tokenizer, max_text = vilg.text_tokenizer, vilg.generator.config.max_text
    by_lang = [
        likelihoods(
            vilg.generator,
            image_ids_SN,
            tokenizer.language_id(lang),
            encode_captions(samples, lang, tokenizer, max_text),
            f"{folder.parent.parent.name}, {lang}",
        ).nll_per_token()
        for lang in LANGUAGES
    ]
    return {name: statistics.mean(found[name] for found in by_lang) for name in RUNS}


def main() -> None:
    options = command_line(__doc__)
    splits = read_splits(EMOJI, Settings(only=EMOJI_GROUPS))
    folder = {
        (name, seed): options.runs / f"{name}-{seed}" / "generator" / "model"
        for name in {run for runs in RUNS.values() for run in runs}
        for seed in SEEDS
    }
    tokenizer = load_model(folder["both", 0]).image_tokenizer
    table: dict[str, dict] = {}
    for split in SPLITS:
        samples = splits.chosen[split]
        image_ids_SN = torch.from_numpy(encoded_tokens(tokenizer, samples).astype(int))
        found = {key: nats(path, samples, image_ids_SN) for key, path in sorted(folder.items())}
        for direction, names in RUNS.items():
            both = [found["both", seed][direction] for seed in SEEDS]
            for name in names:
                values = [found[name, seed][direction] for seed in SEEDS]
                more = [value - other for value, other in zip(values, both, strict=True)]
                row = {"nats_per_token": interval(values), "more_than_both": interval(more)}
                table.setdefault(split, {}).setdefault(direction, {})[name] = row
    report = json.dumps(table, indent=1)
    (options.out / "directions.json").write_text(report + "\n", encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
