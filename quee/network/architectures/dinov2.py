"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): timm's backbones with the authors' linear heads.

timm has no head for DINOv2. The published heads read the mean patch token of the last block, and the class token of the
last block (`layers=1`) or of the last four blocks (`layers=4`).
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from quee.data.preprocessing import Preprocessing
from quee.errors import UsageError
from quee.network.timm_models import is_headless
from quee.network.timm_models import is_timm as knows
from quee.network.vision_transformer import TimmViT, timm_model, vit_input

__all__ = ["create", "is_headless", "knows"]

IMAGE_SIZE = 224
"""As in the evaluation of the linear heads: the shorter side is resized to 256, and the centre of 224 is cropped."""
CROP_PCT = 224 / 256
HEADS = (1, 4)
"""Numbers of last blocks whose class tokens a published head reads."""
OFFSET = 0.1
"""Added to the sides of a grid when its position table is resampled."""


class DinoV2(TimmViT):
    """A DINOv2 ViT and a linear head on [class tokens of the last `layers` blocks, mean patch token], all normalised.

    With `layers` above 1 the state carries the class tokens of earlier blocks after its patch tokens.
    """

    def __init__(
        self, model: VisionTransformer, input: Preprocessing, num_classes: int = 1000, layers: int = 1
    ) -> None:
        if layers not in HEADS:
            raise UsageError(f"layers must be 1 or 4, the published heads; got {layers!r}")
        if num_classes < 1:
            raise UsageError(f"num_classes must be at least 1; got {num_classes}")
        depth = len(model.blocks)
        if depth < layers:
            raise UsageError(f"a head on {layers} layers needs as many blocks; depth is {depth}")
        model.head = nn.Linear((1 + layers) * model.embed_dim, num_classes)
        nn.init.normal_(model.head.weight, std=0.01)  # initial values of the authors' probes
        nn.init.zeros_(model.head.bias)
        model.num_classes = num_classes
        super().__init__(model, input)
        self.layers = layers
        self._tokens = self.prefix_tokens + self.grid[0] * self.grid[1]
        self._kept_from = depth - layers  # the first block whose class token the head reads

    def run_block(self, index: int, state: Tensor) -> Tensor:
        """Like the base class; class tokens that the head needs later are appended to the patch tokens."""
        if self.layers == 1:
            return super().run_block(index, state)
        tokens = self.blocks[index](state[:, : self._tokens])
        kept = [tokens[:, :1]] if self._kept_from <= index < len(self.blocks) - 1 else []
        return torch.cat([tokens, state[:, self._tokens :], *kept], dim=1)

    def classify(self, state: Tensor) -> Tensor:
        state = self.norm(state)
        tokens, kept = state[:, : self._tokens], state[:, self._tokens :]
        last = self.pool(tokens, self.segments, "cls_mean")  # (n, 2 dim)
        return self.head(self.head_drop(torch.cat([kept.flatten(1), last], dim=1)))

    def positions(self, state: Tensor, gate: int) -> Tensor:
        return super().positions(state[:, : self._tokens], gate)

    def asked_for(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """As of timm's networks, without the size of images: the published weights are for 518 px, and their heads for 224."""
        return {key: value for key, value in super().asked_for(state).items() if key != "img_size"}

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Like timm's networks; positions of networks without registers are resampled as the authors do."""
        table = state.get("pos_embed")
        patches = self.grid[0] * self.grid[1]
        if table is not None and self.reg_token is None and table.shape[1:2] != (1 + patches,):
            self.refuse_positions(table, prefix=1)
            state = {**state, "pos_embed": _resampled(table, self.grid)}
        return super().adapt_state(state)


def _resampled(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A table (1, 1 + rows · rows, dim) for another grid: the authors add 0.1 to its sides when they take the ratio."""
    rows = isqrt(table.shape[1] - 1)
    squares = table[:, 1:].float().unflatten(1, (rows, rows)).permute(0, 3, 1, 2)  # (1, dim, rows, rows)
    ratio = ((grid[0] + OFFSET) / rows, (grid[1] + OFFSET) / rows)
    resampled = functional.interpolate(squares, scale_factor=ratio, mode="bicubic")
    return torch.cat([table[:, :1], resampled.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)], dim=1)


def create(name: str, num_classes: int = 1000, layers: int = 1, img_size: Any = IMAGE_SIZE, **kwargs: Any) -> DinoV2:
    """timm's DINOv2 of that name with a linear head, at 224 px unless told otherwise.

    Mean, std and interpolation are timm's. timm's crop is for its own size (518); at any other size the authors' is used.
    """
    model = timm_model(name, num_classes=0, img_size=img_size, **kwargs)
    input = vit_input(model)
    own = timm.get_pretrained_cfg(name)
    if own is None or input.size != own.input_size[1:]:
        input = replace(input, crop_pct=CROP_PCT)
    return DinoV2(model, input, num_classes, layers)
