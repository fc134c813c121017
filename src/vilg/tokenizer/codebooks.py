"""How a codebook learns: by averages, by gradients, or relaxed. For training only.

A quantizer is pure; these modules hold what a codebook needs besides while it is trained, quantize a
batch, and after the optimizer's step let the codes follow. Their state belongs to the checkpoint, not
to the model. Counts, sums and restarts are over all processes and micro-batches, so that any split equals
one batch, and which codes restart is never asked by the host, so that a device is never waited for.

Shape letters: B batch, D code dimension, H W grid, K codes, P = B*H*W positions.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vilg.config import require
from vilg.parallel import WHOLE, Share, num_processes, sum_over_processes
from vilg.randomness import bits, uniforms
from vilg.tokenizer.quantizers import GumbelQuantizer, Quantizer, VectorQuantizer


class LearningRule(StrEnum):
    """How nearest codes move: after the vectors that chose them, or by the third term of eq. 1."""

    AVERAGE = "average"
    GRADIENT = "gradient"


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """How a codebook is trained.

    Attributes:
        rule: for nearest codes; Gumbel's codes are weights like any other.
        commitment: weight of the commitment term (VQ-VAE's beta; eq. 1 of the paper has none, that
            is 1.0; on the unit sphere distances are far larger than pixel errors).
        decay: share of the past that the averages keep at each step.
        restart_below: a nearest code whose average use falls under this share of an even use is
            dead, and restarts at a vector of the batch, drawn by its error.
        alarm_below: share of codes in use under which the run says so aloud.
        straight_through: Gumbel: decode the chosen code (taming-transformers), not a mean of codes
            (DALL-E).
        temperature_from, temperature_to, temperature_steps: Gumbel's temperature falls along a
            cosine (DALL-E: from 1 to 1/16 in 150,000 steps).
        kl, kl_steps: Gumbel: weight of the divergence from even use, rising along a cosine; the
            divergence is summed over positions and divided by the number of pixel values (DALL-E:
            6.6 after 5,000 steps).
    """

    rule: LearningRule = LearningRule.AVERAGE
    commitment: float = 0.1
    decay: float = 0.97
    restart_below: float = 0.1
    alarm_below: float = 0.5
    straight_through: bool = False
    temperature_from: float = 1.0
    temperature_to: float = 1 / 16
    temperature_steps: int = 150_000
    kl: float = 6.6
    kl_steps: int = 5_000

    def __post_init__(self) -> None:
        for name in ("commitment", "restart_below", "kl"):
            require(getattr(self, name) >= 0, f"{name} must be 0 or more")
        require(0 <= self.alarm_below <= 1, "alarm_below must be from 0 to 1")
        require(0 <= self.decay < 1, "decay must be from 0 to under 1")
        require(
            self.temperature_from > 0 and self.temperature_to > 0, "temperatures must be above 0"
        )
        require(
            self.temperature_steps >= 1 and self.kl_steps >= 1, "schedules take at least 1 step"
        )


def cosine_schedule(start: float, end: float, num_steps: int, step: int) -> float:
    """Go from `start` at step 0 to `end` at `num_steps` and stay, along half a cosine."""
    share = min(1.0, step / num_steps)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def batch_rows(z_BDHW: Tensor) -> Tensor:
    """Return z_PD, one row a position."""
    return z_BDHW.permute(0, 2, 3, 1).reshape(-1, z_BDHW.shape[1])


class CodeUse(nn.Module):
    """Moving averages of how often each code is chosen.

    Two of them: a restart gives a code an even share of `counts_K`, so that it has its chance before it
    may die again; `use_K` is what really happened, for people and for the alarm.

    Args:
        decay: share of the past kept at each step.
        restart_below: share of an even use under which a code counts as dead.
    """

    counts_K: Tensor
    use_K: Tensor

    def __init__(self, num_codes: int, decay: float, restart_below: float):
        super().__init__()
        self.decay, self.restart_below = decay, restart_below
        # As if every code had been used evenly so far: none is dead before it had its chance.
        self.register_buffer("counts_K", torch.full((num_codes,), 1.0 / num_codes))
        self.register_buffer("use_K", torch.full((num_codes,), 1.0 / num_codes))

    def count(self, ids_BHW: Tensor) -> Tensor:
        """Take in a batch; return the codes that are dead now, as a mask over K."""
        K, ids_P = len(self.counts_K), ids_BHW.flatten()
        chosen_K = torch.zeros_like(self.counts_K).index_add_(
            0, ids_P, self.counts_K.new_ones(1).expand(len(ids_P))
        )
        total = ids_BHW.numel() * num_processes()
        share_K = sum_over_processes(chosen_K) / total
        self.counts_K.lerp_(share_K, 1 - self.decay)
        self.use_K.lerp_(share_K, 1 - self.decay)
        return self.counts_K < self.restart_below / K

    def restart_vectors(
        self,
        z_BDHW: Tensor,
        error_BHW: Tensor,
        num: int,
        seed: int,
        step: int,
        places_B: NDArray[np.int64],
    ) -> Tensor:
        """Draw different vectors of the whole batch, wherever they lie, by their squared error.

        As in k-means++ (Arthur and Vassilvitskii 2007): a code is added where codes are missing. Drawn
        evenly, half of all restarts would go to plain background, which needs one.

        Args:
            places_B: of the pictures in the batch of all processes.

        Returns:
            vectors_RD, the first drawn first: fewer than `num` if the batch has fewer positions.
        """
        B, _, H, W = z_BDHW.shape
        device, num_positions = z_BDHW.device, B * num_processes() * H * W
        positions_P = (places_B[:, None] * H * W + np.arange(H * W)).flatten()
        clocks_P = -np.log1p(-uniforms(seed, "restart", step, positions_P))
        # A race of exponential clocks whose rates are the errors; the first ones win.
        rates_P = error_BHW.detach().flatten().float().clamp_min(1e-30)
        own_P = torch.from_numpy(positions_P).to(device)
        times = torch.zeros(num_positions, device=device)
        times[own_P] = torch.from_numpy(clocks_P).to(device, torch.float32) / rates_P
        winners_R = sum_over_processes(times).topk(min(num, num_positions), largest=False).indices
        rows = torch.full((num_positions,), -1, device=device)  # of this process's vectors
        rows[own_P] = torch.arange(len(own_P), device=device)
        rows_R1 = rows[winners_R][:, None]
        vectors_RD = batch_rows(z_BDHW)[rows_R1[:, 0].clamp_min(0)]
        return sum_over_processes(vectors_RD.where(rows_R1 >= 0, 0.0))

    def restarts(
        self,
        quantizer: VectorQuantizer,
        z_BDHW: Tensor,
        ids_BHW: Tensor,
        seed: int,
        step: int,
        places_B: NDArray[np.int64],
    ) -> tuple[Tensor, Tensor]:
        """Take in a batch; return which codes restart, as many dead ones as it can revive, and at what.

        Returns:
            revived_K1, and vectors_KD, which count where that is True.
        """
        K, dead_K = len(self.counts_K), self.count(ids_BHW)
        error_BHW = (z_BDHW - quantizer.lookup(ids_BHW)).square().sum(dim=1)
        vectors_RD = self.restart_vectors(z_BDHW, error_BHW, K, seed, step, places_B)
        order_K = dead_K.cumsum(0) - 1
        revived_K = dead_K & (order_K < len(vectors_RD))
        self.counts_K.masked_fill_(revived_K, 1.0 / K)
        return revived_K[:, None], vectors_RD[order_K.clamp(0, len(vectors_RD) - 1)]

    def values(self, num_restarts: Tensor) -> dict[str, Tensor]:
        """Return usage (share of codes used enough to live), perplexity of the use (codes), restarts."""
        K = len(self.use_K)
        entropy = -(self.use_K * self.use_K.clamp_min(1e-12).log()).sum()
        return {
            "usage": (self.use_K >= self.restart_below / K).float().mean(),
            "perplexity": entropy.exp(),
            "restarts": num_restarts.float(),
        }


class CodebookAverages(CodeUse):
    """Codes are moving averages of the vectors that chose them (VQ-VAE, appendix A.1)."""

    sums_KD: Tensor

    def __init__(self, quantizer: VectorQuantizer, decay: float, restart_below: float):
        K = len(quantizer.codebook_KD)
        super().__init__(K, decay, restart_below)
        self.register_buffer("sums_KD", quantizer.codebook_KD.clone() / K)

    @torch.no_grad()
    def update(
        self,
        quantizer: VectorQuantizer,
        z_BDHW: Tensor,
        ids_BHW: Tensor,
        seed: int,
        step: int,
        places_B: NDArray[np.int64],
    ) -> dict[str, Tensor]:
        """Move the codes towards the vectors that chose them and restart the dead ones."""
        K = len(self.sums_KD)
        z_BDHW = quantizer.normalise(z_BDHW.float(), dim=1)
        sums_KD = torch.zeros_like(self.sums_KD)
        sums_KD.index_add_(0, ids_BHW.flatten(), batch_rows(z_BDHW))
        total = ids_BHW.numel() * num_processes()
        self.sums_KD.lerp_(sum_over_processes(sums_KD) / total, 1 - self.decay)
        revived_K1, vectors_KD = self.restarts(quantizer, z_BDHW, ids_BHW, seed, step, places_B)
        self.sums_KD.copy_((vectors_KD / K).where(revived_K1, self.sums_KD))
        means_KD = self.sums_KD / self.counts_K[:, None].clamp_min(1e-12)
        quantizer.codebook_KD.copy_(quantizer.normalise(means_KD, dim=-1))
        return self.values(revived_K1.sum())


class CodebookGradients(CodeUse):
    """Codes are weights, pulled towards the vectors that chose them by the third term of eq. 1."""

    def __init__(self, quantizer: VectorQuantizer, decay: float, restart_below: float):
        super().__init__(len(quantizer.codebook_KD), decay, restart_below)
        self.weight_KD = nn.Parameter(quantizer.codebook_KD.clone())

    def loss(self, quantizer: VectorQuantizer, z_BDHW: Tensor, ids_BHW: Tensor) -> Tensor:
        """Return mean |sg[z] - code|^2."""
        z_PD = batch_rows(quantizer.normalise(z_BDHW.detach().float(), dim=1))
        codes_PD = F.embedding(ids_BHW.flatten(), quantizer.normalise(self.weight_KD, dim=-1))
        return (z_PD - codes_PD).square().sum(dim=-1).mean()

    @torch.no_grad()
    def update(
        self,
        quantizer: VectorQuantizer,
        z_BDHW: Tensor,
        ids_BHW: Tensor,
        seed: int,
        step: int,
        places_B: NDArray[np.int64],
    ) -> dict[str, Tensor]:
        """Hand the moved weights to the quantizer and restart the dead ones."""
        z_BDHW = quantizer.normalise(z_BDHW.float(), dim=1)
        revived_K1, vectors_KD = self.restarts(quantizer, z_BDHW, ids_BHW, seed, step, places_B)
        weight_KD = vectors_KD.where(revived_K1, self.weight_KD)
        self.weight_KD.copy_(quantizer.normalise(weight_KD, dim=-1))
        quantizer.codebook_KD.copy_(self.weight_KD)
        return self.values(revived_K1.sum())


def gumbel_noise(
    seed: int,
    step: int,
    sample_ids: NDArray[np.int64],
    shape_KHW: torch.Size,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - it never changes
) -> Tensor:
    """Return standard Gumbel noise_BKHW: a function of (seed, step, sample), whatever the batch is.

    Drawn on the device, each kind of which has numbers of its own.
    """
    drawn_on = torch.device("cpu") if device.type == "meta" else device
    generator, rows = torch.Generator(drawn_on), []
    for state in bits(seed, "gumbel", step, sample_ids):
        generator.manual_seed(int(state >> np.uint64(1)))
        uniform_KHW = torch.rand(shape_KHW, generator=generator, device=drawn_on).clamp_min(1e-20)
        rows.append(-(-uniform_KHW.log()).log())
    return torch.stack(rows).to(device)


def relax(
    quantizer: GumbelQuantizer,
    z_BDHW: Tensor,
    noise_BKHW: Tensor,
    temperature: float,
    straight_through: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample codes through a softmax (Gumbel-softmax, arXiv 1611.01144).

    Returns:
        codes_BDHW: weighted mean of codes; the chosen ones, with that gradient, if straight through.
        ids_BHW: the chosen codes, noise included.
        kl_B: divergence of each position's choice from even use, summed over positions, in nats.
    """
    logits_BKHW = quantizer.to_logits(z_BDHW).float()
    weights_BKHW = ((logits_BKHW + noise_BKHW) / temperature).softmax(dim=1)
    ids_BHW = weights_BKHW.argmax(dim=1)
    if straight_through:
        hard_BKHW = F.one_hot(ids_BHW, weights_BKHW.shape[1]).movedim(-1, 1).to(weights_BKHW.dtype)
        weights_BKHW = hard_BKHW + weights_BKHW - weights_BKHW.detach()
    codes_BDHW = torch.einsum("bkhw,kd->bdhw", weights_BKHW, quantizer.codebook_KD)
    log_q_BKHW = logits_BKHW.log_softmax(dim=1)
    K = logits_BKHW.shape[1]
    kl_B = (log_q_BKHW.exp() * (log_q_BKHW + math.log(K))).sum(dim=(1, 2, 3))
    return codes_BDHW, ids_BHW, kl_B


@dataclass(frozen=True)
class Quantized:
    """A batch after the bottleneck; `loss` is what the bottleneck adds, `values` is for the log."""

    codes_BDHW: Tensor
    ids_BHW: Tensor
    loss: Tensor
    values: dict[str, Tensor]


class CodebookTraining(nn.Module):
    """Quantizes batches while a codebook is trained, and lets it follow."""

    def __init__(self, quantizer: Quantizer, config: CodebookConfig, seed: int):
        super().__init__()
        self.config, self.seed = config, seed
        rules = (config.decay, config.restart_below)
        self.use: CodeUse
        if isinstance(quantizer, GumbelQuantizer):
            self.use = CodeUse(len(quantizer.codebook_KD), *rules)
        elif config.rule is LearningRule.AVERAGE:
            self.use = CodebookAverages(quantizer, *rules)
        else:
            self.use = CodebookGradients(quantizer, *rules)
        # What a step has seen, share by share: vectors and their codes.
        self._seen: dict[Share, tuple[Tensor, Tensor]] = {}

    def forward(
        self,
        quantizer: Quantizer,
        z_BDHW: Tensor,
        step: int,
        sample_ids: NDArray[np.int64],
        num_pixel_values: int,
        share: Share = WHOLE,
    ) -> Quantized:
        """Quantize the encoder's vectors of a batch, or of a share of it; losses are means over it.

        Args:
            sample_ids: of the batch's samples, for noise that belongs to the sample.
            num_pixel_values: of one picture, channels included.
        """
        if isinstance(quantizer, GumbelQuantizer):
            return self._relaxed(quantizer, z_BDHW, step, sample_ids, num_pixel_values, share)
        codes_BDHW, ids_BHW, commitment = quantizer(z_BDHW)
        loss = self.config.commitment * commitment
        if isinstance(self.use, CodebookGradients):
            loss = loss + self.use.loss(quantizer, z_BDHW, ids_BHW)
        self._seen[share] = (z_BDHW.detach(), ids_BHW)
        return Quantized(codes_BDHW, ids_BHW, loss, {"commitment": commitment.detach()})

    def _relaxed(
        self,
        quantizer: GumbelQuantizer,
        z_BDHW: Tensor,
        step: int,
        sample_ids: NDArray[np.int64],
        num_pixel_values: int,
        share: Share,
    ) -> Quantized:
        config = self.config
        temperature = cosine_schedule(
            config.temperature_from, config.temperature_to, config.temperature_steps, step
        )
        weight = cosine_schedule(0.0, config.kl, config.kl_steps, step)
        shape_KHW = torch.Size((len(quantizer.codebook_KD), *z_BDHW.shape[2:]))
        noise_BKHW = gumbel_noise(self.seed, step, sample_ids, shape_KHW, z_BDHW.device)
        codes_BDHW, ids_BHW, kl_B = relax(
            quantizer, z_BDHW, noise_BKHW, temperature, config.straight_through
        )
        kl = kl_B.mean() / num_pixel_values
        with torch.no_grad():  # a finished model's tokens have no noise, nor has their use
            self._seen[share] = (z_BDHW.detach(), quantizer.ids(z_BDHW))
        return Quantized(codes_BDHW, ids_BHW, weight * kl, {"kl": kl.detach()})

    @torch.no_grad()
    def follow(self, quantizer: Quantizer, step: int) -> dict[str, Tensor]:
        """After the optimizer's step: let nearest codes follow the batch that was just seen."""
        assert self._seen, "no batch has been quantized"
        z_BDHW, ids_BHW = (torch.cat(parts) for parts in zip(*self._seen.values(), strict=True))
        places_B = np.concatenate(
            [share.index + share.of * np.arange(len(ids)) for share, (_, ids) in self._seen.items()]
        )
        self._seen = {}
        if isinstance(self.use, CodebookAverages | CodebookGradients):
            assert isinstance(quantizer, VectorQuantizer)
            return self.use.update(quantizer, z_BDHW, ids_BHW, self.seed, step, places_B)
        self.use.count(ids_BHW)
        return self.use.values(num_restarts=torch.zeros((), device=ids_BHW.device))
