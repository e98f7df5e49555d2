"""From stage features to a score: feature aggregation, attention, hyper-network and target network.

SMART-IQA after HyperIQA (Su et al., CVPR 2020). Every operation between the backbone and the head that
reads the full-size maps is a mean over a fixed grid of cells, so the head needs the pooled stages alone:
that is what makes caching the features of a frozen backbone small.

Shape suffixes: B batch, C channels, K and G cells along a side, V length of the target network's input,
S stages (4), H, W height and width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOCAL_CELLS = (8, 4, 2, 1)  # cells along a side that stage 1–4 contribute to the local distortion vector
GRID = 7  # cells along a side of the hyper-network's input
VECTOR = 224  # numbers that enter the target network
LAYERS = (112, 56, 28, 14)  # widths of the target network
HYPER_CHANNELS = 112
STAGE_VECTOR = 16  # numbers of the local distortion vector from each of the first three stages


class PooledStages(NamedTuple):
    """All that the head reads of an image: each stage's mean over its local cells and over the 7×7 grid."""

    cells: list[Tensor]  # per stage (B, C, K, K), K of LOCAL_CELLS
    grids: list[Tensor]  # per stage (B, C, 7, 7)

    def float(self) -> PooledStages:
        """The same in float32, which is what the head computes in."""
        return PooledStages([t.float() for t in self.cells], [t.float() for t in self.grids])

    def as_cached(self) -> PooledStages:
        """Rounded to float16, as a feature cache keeps them."""
        return PooledStages([t.half().float() for t in self.cells], [t.half().float() for t in self.grids])

    @classmethod
    def join(cls, batches: list[PooledStages]) -> PooledStages:
        """Of several batches, one."""
        return cls(*([torch.cat(stage) for stage in zip(*part, strict=True)] for part in zip(*batches, strict=True)))

    def pack(self) -> Tensor:
        """One row of numbers per image, for a feature cache: (B, packed_size(channels))."""
        return torch.cat([t.flatten(1) for t in (*self.cells, *self.grids)], dim=1)

    @classmethod
    def unpack(cls, packed_BN: Tensor, channels: list[int]) -> PooledStages:
        shapes = [(c, k, k) for c, k in zip(channels, LOCAL_CELLS, strict=True)]
        shapes += [(c, GRID, GRID) for c in channels]
        parts = packed_BN.split([c * h * w for c, h, w in shapes], dim=1)
        tensors = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        return cls(tensors[: len(channels)], tensors[len(channels) :])


def packed_size(channels: list[int]) -> int:
    return sum(c * (k * k + GRID * GRID) for c, k in zip(channels, LOCAL_CELLS, strict=True))


def pool_stages(maps: list[Tensor]) -> PooledStages:
    """Pool four NCHW feature maps of any size; at 224×224 the cells are the reference's 7×7 windows."""
    cells = [_pool(m, k) for m, k in zip(maps, LOCAL_CELLS, strict=True)]
    return PooledStages(cells, [_pool(m, GRID) for m in maps])


def _pool(maps_BCHW: Tensor, cells: int) -> Tensor:
    if maps_BCHW.is_mps and any(side % cells for side in maps_BCHW.shape[2:]):  # which Apple's GPU refuses
        return F.adaptive_avg_pool2d(maps_BCHW.cpu(), cells).to(maps_BCHW.device)
    return F.adaptive_avg_pool2d(maps_BCHW, cells)


class LocalDistortion(nn.Module):
    """The target network's input: 16 numbers from each of stages 1–3 and 176 from stage 4."""

    def __init__(self, channels: list[int]):
        super().__init__()
        self.reduce = nn.ModuleList(
            nn.Conv2d(c, width, 1, bias=False) for c, width in zip(channels[:3], (16, 32, 64), strict=True)
        )
        self.project = nn.ModuleList(
            nn.Linear(width * k * k, STAGE_VECTOR) for width, k in zip((16, 32, 64), LOCAL_CELLS[:3], strict=True)
        )
        self.project.append(nn.Linear(channels[3], VECTOR - 3 * STAGE_VECTOR))

    def forward(self, cells: list[Tensor]) -> Tensor:
        reduced = [conv(c) for conv, c in zip(self.reduce, cells[:3], strict=True)] + [cells[3]]
        return torch.cat([fc(r.flatten(1)) for fc, r in zip(self.project, reduced, strict=True)], dim=1)


class StageAttention(nn.Module):
    """One weight per stage, summing to 1, from stage 4's global average.

    The paper writes a sigmoid; the reference code, whose numbers the paper reports, uses a softmax.
    """

    def __init__(self, channels: int, stages: int = 4):
        super().__init__()
        self.hidden = nn.Linear(channels, 256)
        self.dropout = nn.Dropout(0.5)
        self.weigh = nn.Linear(256, stages)
        for layer in (self.hidden, self.weigh):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, stage4_BC: Tensor) -> Tensor:
        alpha_BS = self.weigh(self.dropout(F.relu(self.hidden(stage4_BC)))).softmax(dim=1)
        return _without_denormals(alpha_BS)


def _content_layers(in_channels: int, hidden: tuple[int, int], dropout: float) -> nn.Sequential:
    widths = (in_channels, *hidden, HYPER_CHANNELS)
    layers = [
        layer for before, after in itertools.pairwise(widths) for layer in (nn.Conv2d(before, after, 1), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Dropout(dropout))


class HyperNetwork(nn.Module):
    """Writes the weights of a small regression network for each image (HyperIQA, eq. 3)."""

    def __init__(self, in_channels: int, hidden: tuple[int, int], dropout: float):
        super().__init__()
        self.content = _content_layers(in_channels, hidden, dropout)
        sizes = list(zip((VECTOR, *LAYERS), LAYERS, strict=False))
        self.weights = nn.ModuleList(
            nn.Conv2d(HYPER_CHANNELS, before * after // GRID**2, 3, padding=1) for before, after in sizes
        )
        self.biases = nn.ModuleList(nn.Linear(HYPER_CHANNELS, after) for _, after in sizes)
        self.last_weight = nn.Linear(HYPER_CHANNELS, LAYERS[-1])
        self.last_bias = nn.Linear(HYPER_CHANNELS, 1)
        for generator in (*self.weights, *self.biases, self.last_weight, self.last_bias):
            nn.init.kaiming_normal_(generator.weight)

    def forward(self, grid_BCGG: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per target layer: weight (B, out, in) and bias (B, out)."""
        if self.training and grid_BCGG.device.type == "cpu":
            content, weights = self._by_products(grid_BCGG)
        else:
            content = self.content(grid_BCGG)
            weights = [conv(content) for conv in self.weights]
        mean = content.mean(dim=(2, 3))
        layers = []
        for weight, bias in zip(weights, self.biases, strict=True):
            b = bias(mean)
            layers.append((weight.reshape(*b.shape, -1), b))
        layers.append((self.last_weight(mean).unsqueeze(1), self.last_bias(mean)))
        for generated in itertools.chain(*layers):
            if generated.requires_grad and not generated.is_cuda:
                generated.register_hook(_without_denormals)
        return layers

    def _by_products(self, grid_BCGG: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The content, and what the convolutions of `weights` make of it, by matrix products.

        On so few cells a processor spends more on the rearranging that convolutions need than on arithmetic.
        """
        x = grid_BCGG.permute(0, 2, 3, 1)
        for layer in self.content:
            x = F.linear(x, layer.weight.flatten(1), layer.bias) if isinstance(layer, nn.Conv2d) else layer(x)
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        around = [padded[:, i : i + GRID, j : j + GRID] for i, j in itertools.product(range(3), repeat=2)]
        kernels = torch.cat([conv.weight for conv in self.weights]).permute(0, 2, 3, 1).flatten(1)
        made = F.linear(torch.cat(around, dim=3), kernels, torch.cat([conv.bias for conv in self.weights]))
        widths = [conv.out_channels for conv in self.weights]
        return x.permute(0, 3, 1, 2), made.permute(0, 3, 1, 2).split(widths, dim=1)


def _without_denormals(values: Tensor) -> Tensor:
    """Saturated sigmoids make gradients, and a softmax weights, so small that they change no sum in float32.

    Their products are denormal numbers, which processors are slow with: training a head took 2 to 5 times as long.
    """
    return torch.where(values.abs() < 1e-20, 0.0, values)


def target_network(vector_BV: Tensor, layers: list[tuple[Tensor, Tensor]], dropout: nn.Module) -> Tensor:
    """Run every image through its own generated network as one batched product: (B,) scores."""
    x = vector_BV.unsqueeze(2)
    for depth, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias.unsqueeze(2), weight, x)
        if depth < len(layers) - 1:
            x = torch.sigmoid(x)
        if depth < len(layers) - 2:
            x = dropout(x)
    return x.flatten()


class FixedRegressor(nn.Module):
    """The control for the hyper-network: the same content and vector, but one set of weights for all images.

    The content, averaged, joins the local distortion vector; the layers have the target network's widths.
    """

    def __init__(self, in_channels: int, hidden: tuple[int, int], dropout: float):
        super().__init__()
        self.content = _content_layers(in_channels, hidden, dropout)
        widths = itertools.pairwise((VECTOR + HYPER_CHANNELS, *LAYERS))
        layers = [layer for before, after in widths for layer in (nn.Linear(before, after), nn.Sigmoid())]
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(LAYERS[-1], 1)

    def forward(self, vector_BV: Tensor, grid_BCGG: Tensor) -> Tensor:
        content = self.content(grid_BCGG).mean(dim=(2, 3))
        return self.last(self.hidden(torch.cat([vector_BV, content], dim=1))).flatten()


class QualityHead(nn.Module):
    """Everything after the backbone, shared by SMART-IQA and HyperIQA.

    Args:
        channels: of the four stages.
        hidden: widths of the hyper-network's two inner 1×1 convolutions.
        use_multiscale: feed it all stages (adaptive feature aggregation) instead of stage 4 alone.
        use_attention: weigh the stages before they are joined; needs ``use_multiscale``.
        use_hyper: let the hyper-network write the regressor; without it one regressor serves all images.
        dropout: in the hyper-network and the target network.
        use_correction: add what is linear in the score and each stage's channel means, at first nothing: what a few
            ratings of one's own can say (`iqa_lib.rating.learn`).
    """

    def __init__(
        self,
        channels: list[int],
        hidden: tuple[int, int] = (512, 256),
        use_multiscale: bool = True,
        use_attention: bool = True,
        use_hyper: bool = True,
        dropout: float = 0.0,
        use_correction: bool = False,
    ):
        super().__init__()
        self.use_multiscale = use_multiscale
        self.local = LocalDistortion(channels)
        self.attention = StageAttention(channels[3]) if use_attention and use_multiscale else None
        width = sum(channels) if use_multiscale else channels[3]
        self.hyper = HyperNetwork(width, hidden, dropout) if use_hyper else None
        self.fixed = None if use_hyper else FixedRegressor(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)
        self.correction = nn.Linear(1 + sum(channels), 1) if use_correction else None
        if self.correction is not None:
            nn.init.zeros_(self.correction.weight)
            nn.init.zeros_(self.correction.bias)

    def forward(self, stages: PooledStages, alpha_BS: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Scores (B,) and, with attention on, the stage weights (B, 4).

        ``alpha_BS``: weights in place of the attention's, to test what it contributes; ValueError without attention.
        """
        if alpha_BS is not None and self.attention is None:
            raise ValueError("This head has no attention: it cannot take stage weights.")
        grids = stages.grids
        if self.attention is not None:
            if alpha_BS is None:
                alpha_BS = self.attention(stages.cells[3].flatten(1))
            grids = [g * alpha_BS[:, s, None, None, None] for s, g in enumerate(grids)]
        joined = torch.cat(grids, dim=1) if self.use_multiscale else grids[3]
        vector = self.local(stages.cells)
        if self.hyper is None:
            score_B = self.fixed(vector, joined)
        else:
            score_B = target_network(vector, self.hyper(joined), self.dropout)
        if self.correction is not None:
            means = [grid.mean(dim=(2, 3)) for grid in stages.grids]
            score_B = score_B + self.correction(torch.cat([score_B[:, None], *means], dim=1)).flatten()
        return score_B, alpha_BS

    def start_at(self, score: float) -> None:
        """Begin training from this score (the training set's mean) instead of zero."""
        last = self.fixed.last if self.hyper is None else self.hyper.last_bias
        nn.init.constant_(last.bias, score)
