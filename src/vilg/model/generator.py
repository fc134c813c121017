"""The generator: text and image tokens through one transformer, in both directions (eq. 3-5).

Only targets are scored. In text-to-image the outputs at [start], z_1 .. z_{n-1} are scored against
z_1 .. z_n; z_n is an input too, because its state feeds the end-to-end reconstructor. In
image-to-text the target opens with a language token and ends with [EOS].

Shape letters: B batch, R texts, M text tokens, N image tokens, T positions, C width, K codes, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilg.config import check_counts, later_key, require
from vilg.device import moved
from vilg.model.attend import FEWEST_CELLS, Form, Read, attend, attend_dense
from vilg.model.patterns import Pattern
from vilg.model.segments import Grid, Layout, Modality, Role, Segment
from vilg.model.transformer import Transformer
from vilg.text import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Shape of a generator.

    Attributes:
        patterns: one a layer, first to last; its length is the number of layers.
        max_text: longest text in tokens, language or end token included.
        qk_norm: normalise queries and keys; for widths and rates at which scores run away.
    """

    width: int
    num_heads: int
    patterns: tuple[Pattern, ...]
    grid_height: int
    grid_width: int
    num_codes: int
    vocabulary_size: int
    max_text: int = 64
    qk_norm: bool = later_key(False)

    def __post_init__(self) -> None:
        require(bool(self.patterns), "patterns must name at least one layer")
        require(len(self.patterns) <= 1000, "patterns must be at most 1000 layers")
        check_counts(self, width=2**20, num_heads=2**20, grid_height=2**13, grid_width=2**13)
        check_counts(self, num_codes=2**16, vocabulary_size=2**24, max_text=2**16)
        require(
            self.width % self.num_heads == 0,
            f"num_heads {self.num_heads} must divide the width {self.width}",
        )
        require(self.max_text >= 2, "max_text must be at least 2: a language token and a word")

    @property
    def grid(self) -> Grid:
        return Grid(self.grid_height, self.grid_width)


class Generator(nn.Module):
    """One set of weights; the layout of segments decides what it does.

    Attributes:
        form: how whole layouts are read in training; None takes `attend`, or `attend_dense` on small grids, as
            sampling always does, which reads a layout once. A training that is compiled for CUDA sets `attend_flex`.
    """

    form: Form | None = None

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        C = config.width
        self.text_embedding = nn.Embedding(config.vocabulary_size, C)
        self.image_embedding = nn.Embedding(config.num_codes, C)
        self.text_position = nn.Embedding(config.max_text, C)
        self.row_position = nn.Embedding(config.grid_height, C)
        self.column_position = nn.Embedding(config.grid_width, C)
        self.role_embedding = nn.Embedding(len(Modality) * len(Role), C)
        self.transformer = Transformer(len(config.patterns), C, config.num_heads, config.qk_norm)
        self.image_head = nn.Linear(C, config.num_codes)
        self.text_head = nn.Linear(C, config.vocabulary_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every weight.

        | weight | value | why |
        | --- | --- | --- |
        | matrices, embeddings | N(0, 0.02) | GPT-2's; at width 4096 first logits then have a
        standard deviation of 1.3, which costs 0.8 nats over an even guess at the first step |
        | outputs into the residual stream | N(0, 0.02 / sqrt(2 L)) | keeps its variance at depth L |
        | biases | 0 | nothing is preferred before anything is learnt |
        | norms | gain 1, bias 0 | a norm that only normalises |
        """
        for name, part in self.named_modules():
            self._reset(name, part)

    def _reset(self, name: str, part: nn.Module) -> None:
        if isinstance(part, nn.Linear | nn.Embedding):
            is_residual = name.endswith((".out", ".mlp_out"))
            residual = 0.02 / (2 * len(self.config.patterns)) ** 0.5
            nn.init.normal_(part.weight, std=residual if is_residual else 0.02)
        if isinstance(part, nn.LayerNorm | nn.RMSNorm):
            nn.init.ones_(part.weight)
        if isinstance(part, nn.Linear | nn.LayerNorm):
            nn.init.zeros_(part.bias)

    @property
    def device(self) -> torch.device:
        return self.text_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text_embedding.weight.dtype

    def embed(self, layout: Layout, ids_BT: Tensor, start: int = 0) -> Tensor:
        """Return x_BTC for the ids at positions from `start` on, each of its own vocabulary."""
        parts = [
            self.embed_in(
                segment,
                ids_BT[:, here],
                torch.arange(inside.start, inside.stop, device=ids_BT.device),
            )
            for segment, here, inside in layout.spans(start, start + ids_BT.shape[1])
        ]
        return torch.cat(parts, dim=1)

    def embed_in(self, segment: Segment, ids_BT: Tensor, place_T: Tensor) -> Tensor:
        """Return x_BTC for the ids at these places of one segment."""
        if segment.modality is Modality.TEXT:
            x_BTC = self.text_embedding(ids_BT) + self.text_position(place_T)
        else:
            row_T, column_T = place_T // self.config.grid_width, place_T % self.config.grid_width
            x_BTC = self.image_embedding(ids_BT)
            x_BTC = x_BTC + self.row_position(row_T) + self.column_position(column_T)
        kind = 2 * (segment.modality is Modality.IMAGE) + (segment.role is Role.TARGET)
        return x_BTC + self.role_embedding.weight[kind]

    def layer_reads(self, layout: Layout, valid_BT: Tensor) -> list[Read]:
        """Return how each layer reads a whole layout, fast where that pays.

        Args:
            valid_BT: False at padding, which only texts have: pictures are whole.
        """
        patterns = self.config.patterns
        form: Form = attend if layout.grid.num_cells >= FEWEST_CELLS else attend_dense
        if self.form is not None and self.training:
            form = self.form
        by_pattern = {pattern: form(pattern, layout, valid_BT) for pattern in set(patterns)}
        return [by_pattern[pattern] for pattern in patterns]

    def forward(self, layout: Layout, ids_BT: Tensor, reads: Sequence[Read]) -> Tensor:
        """Return the last layer's states at the positions of a layout, from its first on.

        Args:
            reads: how each layer's queries read, by `layer_reads`.
        """
        return self.transformer(self.embed(layout, ids_BT), reads)

    def image_logits(self, states_BTC: Tensor) -> Tensor:
        return self.image_head(states_BTC)

    def text_logits(self, states_BTC: Tensor) -> Tensor:
        return self.text_head(states_BTC)


def first_weights(config: GeneratorConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of `Generator(config)` by name, drawn alike, with one layer's in memory at a time."""
    with torch.device("meta"):
        generator = Generator(config)
    # A layer draws its weights when it is built, and `reset_parameters` draws all of them anew.
    for part in generator.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            part.to_empty(device="cpu", recurse=False).reset_parameters()
            part.to_empty(device="meta", recurse=False)
    for name, part in generator.named_modules():
        part.to_empty(device="cpu", recurse=False)
        generator._reset(name, part)
        for key, weight in part.named_parameters(recurse=False):
            yield f"{name}.{key}", weight
        part.to_empty(device="meta", recurse=False)


def pad_texts(texts: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Pad token lists on the right; return ids_BM and valid_BM. An empty text is the null prompt."""
    M = max(len(text) for text in texts) if length is None else length
    ids_BM = torch.full((len(texts), M), TextTokenizer.pad_id)
    for row, text in zip(ids_BM, texts, strict=True):
        row[: len(text)] = torch.tensor(text, dtype=torch.long)
    lengths_B1 = torch.tensor([[len(text)] for text in texts])
    return ids_BM, torch.arange(M)[None, :] < lengths_B1


def text_to_image_layout(text_length: int, grid: Grid) -> Layout:
    """[text source] [start] [image target]"""
    return Layout(
        (
            Segment(Modality.TEXT, Role.SOURCE, text_length),
            Segment(Modality.TEXT, Role.TARGET, 1),
            Segment(Modality.IMAGE, Role.TARGET, grid.num_cells),
        ),
        grid,
    )


def image_to_text_layout(text_length: int, grid: Grid, num_texts: int = 1) -> Layout:
    """[image source] [text target], the target opening with its language token.

    Several texts of a picture stand one after the other, each in a branch of its own.
    """
    texts = (
        Segment(Modality.TEXT, Role.TARGET, text_length, branch) for branch in range(num_texts)
    )
    return Layout((Segment(Modality.IMAGE, Role.SOURCE, grid.num_cells), *texts), grid)


def text_to_image_states(
    generator: Generator, text_BM: Tensor, valid_BM: Tensor, inputs_BN: Tensor
) -> Tensor:
    """Return the last layer's states at [start], z_1 .. z_N, shape (B, N + 1, C).

    The first N say what comes next; the last N have seen their own tokens and feed the end-to-end
    reconstructor.

    Args:
        text_BM, valid_BM: prompts, as `pad_texts` has them.
    """
    B, N = inputs_BN.shape
    M = text_BM.shape[1]
    layout = text_to_image_layout(M, generator.config.grid)
    start_B1 = torch.full((B, 1), TextTokenizer.boi_id, device=inputs_BN.device)
    ids_BT = torch.cat([text_BM, start_B1, inputs_BN], dim=1)
    valid_BT = F.pad(valid_BM, (0, 1 + N), value=True)
    return generator(layout, ids_BT, generator.layer_reads(layout, valid_BT))[:, M:]


def image_token_log_probs(generator: Generator, states_BTC: Tensor, image_ids_BN: Tensor) -> Tensor:
    """Return log P(z_k | t, z_<k) of the states at [start], z_1 .. z_N (eq. 4)."""
    B, N = image_ids_BN.shape
    logits_BNK = generator.image_logits(states_BTC[:, :N])
    return -F.cross_entropy(
        logits_BNK.float().flatten(0, 1), image_ids_BN.flatten(), reduction="none"
    ).view(B, N)


def text_to_image_log_probs(
    generator: Generator, texts: Sequence[Sequence[int]], image_ids_BN: Tensor
) -> Tensor:
    """Return log P(z_k | t, z_<k) for every image token, shape (B, N) (eq. 4).

    Args:
        texts: prompts in tokens; an empty one is the null prompt.
    """
    text_BM, valid_BM = (moved(tensor, image_ids_BN.device) for tensor in pad_texts(texts))
    states_BTC = text_to_image_states(generator, text_BM, valid_BM, image_ids_BN)
    return image_token_log_probs(generator, states_BTC, image_ids_BN)


def image_to_text_log_probs(
    generator: Generator,
    image_ids_BN: Tensor,
    language_ids: Sequence[int],
    texts: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """Return log P(t_k | z, t_<k) with the closing [EOS], shape (R, M), and where it counts (eq. 5).

    Args:
        texts: R texts, equally many for each picture, as `text_target_log_probs` has them.
    """
    pairs = zip(language_ids, texts, strict=True)
    inputs_RM, valid_RM = pad_texts([[language, *text] for language, text in pairs])
    labels_RM, _ = pad_texts([[*text, TextTokenizer.eos_id] for text in texts])
    log_probs_RM = text_target_log_probs(generator, image_ids_BN, inputs_RM, labels_RM, valid_RM)
    return log_probs_RM, moved(valid_RM, image_ids_BN.device)


def text_target_log_probs(
    generator: Generator,
    image_ids_BN: Tensor,
    inputs_RM: Tensor,
    labels_RM: Tensor,
    valid_RM: Tensor,
) -> Tensor:
    """Return the log probability of each label, 0 where it does not count, shape (R, M).

    Args:
        image_ids_BN: where the model is; the others may be on the host.
        inputs_RM: R texts after their language tokens, equally many for each picture and picture by
            picture: with two of each, texts 0 and 1 are of picture 0, which is read once for both.
        labels_RM: what comes next, up to [EOS].
        valid_RM: False for padding; best on the host, or the device is waited for.
    """
    B, N = image_ids_BN.shape
    device = image_ids_BN.device
    # Padding is left out before the head: a vocabulary of thousands makes its rows dear.
    place_P = moved(valid_RM.flatten().nonzero().squeeze(1), device)
    inputs_RM, labels_RM, valid_RM = (moved(x, device) for x in (inputs_RM, labels_RM, valid_RM))
    R, M = inputs_RM.shape
    num_texts, rest = divmod(R, B)
    assert num_texts >= 1 and rest == 0, "every picture has equally many texts"
    layout = image_to_text_layout(M, generator.config.grid, num_texts)
    ids_BT = torch.cat([image_ids_BN, inputs_RM.view(B, -1)], dim=1)
    valid_BT = F.pad(valid_RM.view(B, -1), (N, 0), value=True)
    states_BTC = generator(layout, ids_BT, generator.layer_reads(layout, valid_BT))
    # Texts of a picture stand one after the other: rows of (R M), picture by picture.
    states_PC = states_BTC[:, N:].flatten(0, 1)[place_P]
    log_probs_P = -F.cross_entropy(
        generator.text_logits(states_PC).float(), labels_RM.flatten()[place_P], reduction="none"
    )
    return log_probs_P.new_zeros(R * M).index_put((place_P,), log_probs_P).view(R, M)
