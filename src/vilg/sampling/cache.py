"""What decoding keeps of earlier positions: the keys and values of one layer.

A sequence is a prefix that is given and a target that is written. Candidates of one prompt (or captions
of one picture) are a group: they share the prefix, whose keys are computed and stored once and never
copied. Every candidate has its own target keys, in as many slots as the layer's pattern reaches back to
(`patterns.decode_window`). Nothing is joined, moved or copied as the target grows.

Shape letters: G groups, B sequences (the candidates of the first group, then of the next), H heads, T
query positions, P prefix positions, S target slots, D head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.model.attend import Read
from vilg.model.patterns import DecodeWindow, Reach


@dataclass(frozen=True)
class Prefix:
    """Keys and values that a group shares.

    Attributes:
        bias_G11P: minus infinity on padding; None where there is none.
    """

    k_GHPD: Tensor
    v_GHPD: Tensor
    bias_G11P: Tensor | None


def read_both(
    prefix: Prefix,
    q_BTHD: Tensor,
    k_BSHD: Tensor,
    v_BSHD: Tensor,
    *,
    bias_TS: Tensor | None = None,
) -> Tensor:
    """Return what queries read of their group's prefix and of their own keys, in one softmax.

    The candidates of a group stand side by side as queries of the prefix, which is one matrix product.

    Args:
        bias_TS: minus infinity where a query does not read one of its own keys.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BSHD, v_BSHD))  # BHTD, BHSD
    B, _, _, D = q.shape
    G, _, P, _ = prefix.k_GHPD.shape
    q = q * D**-0.5
    shared_GHQP = _by_group(q, G) @ prefix.k_GHPD.transpose(2, 3)
    if prefix.bias_G11P is not None:
        shared_GHQP = shared_GHQP + prefix.bias_G11P
    own_BHTS = q @ k.transpose(2, 3)
    if bias_TS is not None:
        own_BHTS = own_BHTS + bias_TS
    scores = torch.cat([_by_sequence(shared_GHQP, B), own_BHTS], dim=3)
    # Single precision whatever the weights have, as in fused attention.
    weights = F.softmax(scores, dim=3, dtype=torch.float32).to(v.dtype)
    shared_BHTP, own_BHTS = weights[..., :P], weights[..., P:]
    from_prefix_BHTD = _by_sequence(_by_group(shared_BHTP, G) @ prefix.v_GHPD, B)
    return (from_prefix_BHTD + own_BHTS @ v).transpose(1, 2)


def _by_group(x_BHTX: Tensor, G: int) -> Tensor:
    """Lay out the positions of a group's sequences side by side: x_GH(CT)X."""
    B, H, _, X = x_BHTX.shape
    return x_BHTX.unflatten(0, (G, B // G)).transpose(1, 2).reshape(G, H, -1, X)


def _by_sequence(x_GHQX: Tensor, B: int) -> Tensor:
    """Undo `_by_group`."""
    G, H, _, X = x_GHQX.shape
    return x_GHQX.view(G, H, B // G, -1, X).transpose(1, 2).reshape(B, H, -1, X)


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, allocated once and written in place."""

    prefix: Prefix
    k_BHSD: Tensor
    v_BHSD: Tensor

    def taken(self, rows_B: Tensor) -> "LayerCache":
        """Return the cache of other sequences of the same groups; target keys are copied."""
        return LayerCache(self.prefix, self.k_BHSD[rows_B], self.v_BHSD[rows_B])

    def read_step(self, reach: Reach) -> Read:
        """Return attention of one position of the target, which keeps its key and reads its window."""

        def read(q_B1HD: Tensor, k_B1HD: Tensor, v_B1HD: Tensor) -> Tensor:
            k_BRHD = _keep_and_see(self.k_BHSD, k_B1HD, reach)
            v_BRHD = _keep_and_see(self.v_BHSD, v_B1HD, reach)
            return read_both(self.prefix, q_B1HD, k_BRHD, v_BRHD, bias_TS=reach.bias_1R)

        return read


def _keep_and_see(held_BHSD: Tensor, x_B1HD: Tensor, reach: Reach) -> Tensor:
    """Keep a position's key or value; return those that it sees, x_BRHD."""
    if isinstance(reach.slot, int):
        held_BHSD[:, :, reach.slot] = x_B1HD[:, 0]
    else:
        held_BHSD.index_copy_(2, reach.slot, x_B1HD.transpose(1, 2))
    return held_BHSD[:, :, reach.seen].transpose(1, 2)


def keeping(
    read: Read,
    window: DecodeWindow,
    bias_G11P: Tensor | None,
    num_prefix: int,
    num_given: int,
    candidates: int,
    caches: list[LayerCache],
) -> Read:
    """Return attention over the given positions that leaves a cache of them behind.

    Args:
        read: what the layer's queries read.
        window: where the model is.
        num_given: positions that are given; those behind the prefix are the target's first.
        candidates: sequences a group.
        caches: where the cache goes, behind those of the layers below.
    """
    # Of what the pattern forgets, nothing is kept.
    places = slice(max(0, num_given - num_prefix - window.num_slots), num_given - num_prefix)
    slots = window.slot_N[places]

    def keep(x_GTHD: Tensor) -> tuple[Tensor, Tensor]:
        x_GHTD = x_GTHD.transpose(1, 2)
        G, H, _, D = x_GHTD.shape
        # Zeros: what is hidden must be a number all the same.
        own_BHSD = x_GHTD.new_zeros(G * candidates, H, window.num_slots, D)
        given_GHXD = x_GHTD[:, :, num_prefix + places.start : num_given]
        own_BHSD.index_copy_(2, slots, given_GHXD.repeat_interleave(candidates, dim=0))
        return x_GHTD[:, :, :num_prefix].contiguous(), own_BHSD

    def read_and_keep(q_GTHD: Tensor, k_GTHD: Tensor, v_GTHD: Tensor) -> Tensor:
        (k_GHPD, k_BHSD), (v_GHPD, v_BHSD) = keep(k_GTHD), keep(v_GTHD)
        caches.append(LayerCache(Prefix(k_GHPD, v_GHPD, bias_G11P), k_BHSD, v_BHSD))
        return read(q_GTHD, k_GTHD, v_GTHD)

    return read_and_keep
