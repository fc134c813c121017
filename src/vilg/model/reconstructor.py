"""The image reconstructor of end-to-end training (paper section 3.1.3, figure 1, the green path).

The generator's last-layer states at z_1 .. z_N, each of which has seen its own token and all before it,
pass a nonlinear map into the place of the codes, and a decoder makes pixels of them. No id is looked up
on the way, so the loss of the pixels reaches the generator.

The paper gives neither the map nor how the reconstructor begins. Here the map is one hidden layer of the
generator's width, and the decoder begins as the image tokenizer's own.

Shape letters: B batch, N image tokens, C width of the generator, D code dimension, H W grid.
"""

import copy

from torch import Tensor, nn

from vilg.model.segments import Grid
from vilg.tokenizer.image_tokenizer import ImageTokenizer


class Reconstructor(nn.Module):
    """A map from states to codes, and a decoder of its own.

    Args:
        width: of the generator's states.
    """

    def __init__(self, width: int, image_tokenizer: ImageTokenizer):
        super().__init__()
        code_dim = image_tokenizer.config.code_dim
        self.map = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, code_dim))
        self.decoder = copy.deepcopy(image_tokenizer.decoder).requires_grad_()

    def forward(self, states_BNC: Tensor, grid: Grid) -> Tensor:
        """Return the decoder's raw output; `ImageTokenizer.to_image` makes pixels of it."""
        codes_BND = self.map(
            states_BNC.to(next(self.parameters()).dtype)
        )  # a generator's may be bf16
        return self.decoder(codes_BND.transpose(1, 2).unflatten(2, (grid.height, grid.width)))
