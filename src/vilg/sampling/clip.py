"""Which candidate is best? Asked of any CLIP: how near are the prompt and each picture?

CLIP, Chinese-CLIP, SigLIP and their kin, as the package transformers reads them. It is imported here and
nowhere else, on first use. Weights are safetensors; code that comes with a model is never run.

Shape letters: B pictures, C features.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vilg.device import HOST
from vilg.errors import VilgError, how_to_install
from vilg.images import open_picture
from vilg.sampling.batches import slices
from vilg.tokenizer.sources import download

_BATCH = 16
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]


class RankerError(VilgError):
    """A ranker that is not installed or cannot be loaded, or a prompt that it cannot read."""


class ClipRanker:
    """Scores pictures by the cosine between their features and the prompt's: a `rank.Ranker`.

    Args:
        model: has `get_text_features` and `get_image_features`, as transformers' CLIPModel has.

    Attributes:
        fingerprint: identifies the weights.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any):
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        digest = hashlib.sha256()
        for name, weight in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.contiguous().cpu().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def check(self, prompt: str) -> None:
        """Find out before any drawing that a prompt is too long.

        Raises:
            RankerError: it is.
        """
        self(prompt, [])

    @classmethod
    def from_pretrained(cls, name: str | Path, device: torch.device = HOST) -> Self:
        """Load a folder or a hub id "owner/name", to compute in single precision.

        Raises:
            RankerError: no transformers, nothing of that name, no whole weights in safetensors, or a
                model without features of texts and pictures that can be compared.
        """
        if find_spec("transformers") is None:
            raise RankerError(
                f"ranking by a CLIP needs the package transformers: {how_to_install('rank')}"
            )
        is_here = Path(name).is_dir()
        try:
            # Left to transformers, weights of another format go through a converting service.
            folder = name if is_here else download(str(name), _FILES)
            with quiet():
                ranker = cls._load(Path(folder))
                ranker.model.to(device)
                # What does not fit together should say so now, not after an hour of drawing.
                ranker("picture", [Image.new("RGB", (64, 64))])
        except Exception as error:  # transformers names no class for what it cannot load
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            source = "as a CLIP" if is_here else "as a CLIP (no folder here, so a hub id)"
            raise RankerError(f"cannot load {name} {source}: {reason}") from error
        return ranker

    @classmethod
    def _load(cls, folder: Path) -> Self:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        # Left out, transformers asks on the terminal whether to run a model's own code.
        safe: dict[str, Any] = {"trust_remote_code": False}
        weights = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        model, report = AutoModel.from_pretrained(folder, **weights, **safe)
        if not {"get_text_features", "get_image_features"} <= {*dir(model)}:
            raise RankerError(f"{type(model).__name__} has no features of texts and pictures")
        # Where files lack weights or words, transformers makes up random ones, or goes without.
        if report["missing_keys"]:
            raise RankerError(f"its weights lack {min(report['missing_keys'])}")
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise RankerError("its tokenizer has no words")
        # Pillow, so that scores don't depend on whether torchvision happens to be there.
        image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **safe)
        return cls(model, tokenizer, image_processor)

    @torch.inference_mode()
    def __call__(self, prompt: str, pictures: Sequence[Image.Image]) -> list[float]:
        """Return one cosine a picture.

        Raises:
            RankerError: the prompt is longer than the model reads; nothing is cut off.
            ImageError: a picture that cannot be read.
        """
        device, text_config = self.model.device, self.model.config.get_text_config()
        limit = self.tokenizer.model_max_length
        limit = min(limit, getattr(text_config, "max_position_embeddings", limit))
        # A model that gets no mask (SigLIP) was trained on texts filled up to the limit.
        has_mask = "attention_mask" in self.tokenizer.model_input_names
        filling = {} if has_mask else {"padding": "max_length", "max_length": limit}
        tokens = self.tokenizer([prompt], return_tensors="pt", verbose=False, **filling)
        count = tokens["input_ids"].shape[1]
        if count > limit:
            raise RankerError(
                f"the prompt has {count} tokens for the ranker, which reads {limit}: shorten it"
            )
        text_1C = _unit(self.model.get_text_features(**tokens.to(device)))
        scores: list[float] = []
        for part in slices(len(pictures), _BATCH):
            batch = [open_picture(picture) for picture in pictures[part]]
            inputs = self.image_processor(images=batch, return_tensors="pt").to(device)
            images_BC = _unit(self.model.get_image_features(**inputs))
            scores += (images_BC @ text_1C[0]).cpu().tolist()
        return scores


def _unit(output: Any) -> Tensor:
    """Return features_BC of length 1."""
    return F.normalize(output.pooler_output, dim=-1)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' bars and reports; of these, what matters here is raised."""
    from transformers.utils.logging import set_tqdm_hook

    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    hook = set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))
    try:
        yield
    finally:
        set_tqdm_hook(hook)
        logger.setLevel(level)
