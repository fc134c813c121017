"""Training the generator: both directions of every pair, every step (paper eq. 3)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vilg.config import require
from vilg.data.batches import choose_captions, choose_prompts, disturbed, padded, targets
from vilg.data.order import batch_ids
from vilg.data.store import Store
from vilg.images import contact_sheet
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_token_log_probs,
    pad_texts,
    text_target_log_probs,
    text_to_image_states,
)
from vilg.parallel import mean_over_processes, num_processes, own_share
from vilg.randomness import integers
from vilg.sampling.images import draw_images
from vilg.sampling.texts import generate_texts
from vilg.text import LANGUAGES, TextTokenizer
from vilg.training.end_to_end import EndToEnd
from vilg.training.loop import LoopConfig, Turn
from vilg.training.picture_loss import discriminator_alarm


@dataclass(frozen=True, kw_only=True)
class GeneratorLossConfig:
    """What a pair is shown as.

    Attributes:
        caption_drop: share of text-to-image pairs shown with the null prompt, so that guidance works.
        prompt_share: share of text-to-image pairs drawn from one of their further prompts, where there are any.
        tokens_summed: sum each direction over its tokens as eq. 4-5 do, instead of the mean; an image
            then weighs n/m times more than its caption.
        text_to_image_share: share of each batch that is trained text to image; 0 leaves it out.
        image_to_text_share: the same, image to text; under 1 where the text direction is ahead (a
            small vocabulary of names is learnt long before pictures are).
        texts_per_picture: 1 describes a picture in one language a step, chosen at random; 2 in both, after
            one reading of the picture, which is most of the cost (docs/lab/decisions/0013).
        disturbed: share of text-to-image pairs whose input tokens are partly those of another picture,
            a share drawn evenly from 0 to 1; the targets stay. A small set is soon known by heart from
            a picture's first tokens, and words are idle after them; a prefix that may lie keeps them
            needed, and makes sampling forgive its own slips.
    """

    caption_drop: float = 0.1
    prompt_share: float = 0.15
    tokens_summed: bool = False
    text_to_image_share: float = 1.0
    image_to_text_share: float = 1.0
    texts_per_picture: int = 1
    disturbed: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.text_to_image_share, self.image_to_text_share)
        require(
            all(0 <= share <= 1 for share in shares) and any(shares),
            "text_to_image_share and image_to_text_share must be from 0 to 1, and not both 0",
        )
        require(
            1 <= self.texts_per_picture <= len(LANGUAGES),
            f"texts_per_picture must be from 1 to {len(LANGUAGES)}, the number of languages",
        )
        for name in ("caption_drop", "prompt_share", "disturbed"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be from 0 to 1")


def check_end_to_end(loss: GeneratorLossConfig) -> None:
    """Refuse what a reconstructor cannot learn from.

    Raises:
        SettingError: disturbed tokens, which would teach it to make the wrong pictures; no text to
            image at all, which has the states that it reads; sums over tokens beside means of pixels.
    """
    require(
        loss.disturbed == 0,
        "end-to-end training shows true tokens only: set generator.loss.disturbed=0",
    )
    require(
        loss.text_to_image_share > 0,
        "end-to-end training reads text-to-image states: set generator.loss.text_to_image_share=1",
    )
    require(
        not loss.tokens_summed,
        "end to end, tokens and pixels weigh alike by means: set generator.loss.tokens_summed=false",
    )


def _share(batch: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Return this process's part of a share of the batch; 0 is nothing, else at least one pair.

    The order is random, so the first pairs of a batch are as good as any.
    """
    return own_share(batch[: max(1, round(share * len(batch))) if share else 0])


# (step, ids of pairs) to image_ids_BN.
StepTokens = Callable[[int, NDArray[np.int64]], Tensor]


class GeneratorJob:
    """The generator and the pairs it learns from.

    Args:
        store: the pairs in tokens, by the tokenizers whose codes and words the config counts.
        decode: image_ids_BN to pictures, for the samples that people look at.
        end_to_end: the reconstructor to train with it; None trains the generator alone.
        encode_described: image_ids_BN of the pictures of these pairs as they are moved about at a step, to
            be described; None shows them as they are. What is drawn always stays where it is.
        encode_prefix: the same, to be read while the picture is drawn as it is; not end to end.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        loss: GeneratorLossConfig,
        loop: LoopConfig,
        store: Store,
        tokenizer: TextTokenizer,
        decode: Callable[[Tensor], list[Image.Image]],
        end_to_end: EndToEnd | None = None,
        encode_described: StepTokens | None = None,
        encode_prefix: StepTokens | None = None,
    ):
        with torch.random.fork_rng():  # the caller's random numbers stay as they were
            torch.manual_seed(loop.seed)
            self.generator = Generator(config)
        self.module: nn.Module = self.generator
        self.turns = [Turn("", self.generator, self.loss)]
        self.end_to_end = end_to_end
        if end_to_end is not None:
            check_end_to_end(loss)
            assert encode_prefix is None, "a reconstructor's states are those of true tokens"
            learner = nn.ModuleDict(
                {"generator": self.generator, "reconstructor": end_to_end.reconstructor}
            )
            others = end_to_end.picture_loss.turns
            self.module = nn.ModuleDict({"learner": learner} | {t.name: t.module for t in others})
            apart = tuple(learner.children())
            self.turns = [Turn("", learner, self.loss, clipped_apart=apart), *others]
        self.config, self.loop = loss, loop
        self.store, self.tokenizer = store, tokenizer
        self._language_ids = np.array([tokenizer.language_id(lang) for lang in LANGUAGES])
        self.decode = decode
        self.encode_described, self.encode_prefix = encode_described, encode_prefix
        # Norms of what the losses of tokens and pixels send back into the generator's last states.
        self._state_grads: dict[str, float] = {}

    def _encoded(self, encode: StepTokens | None, step: int, rows: NDArray[np.int64]) -> Tensor:
        return encode(step, rows) if encode else torch.from_numpy(self.store.image_ids(rows))

    def _inputs(self, step: int, rows: NDArray[np.int64]) -> Tensor:
        """Return the image tokens that the pairs of a batch are drawn after, inputs_BN."""
        own_BN = self._encoded(self.encode_prefix, step, rows)
        if not self.config.disturbed:
            return own_BN
        seed, share = self.loop.seed, self.config.disturbed
        return torch.from_numpy(disturbed(self.store, rows, own_BN.numpy(), seed, step, share))

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_txt2img + L_img2txt of the step's batch, and + L_rec end to end."""
        batch = batch_ids(self.loop.seed, step, self.loop.batch_size, len(self.store))
        drawn = _share(batch, self.config.text_to_image_share)
        described = _share(batch, self.config.image_to_text_share)
        total = torch.zeros(())
        values: dict[str, Tensor] = {}
        if len(drawn):
            loss, parts = self._text_to_image_loss(step, drawn)
            total, values = total + loss, values | parts
        if len(described):
            loss, parts = self._image_to_text_loss(step, described)
            total, values = total + loss, values | parts
        return total, values

    def _text_to_image_loss(
        self, step: int, ids: NDArray[np.int64]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        prompts = padded(
            self.store,
            choose_prompts(
                self.store,
                ids,
                self.loop.seed,
                step,
                caption_drop=self.config.caption_drop,
                prompt_share=self.config.prompt_share,
            ),
        )
        text_BM, valid_BM = map(torch.from_numpy, prompts)
        states_BTC = text_to_image_states(
            self.generator, text_BM, valid_BM, self._inputs(step, ids)
        )
        image_BN = image_token_log_probs(
            self.generator,
            self._tapped(states_BTC, "t2i"),
            torch.from_numpy(self.store.image_ids(ids)),
        )
        t2i = -image_BN.mean()
        total = -image_BN.sum() / len(ids) if self.config.tokens_summed else t2i
        values = {"t2i": t2i.detach()}
        if self.end_to_end is not None:
            states_BNC = self._tapped(states_BTC, "rec")[:, 1:]
            rec, parts = self.end_to_end.loss(step, states_BNC, ids)
            total, values = total + rec, values | {"rec": rec.detach()} | parts
        return total, values

    def _image_to_text_loss(
        self, step: int, ids: NDArray[np.int64]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        texts_R, langs_R = choose_captions(
            self.store, ids, self.loop.seed, step, self.config.texts_per_picture
        )
        inputs_RM, labels_RM, counts_RM = map(
            torch.from_numpy, targets(self.store, texts_R, self._language_ids[langs_R])
        )
        text_RM = text_target_log_probs(
            self.generator,
            self._encoded(self.encode_described, step, ids),
            inputs_RM,
            labels_RM,
            counts_RM,
        )
        # Texts differ in length: over all processes too, the mean is over tokens.
        (num_tokens,) = mean_over_processes([counts_RM.sum()])
        i2t = -text_RM.sum() / num_tokens.clamp(min=1)  # a batch may have no captions at all
        total = -text_RM.sum() / len(texts_R) if self.config.tokens_summed else i2t
        return total, {"i2t": i2t.detach()}

    def _tapped(self, states_BTC: Tensor, name: str) -> Tensor:
        """Return the same states, whose gradient's norm is noted under a name."""
        if self.end_to_end is None or not states_BTC.requires_grad:
            return states_BTC
        self._state_grads[f"{name}_state_grad"] = 0.0  # stays, where no gradient comes back

        def note(gradient: Tensor) -> None:
            self._state_grads[f"{name}_state_grad"] = float(gradient.norm())

        branch_BTC = states_BTC.view_as(states_BTC)
        branch_BTC.register_hook(note)
        return branch_BTC

    def after_step(self, step: int) -> dict[str, float]:
        """Return the norms at the generator's last layer; everything here learns by gradients."""
        # Each process's loss is a mean over its own share; the norm is that of the whole batch's.
        squares = torch.tensor([norm**2 for norm in self._state_grads.values()])
        (mean,) = mean_over_processes([squares])
        norms = (mean / num_processes()).sqrt().tolist()
        return dict(zip(self._state_grads, norms, strict=True))

    def alarm(self, values: dict[str, float]) -> str | None:
        """Return a line for people when a discriminator has won."""
        return discriminator_alarm(values)

    def show(self, step: int, folder: Path) -> None:
        """Write training pictures over what their captions draw now, and the captions they get.

        End to end there is a third row: what the reconstructor makes of the second.
        """
        folder.mkdir(parents=True, exist_ok=True)
        chosen = integers(self.loop.seed, "shown", len(self.store), np.arange(8))
        image_ids_BN = torch.from_numpy(self.store.image_ids(chosen))
        texts_B, langs_B = choose_captions(self.store, chosen, self.loop.seed, 0, 1)
        ids_BM, valid_BM = padded(self.store, texts_B)
        prompts = [ids[valid].tolist() for ids, valid in zip(ids_BM, valid_BM, strict=True)]
        drawn = draw_images(self.generator, prompts, range(len(chosen)), SamplingConfig())
        rows = [self.decode(image_ids_BN), self.decode(drawn.image_ids_BN)]
        if self.end_to_end is not None:
            states_BTC = text_to_image_states(
                self.generator, *pad_texts(prompts), drawn.image_ids_BN
            )
            rows.append(self.end_to_end.pictures(states_BTC[:, 1:]))
        contact_sheet(rows, scale=2).save(folder / f"step-{step:08d}.png")
        language_ids = self._language_ids[langs_B].tolist()
        written = generate_texts(self.generator, image_ids_BN, language_ids, range(len(chosen)))
        lines = [
            f"{self.tokenizer.decode(prompt)}\t{self.tokenizer.decode(text)}\n"
            for prompt, text in zip(prompts, written, strict=True)
        ]
        (folder / f"step-{step:08d}.tsv").write_text("".join(lines), encoding="utf-8")
