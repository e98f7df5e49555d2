"""The hybrid backbone: a Swin Transformer whose patches are embedded, at every stage, by a convolutional hierarchy.

At the strides 8, 16 and 32 a stage of the convolutions gives the tokens, the stage before is merged into them, and
shifted-window blocks (Liu et al., ICCV 2021; timm's) work on the sum. Blocks and merging start at zero: before
training, the hybrid computes just what its convolutions do, so that it begins as good as their ImageNet weights.

Shape suffixes: B batch, C channels, H height, W width.
"""

import timm
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

from iqa_lib.models.tensors import require_same_tensors

LEVELS = (1, 2, 3, 4)  # of timm's feature maps: strides 4, 8, 16, 32
DEPTHS = (0, 2, 4, 2)  # blocks at stride 4 would double the cost for 24 channels
WINDOW = 6  # tokens along a side: at crops of 192 and 384 px every stage is whole windows
CHANNELS_PER_HEAD = (8, 8, 16, 32)


class SwinStage(nn.Module):
    """Tokens of this stage, with the stage before merged into them, through shifted-window blocks; maps of any size."""

    def __init__(self, channels: int, before: int | None, depth: int, heads: int, drop_path: float):
        super().__init__()
        self.merge = PatchMerging(before, channels) if before else None
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(
                    channels,
                    (WINDOW, WINDOW),
                    heads,
                    window_size=WINDOW,
                    shift_size=number % 2 * (WINDOW // 2),  # every second block's windows are shifted
                    always_partition=True,
                    dynamic_mask=True,
                    drop_path=drop_path,
                )
                for number in range(depth)
            )
        )
        for last in [layer for block in self.blocks for layer in (block.attn.proj, block.mlp.fc2)]:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        if self.merge:
            nn.init.zeros_(self.merge.reduction.weight)

    def forward(self, tokens_BHWC: Tensor, before_BHWC: Tensor | None) -> Tensor:
        if self.merge:
            tokens_BHWC = tokens_BHWC + self.merge(before_BHWC)
        return self.blocks(tokens_BHWC)


class HybridSwin(nn.Module):
    """A timm feature backbone with maps at strides 4, 8, 16 and 32, and the Swin stages on them; NCHW in and out."""

    def __init__(self, convolutions: nn.Module, drop_path_rate: float = 0.0):
        super().__init__()
        self.convolutions = convolutions
        self.feature_info = convolutions.feature_info
        widths = self.feature_info.channels()
        shapes = zip(widths, [None, *widths], DEPTHS, CHANNELS_PER_HEAD, strict=False)
        self.stages = nn.ModuleList(
            SwinStage(width, before, depth, width // per_head, drop_path_rate)
            for width, before, depth, per_head in shapes
        )

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        return self.attend(self.convolutions(image_BCHW))

    def attend(self, maps: list[Tensor]) -> list[Tensor]:
        """The convolutions' four maps with global context on top."""
        attended, before = [], None
        for map_BCHW, stage in zip(maps, self.stages, strict=True):
            before = stage(map_BCHW.permute(0, 2, 3, 1), before)
            attended.append(before.permute(0, 3, 1, 2))
        return attended


def create_hybrid(architecture: str, options: dict) -> HybridSwin:
    """A hybrid of this timm architecture; ``options`` of ``timm.create_model``, weights of the whole hybrid."""
    source = options.get("pretrained_cfg_overlay", {})
    plain = {k: v for k, v in options.items() if k not in ("pretrained", "pretrained_cfg_overlay")}
    convolutions = timm.create_model(architecture, **plain, out_indices=LEVELS)
    net = HybridSwin(convolutions, plain.get("drop_path_rate", 0.0))
    if source:
        require_same_tensors(source["state_dict"], net.state_dict(), "The weights file")
        net.load_state_dict(source["state_dict"])
    return net
