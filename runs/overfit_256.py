"""Ask a model for the pictures and captions that it was to learn by heart; called by overfit_256.sh."""

import argparse
import json
import sys
from pathlib import Path

import torch

from vilg.data.sources import load_pairs
from vilg.images import contact_sheet, to_pictures
from vilg.model.defaults import SamplingConfig
from vilg.model.folder import load_model
from vilg.sampling.images import draw_images
from vilg.sampling.texts import generate_texts
from vilg.text import LANGUAGES
from vilg.tokenizer.tokens import encoded_tokens

AGREEMENT, NEEDED = 0.95, 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model, samples = load_model(options.model), load_pairs(options.data)
    assert model.generator is not None and model.text_tokenizer is not None
    text, grid = model.text_tokenizer, model.generator.config.grid
    ids_BN = torch.from_numpy(encoded_tokens(model.image_tokenizer, samples).astype(int))
    rows, scores = [ids_BN], {}
    for lang in LANGUAGES:
        captions = [sample.captions[lang][0] for sample in samples]
        prompts = [text.encode(caption) for caption in captions]
        greedy = SamplingConfig(temperature=0.0)
        drawn = draw_images(model.generator, prompts, range(len(prompts)), greedy)
        agreement_B = (drawn.image_ids_BN == ids_BN).double().mean(dim=1)
        language_ids = [text.language_id(lang)] * len(samples)
        written = generate_texts(model.generator, ids_BN, language_ids, range(len(samples)))
        exact = [
            text.decode(ids) == text.decode(p) for ids, p in zip(written, prompts, strict=True)
        ]
        scores[lang] = {
            "pictures": int((agreement_B >= AGREEMENT).sum()),
            "token_agreement": [round(value, 4) for value in agreement_B.tolist()],
            "captions": sum(exact),
        }
        rows.append(drawn.image_ids_BN)
    pictures = [
        to_pictures(model.image_tokenizer.decode(row.view(-1, grid.height, grid.width)))
        for row in rows
    ]
    contact_sheet(pictures, scale=1).save(options.out / "overfit_256.png")
    report = json.dumps(scores, indent=1)
    (options.out / "overfit_256.json").write_text(report + "\n", encoding="utf-8")
    print(report)
    reached = all(min(s["pictures"], s["captions"]) >= NEEDED for s in scores.values())
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
