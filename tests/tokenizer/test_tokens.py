"""Tokens of many pictures: those of each, in their order, and refined as asked for."""

import numpy as np
import torch

from tests.tokenizer.test_refine import tokenizer_of
from vilg.images import to_pixels
from vilg.tokenizer.tokens import refined_tokens

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def test_no_step_leaves_every_pictures_own_tokens() -> None:
    tokenizer = tokenizer_of(num_codes=200)
    found = refined_tokens(tokenizer, PICTURES, 0, bf16=False)
    assert found.dtype == np.uint16
    for row, picture in zip(found, PICTURES, strict=True):
        own_1HW = tokenizer.encode(to_pixels(picture[None].copy()))
        assert row.tolist() == own_1HW.flatten().tolist()
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_bf16_is_for_who_asks_for_it() -> None:
    tokenizer, seen = tokenizer_of(), []
    tokenizer.decoder.conv_out.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    for bf16 in (False, True):
        refined_tokens(tokenizer, PICTURES[:1], 1, bf16=bf16)
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2
