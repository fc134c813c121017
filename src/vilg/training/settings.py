"""The settings of a run: what its stages are trained on, and how."""

from dataclasses import dataclass
from pathlib import Path

from vilg.config import later_key, require
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.generator import GeneratorConfig
from vilg.model.lora import LoRAConfig
from vilg.model.patterns import Pattern
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.image_tokenizer import TokenizerConfig
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AS_THEY_ARE, AugmentConfig
from vilg.training.end_to_end import EndToEndConfig
from vilg.training.generator_job import GeneratorLossConfig, check_end_to_end
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig
from vilg.training.optim import OptimConfig
from vilg.training.parallelize import ParallelConfig
from vilg.training.picture_loss import PictureLossConfig, check_begins

DISCRIMINATOR_OPTIM = OptimConfig(peak_lr=2e-4, betas=(0.5, 0.9))  # VQGAN's betas


@dataclass(frozen=True, kw_only=True)
class TokenizerRun:
    """Training of an image tokenizer.

    Attributes:
        init: folder or hub id of the model whose image tokenizer to start from; None starts anew.
        decoder_only: the decoder of `init` learns on alone, so that tokens stay what they are.
        refine_steps: over 0, the decoder alone also sees tokens that are refined in so many steps
            (`tokenizer/refine.py`), half of the times that such a picture comes. They are made first, in
            about the time that training on each of these pictures as often would take.
        refine_pictures: how many pictures, drawn by the loop's seed, get them; None is all.
        discriminator_optim: for the adversarial term.
    """

    data: DataConfig
    model: TokenizerConfig
    init: str | None = None
    decoder_only: bool = False
    refine_steps: int = 0
    refine_pictures: int | None = None
    loss: PictureLossConfig = PictureLossConfig()
    codebook: CodebookConfig = CodebookConfig()
    augmentation: AugmentConfig = AugmentConfig()
    loop: LoopConfig
    optim: OptimConfig
    discriminator_optim: OptimConfig = DISCRIMINATOR_OPTIM

    def __post_init__(self) -> None:
        require(
            self.init is not None or not self.decoder_only,
            "a decoder alone needs the tokenizer that it belongs to: set tokenizer.init",
        )
        require(self.refine_steps >= 0, "refine_steps must be 0 or more")
        require(
            self.refine_steps == 0
            or (
                isinstance(self.model, VQGANConfig)
                and self.model.quantizer is QuantizerKind.NEAREST
            ),
            "only tokens that are nearest codes can be refined: set tokenizer.refine_steps=0",
        )
        require(
            self.decoder_only or self.refine_steps == 0,
            "while the encoder learns no tokens can be refined beforehand: set tokenizer.decoder_only=true",
        )
        require(
            self.refine_pictures is None or self.refine_pictures >= 1,
            "refine_pictures must be at least 1, or null",
        )
        require(
            self.refine_pictures is None or self.refine_steps > 0,
            "refine_pictures says how many get refined tokens: set tokenizer.refine_steps too",
        )
        require(
            self.augmentation.noise == 0,
            "a decoder would learn to paint the noise: set tokenizer.augmentation.noise=0",
        )
        check_begins(self.loss, self.loop.num_steps)


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Pairs that an earlier model was trained on, shown again so that it forgets less.

    Attributes:
        data: which pairs.
        share: of each batch.
    """

    data: DataConfig
    share: float = 0.25

    def __post_init__(self) -> None:
        require(
            0 < self.share < 1, "the share of replayed pairs must be more than 0 and less than 1"
        )


@dataclass(frozen=True, kw_only=True)
class GeneratorRun:
    """Training of a generator; grid and vocabularies follow from its tokenizers.

    Attributes:
        image_tokenizer: folder or hub id of the model that lends its tokenizer; None takes the one
            this run trained, or else the shipped one.
        vocabulary: a tokenizer.json.
        vocabulary_or_built: build one from the captions instead where that one would spell over 2% of their
            characters in bytes.
        width: of the states; a multiple of `num_heads`.
        num_heads: of the attention, in every layer.
        patterns: which image tokens each layer's attention sees, from the first layer to the last.
        max_text: longest text in tokens, the language or end token included; a longer one is refused.
        qk_norm: bring queries and keys to one length, so that attention scores cannot run away.
        init: folder or hub id of the model to start from; None starts anew.
        lora: train an adapter of this size beside the weights of `init`, which stay; null trains all weights.
        replay: pairs that take a share of each batch besides; null takes none.
        augmentation: of the pictures that captions are learnt from; drawn ones stay where they are. A
            mirrored arrow has the wrong name: set `flip` only where none of the captions tells sides.
        prefix_augmentation: of the pictures whose tokens are read while a picture is drawn; the tokens to draw
            are those of the picture as it is. On a small set a picture is soon known by heart from the exact
            numbers of its first tokens, which a drawing seldom hits (docs/lab/decisions/0012). All pictures of
            a batch are moved and encoded, at every step.
        share_codes: let image codes of like vectors be learnt together (`training.shared_codes`); for sets so
            small that a code is seen too seldom to be learnt alone.
        end_to_end: train an image reconstructor with the generator; None trains the generator alone.
        parallel: how the training lies on devices.
        discriminator_optim: for the adversarial term of `end_to_end`.
    """

    data: DataConfig
    vocabulary: Path
    width: int
    num_heads: int
    patterns: tuple[Pattern, ...]
    vocabulary_or_built: bool = False
    max_text: int = 64
    qk_norm: bool = False
    image_tokenizer: str | None = None
    init: str | None = None
    lora: LoRAConfig | None = later_key(None)
    replay: ReplayConfig | None = later_key(None)
    sampling: SamplingConfig = SamplingConfig()
    loss: GeneratorLossConfig = GeneratorLossConfig()
    augmentation: AugmentConfig = AS_THEY_ARE
    prefix_augmentation: AugmentConfig = AS_THEY_ARE
    share_codes: bool = False
    end_to_end: EndToEndConfig | None = None
    parallel: ParallelConfig = ParallelConfig()
    loop: LoopConfig
    optim: OptimConfig
    discriminator_optim: OptimConfig = DISCRIMINATOR_OPTIM

    def __post_init__(self) -> None:
        # The shape itself is only known with the tokenizers; this much is, before any work.
        require(
            self.num_heads >= 1 and self.width % self.num_heads == 0,
            f"num_heads {self.num_heads} must divide the width {self.width}",
        )
        moves = (self.augmentation, self.prefix_augmentation)
        require(
            self.replay is None
            or (self.end_to_end is None and all(move == AS_THEY_ARE for move in moves)),
            "replayed pairs are tokens alone: set generator.end_to_end=null and leave augmentations out",
        )
        require(
            self.replay is None or self.loop.batch_size > 1,
            "a batch with replayed pairs has at least 2: set generator.loop.batch_size=2",
        )
        if self.lora is not None:
            require(
                self.init is not None,
                "an adapter needs the model that it belongs to: set generator.init",
            )
            require(
                self.end_to_end is None and not self.share_codes,
                "an adapter is of layers alone: set generator.end_to_end=null and generator.share_codes=false",
            )
        for name in ("augmentation", "prefix_augmentation"):
            require(
                getattr(self, name).recolour == 0,
                f"captions name colours: set generator.{name}.recolour=0",
            )
        require(
            not self.prefix_augmentation.flip,
            "a mirrored beginning does not go on as its picture does: set "
            "generator.prefix_augmentation.flip=false",
        )
        require(
            self.augmentation == AS_THEY_ARE or self.loss.image_to_text_share > 0,
            "generator.augmentation moves described pictures, and "
            "generator.loss.image_to_text_share=0 describes none",
        )
        require(
            self.prefix_augmentation == AS_THEY_ARE or self.loss.text_to_image_share > 0,
            "generator.prefix_augmentation moves what is read while a picture is drawn, and "
            "generator.loss.text_to_image_share=0 draws none",
        )
        if self.end_to_end is not None:
            check_end_to_end(self.loss)
            require(
                self.prefix_augmentation == AS_THEY_ARE,
                "end-to-end training shows true tokens only: leave generator.prefix_augmentation out",
            )
            check_begins(self.end_to_end.loss, self.loop.num_steps)
        require(
            self.end_to_end is not None or self.sampling.decoder is Decoder.TWO_STAGE,
            "without generator.end_to_end there is no end-to-end decoder: set "
            "generator.sampling.decoder=two-stage",
        )

    def shape(self, image_tokenizer: TokenizerConfig, vocabulary_size: int) -> GeneratorConfig:
        """Return the generator's shape over these tokens."""
        return GeneratorConfig(
            width=self.width,
            num_heads=self.num_heads,
            patterns=self.patterns,
            grid_height=image_tokenizer.grid_size,
            grid_width=image_tokenizer.grid_size,
            num_codes=image_tokenizer.num_codes,
            vocabulary_size=vocabulary_size,
            max_text=self.max_text,
            qk_norm=self.qk_norm,
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named complete run: an image tokenizer, a generator, or one after the other.

    Attributes:
        tokenizer: training of an image tokenizer; None trains none.
        generator: training of a generator; None trains none.
    """

    tokenizer: TokenizerRun | None = None
    generator: GeneratorRun | None = None
