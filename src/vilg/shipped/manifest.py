"""What was measured: with the same manifest, the same scores.

Neither times nor paths: a second run writes the same bytes.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from vilg import __version__
from vilg.data.shards import fingerprint
from vilg.device import HOST, described
from vilg.evaluation.judge import Judge
from vilg.model.folder import Model
from vilg.shipped.samples import Settings, Splits
from vilg.tokenizer.perceptual import LITE0, lite0_hash


def manifest(
    suite: str,
    model: Model,
    weights: str,
    judge: Judge | None,
    data: Path,
    splits: Splits,
    settings: Settings,
    device: torch.device = HOST,
) -> dict[str, Any]:
    """Describe a run of a suite.

    Args:
        weights: hash of the model's weights.
        judge: None where no score is by it.
        data: folder of the data set.
        device: said where it is not the CPU.
    """
    values = dataclasses.asdict(settings)
    seeds = {name: values.pop(name) for name in sorted(values) if name.endswith("_seed")}
    return {
        "suite": suite,
        "weights": weights,
        "image_tokenizer": model.image_tokenizer.fingerprint(),
        "text_tokenizer": model.text_tokenizer.fingerprint if model.text_tokenizer else None,
        "judge": {"name": judge.name, "weights": judge.weights} if judge else None,
        "refined_by": {"name": LITE0, "weights": lite0_hash()} if settings.refine_steps else None,
        "data": fingerprint(data),
        "vilg": __version__,
        "torch": torch.__version__,
        **({} if device == HOST else {"device": described(device)}),
        "seeds": seeds,
        "settings": values,
        "samples": {
            name: {"in_data": len(splits.whole[name]), "measured": len(chosen)}
            for name, chosen in splits.chosen.items()
        },
    }
