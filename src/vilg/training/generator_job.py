"""Training the generator: both directions of every pair, every step (paper eq. 3), and its questions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vilg.config import require
from vilg.data.batches import (
    NO_TEXT,
    choose_captions,
    choose_prompts,
    choose_questions,
    disturbed,
    num_targets,
    padded,
    targets,
)
from vilg.data.store import Store
from vilg.device import HOST, moved
from vilg.images import contact_sheet
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import (
    Generator,
    image_token_log_probs,
    pad_texts,
    text_target_log_probs,
    text_to_image_states,
)
from vilg.model.lora import adapter_of, lora_of
from vilg.parallel import WHOLE, Share, check_divides, own_shares, sum_over_processes
from vilg.randomness import integers
from vilg.sampling.images import draw_images
from vilg.sampling.texts import generate_texts
from vilg.text import LANGUAGES, TextTokenizer
from vilg.training.end_to_end import EndToEnd
from vilg.training.loop import LoopConfig, Turn
from vilg.training.parallelize import whole
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
        question_weight: what the loss of answers counts beside the two directions, of which each counts 1. Each
            pair of a batch with answered questions is asked one of them; 0 asks none.
    """

    caption_drop: float = 0.1
    prompt_share: float = 0.15
    tokens_summed: bool = False
    text_to_image_share: float = 1.0
    image_to_text_share: float = 1.0
    texts_per_picture: int = 1
    disturbed: float = 0.0
    question_weight: float = 1.0

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
        require(0 <= self.question_weight <= 100, "question_weight must be from 0 to 100")


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


def _head(batch: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Return the first pairs of a batch, which its random order makes as good as any; none or at least one."""
    return batch[: max(1, round(share * len(batch))) if share else 0]


def check_shares(loss: GeneratorLossConfig, loop: LoopConfig) -> None:
    """Refuse batches of which processes or micro-batches would get unequal shares.

    Raises:
        SettingError: as `check_divides`.
    """
    pairs = np.arange(loop.batch_size)
    for what, share in (
        ("pairs a step drawn", loss.text_to_image_share),
        ("pairs a step described", loss.image_to_text_share),
    ):
        check_divides(what, len(_head(pairs, share)), loop.accumulate)


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
        device: where the generator computes, which is not where its weights lie when they are offloaded.
    """

    def __init__(
        self,
        generator: Generator,
        loss: GeneratorLossConfig,
        loop: LoopConfig,
        store: Store,
        tokenizer: TextTokenizer,
        decode: Callable[[Tensor], list[Image.Image]],
        end_to_end: EndToEnd | None = None,
        encode_described: StepTokens | None = None,
        encode_prefix: StepTokens | None = None,
        device: torch.device = HOST,
    ):
        check_shares(loss, loop)
        self.generator, self.device = generator, device
        self.module: nn.Module = generator
        losses = (self.text_to_image_loss, self.image_to_text_loss, self.question_loss)
        if lora_of(generator) is not None:  # beside weights that stay
            self.module = adapter_of(generator)
        self.turns = [Turn("", self.module, losses)]
        self.end_to_end = end_to_end
        if end_to_end is not None:
            check_end_to_end(loss)
            end_to_end.to(device)
            assert encode_prefix is None, "a reconstructor's states are those of true tokens"
            learner = nn.ModuleDict(
                {"generator": self.generator, "reconstructor": end_to_end.reconstructor}
            )
            others = end_to_end.picture_loss.turns
            self.module = nn.ModuleDict({"learner": learner} | {t.name: t.module for t in others})
            apart = tuple(learner.children())
            self.turns = [Turn("", learner, losses, clipped_apart=apart), *others]
        self.config, self.loop = loss, loop
        self.store, self.tokenizer = store, tokenizer
        self._language_ids = np.array([tokenizer.language_id(lang) for lang in LANGUAGES])
        self.decode = decode
        self.encode_described, self.encode_prefix = encode_described, encode_prefix
        # Squared norms of what the losses of tokens and pixels send back into the generator's last states.
        self._state_squares: dict[str, Tensor] = {}

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _encoded(self, encode: StepTokens | None, step: int, rows: NDArray[np.int64]) -> Tensor:
        return encode(step, rows) if encode else self._on_device(self.store.image_ids(rows))

    def _inputs(self, step: int, rows: NDArray[np.int64]) -> Tensor:
        """Return the image tokens that the pairs of a batch are drawn after, inputs_BN."""
        if not self.config.disturbed:
            return self._encoded(self.encode_prefix, step, rows)
        encode = self.encode_prefix
        own_BN = encode(step, rows).cpu().numpy() if encode else self.store.image_ids(rows)
        seed, share = self.loop.seed, self.config.disturbed
        return self._on_device(disturbed(self.store, rows, own_BN, seed, step, share))

    def _batch(self, step: int, share_of_pairs: float) -> NDArray[np.int64]:
        batch = self.store.batch(self.loop.seed, step, self.loop.batch_size)
        return _head(batch, share_of_pairs)

    def _drawn_states(self, step: int, ids: NDArray[np.int64]) -> Tensor:
        """Return the states at [start], z_1 .. z_N of pairs after their prompts."""
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
        text_BM, valid_BM = map(self._on_device, prompts)
        return text_to_image_states(self.generator, text_BM, valid_BM, self._inputs(step, ids))

    def text_to_image_loss(
        self, step: int, share: Share = WHOLE
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return L_txt2img of the step's batch, and + L_rec end to end; None if no pair is drawn.

        Args:
            share: of the batch, whose part of these sums is returned: each is divided by the batch's own count.
        """
        drawn = self._batch(step, self.config.text_to_image_share)
        if not len(drawn):
            return None
        if self.end_to_end is not None:
            self._weigh(step, drawn, share)
        ids = share.part(drawn)
        states_BTC = self._drawn_states(step, ids)
        image_BN = image_token_log_probs(
            self.generator,
            self._tapped(states_BTC, "t2i"),
            self._on_device(self.store.image_ids(ids)),
        )
        log_prob = image_BN.sum() / len(drawn)  # of a picture
        t2i = -log_prob / image_BN.shape[1]
        total = -log_prob if self.config.tokens_summed else t2i
        values = {"t2i": t2i.detach()}
        if self.end_to_end is not None:
            states_BNC = self._tapped(states_BTC, "rec")[:, 1:]
            rec, parts = self.end_to_end.loss(step, states_BNC, ids, share)
            total, values = total + rec, values | {"rec": rec.detach()} | parts
        return total, values

    def _weigh(self, step: int, drawn: NDArray[np.int64], share: Share) -> None:
        """Before the first of several micro-batches, see all of them once: `PictureLoss.weigh`."""
        own = own_shares(self.loop.accumulate)
        if self.end_to_end is None or share != own[0] or len(own) == 1:
            return

        def states(ids: NDArray[np.int64]) -> Tensor:
            with torch.no_grad():
                return self._drawn_states(step, ids)[:, 1:]

        parts = (share.part(drawn) for share in own)
        self.end_to_end.weigh(step, ((states(ids), ids) for ids in parts))

    def image_to_text_loss(
        self, step: int, share: Share = WHOLE
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return L_img2txt of the step's batch, or a share's part of it; None if no pair is described."""
        described = self._batch(step, self.config.image_to_text_share)
        if not len(described):
            return None
        num_texts = self.config.texts_per_picture
        # Texts differ in length, and the mean is over tokens: those of the whole batch are counted.
        all_R, all_langs_R = choose_captions(self.store, described, self.loop.seed, step, num_texts)
        num_tokens = max(1, num_targets(self.store, all_R))  # a batch may have no captions at all
        rows_R = share.part(np.arange(len(all_R)).reshape(-1, num_texts)).reshape(-1)
        texts_R, langs_R = all_R[rows_R], all_langs_R[rows_R]
        # On the host, where it is known what counts.
        inputs_RM, labels_RM, counts_RM = map(
            torch.from_numpy, targets(self.store, texts_R, self._language_ids[langs_R])
        )
        text_RM = text_target_log_probs(
            self.generator,
            self._encoded(self.encode_described, step, share.part(described)),
            inputs_RM,
            labels_RM,
            counts_RM,
        )
        i2t = -text_RM.sum() / num_tokens
        total = -text_RM.sum() / len(all_R) if self.config.tokens_summed else i2t
        return total, {"i2t": i2t.detach()}

    def question_loss(
        self, step: int, share: Share = WHOLE
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return the weighed loss of the step's answers, or a share's part; None where no pair has any."""
        if not self.config.question_weight:
            return None
        batch = self._batch(step, 1.0)
        questions_B, answers_B, langs_B = choose_questions(self.store, batch, self.loop.seed, step)
        is_asked_B = answers_B != NO_TEXT
        num_asked, num_tokens = int(is_asked_B.sum()), num_targets(self.store, answers_B)
        if not num_asked:
            return None
        # All processes must compute alike: where the pairs do not divide, the last ones have no target.
        missing = (0, -num_asked % share.of)
        ids, questions, langs = (
            share.part(np.pad(x[is_asked_B], missing, "edge"))
            for x in (batch, questions_B, langs_B)
        )
        answers = share.part(np.pad(answers_B[is_asked_B], missing, constant_values=NO_TEXT))
        inputs_BM, labels_BM, counts_BM = map(
            torch.from_numpy, targets(self.store, answers, self._language_ids[langs])
        )
        question_BQ, valid_BQ = map(torch.from_numpy, padded(self.store, questions))
        text_BM = text_target_log_probs(
            self.generator,
            self._encoded(self.encode_described, step, ids),
            inputs_BM,
            labels_BM,
            counts_BM,
            (question_BQ, valid_BQ),
        )
        vqa = -text_BM.sum() / num_tokens
        total = -text_BM.sum() / num_asked if self.config.tokens_summed else vqa
        return self.config.question_weight * total, {"vqa": vqa.detach()}

    def _tapped(self, states_BTC: Tensor, name: str) -> Tensor:
        """Return the same states, whose gradient's norm is noted under a name."""
        if self.end_to_end is None or not states_BTC.requires_grad:
            return states_BTC
        key = f"{name}_state_grad"
        self._state_squares.setdefault(key, torch.zeros((), device=states_BTC.device))

        def note(gradient: Tensor) -> None:
            self._state_squares[key] = self._state_squares[key] + gradient.float().square().sum()

        branch_BTC = states_BTC.view_as(states_BTC)
        branch_BTC.register_hook(note)
        return branch_BTC

    def after_step(self, step: int) -> dict[str, Tensor]:
        """Return the norms at the generator's last layer; everything here learns by gradients."""
        squares, self._state_squares = self._state_squares, {}
        return {name: sum_over_processes(value).sqrt() for name, value in squares.items()}

    def alarm(self, values: dict[str, float]) -> str | None:
        """Return a line for people when a discriminator has won."""
        return discriminator_alarm(values)

    def show(self, step: int, folder: Path) -> None:
        """Write training pictures over what their captions draw now, and the captions they get.

        End to end there is a third row: what the reconstructor makes of the second.
        """
        generator = whole(self.generator)
        if generator is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        chosen = integers(self.loop.seed, "shown", len(self.store), np.arange(8))
        device = generator.device
        image_ids_BN = torch.from_numpy(self.store.image_ids(chosen)).to(device)
        texts_B, langs_B = choose_captions(self.store, chosen, self.loop.seed, 0, 1)
        ids_BM, valid_BM = padded(self.store, texts_B)
        prompts = [ids[valid].tolist() for ids, valid in zip(ids_BM, valid_BM, strict=True)]
        drawn = draw_images(generator, prompts, range(len(chosen)), SamplingConfig())
        rows = [self.decode(image_ids_BN), self.decode(drawn.image_ids_BN)]
        if self.end_to_end is not None:
            text_BM, mask_BM = (moved(x, device) for x in pad_texts(prompts))
            states_BTC = text_to_image_states(generator, text_BM, mask_BM, drawn.image_ids_BN)
            rows.append(self.end_to_end.pictures(states_BTC[:, 1:]))
        contact_sheet(rows, scale=2).save(folder / f"step-{step:08d}.png")
        language_ids = self._language_ids[langs_B].tolist()
        written = generate_texts(generator, image_ids_BN, language_ids, range(len(chosen)))
        lines = [
            f"{self.tokenizer.decode(prompt)}\t{self.tokenizer.decode(text)}\n"
            for prompt, text in zip(prompts, written, strict=True)
        ]
        (folder / f"step-{step:08d}.tsv").write_text("".join(lines), encoding="utf-8")
