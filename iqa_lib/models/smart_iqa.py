"""SMART-IQA and HyperIQA: a backbone, pooled stages, and the quality head.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from iqa_lib import machine
from iqa_lib.errors import CheckpointError, RunError, WorkbookError
from iqa_lib.models.backbones import DEFAULT, Backbone
from iqa_lib.models.hypernet import PooledStages, QualityHead, pool_stages
from iqa_lib.models.tensors import read_without_running, require_same_tensors


class ModelSize(NamedTuple):
    backbone: str
    drop_path_rate: float
    dropout: float


# The reference code asks timm for bare names; these are the tags they meant (timm 1.0.31), so tiny is
# pretrained on ImageNet-1k and the others on ImageNet-22k, unlike what the paper says.
MODEL_SIZES = {
    "tiny": ModelSize("swin_tiny_patch4_window7_224.ms_in1k", 0.2, 0.3),
    "small": ModelSize("swin_small_patch4_window7_224.ms_in22k_ft_in1k", 0.25, 0.35),
    "base": ModelSize("swin_base_patch4_window7_224.ms_in22k_ft_in1k", 0.3, 0.4),
}


class BlindIQA(nn.Module):
    """A backbone and a quality head: normalised image in, one score out."""

    def __init__(self, backbone: Backbone, head: QualityHead):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.last_attention_weights: Tensor | None = None

    def stages(self, image_BCHW: Tensor) -> PooledStages:
        """What the head reads of a batch; this is what a frozen backbone needs to compute only once."""
        return pool_stages(self.backbone(image_BCHW))

    def score_stages(self, stages: PooledStages, alpha_BS: Tensor | None = None) -> Tensor:
        """Scores (B,); ``alpha_BS`` replaces the attention's stage weights (`QualityHead`)."""
        score_B, alpha = self.head(stages, alpha_BS)
        self.last_attention_weights = None if alpha is None else alpha.detach()
        return score_B

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Scores (B,), on the scale of the training labels (0–100, higher is better).

        Args:
            image_BCHW: RGB normalised as the backbone expects (``model.backbone.normalize`` of uint8).
        """
        return self.score_stages(self.stages(image_BCHW))

    def go_on_from_default(self) -> None:
        """Take the weights of `SmartIQA.default()`; CheckpointError where this model has other parts."""
        trained = SmartIQA.default().state_dict()
        require_same_tensors(trained, self.state_dict(), "`pretrained: default`", "the model of these settings")
        self.load_state_dict(trained)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options) -> BlindIQA:
        """The model that ``save_pretrained`` wrote into this folder, or a repository of the Hugging Face Hub.

        Raises CheckpointError: ``config.json`` or the weights are absent or damaged, or do not fit one another.
        """
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub prints where it reads from
                return super().from_pretrained(folder, **options)
        except WorkbookError:
            raise
        except Exception as error:  # of the hub, of JSON, of a constructor with invalid settings
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"No model can be read from '{folder}': {reason}. Expected is a folder with the config.json and "
                f"model.safetensors of save_pretrained, or the name of such a repository on the Hugging Face Hub."
            ) from error

    @classmethod
    def _from_pretrained(cls, **kwargs):
        # The saved weights replace the backbone's: do not fetch ImageNet's first.
        return super()._from_pretrained(**{**kwargs, "pretrained": False})

    @classmethod
    def _load_as_safetensor(cls, model: BlindIQA, model_file: str, map_location: str, strict: bool) -> BlindIQA:
        # The hub's own leaves a model at random where tensors are missing.
        tensors = read_without_running(model_file, remedy="Train or save the model again.")
        require_same_tensors(tensors, model.state_dict(), f"'{model_file}'")
        model.load_state_dict(tensors)
        return model.to(map_location).eval()


class SmartIQA(BlindIQA, PyTorchModelHubMixin):
    """SMART-IQA (Chen): Swin Transformer, adaptive feature aggregation, channel attention, hyper-network.

    Args:
        model_size: ``tiny``, ``small`` or ``base`` Swin with 224-pixel windows, as in the paper.
        use_attention: weigh the stages by content (paper, "channel attention"); needs ``use_multiscale``.
        use_multiscale: aggregate all four stages (AFA) instead of the last alone.
        use_hyper: write the regressor's weights for each image (HyperIQA); without it they are fixed.
        pretrained: True, False, or the path of a backbone weights file.
        backbone: any timm backbone by name instead of ``model_size``'s.
        image_size: side of the square crops in pixels.
        drop_path_rate, dropout: None takes the paper's values for the size (tiny's for another backbone).
        use_correction: the head's, for ratings of one's own (`QualityHead`).

    Raises:
        ValueError: unknown ``model_size``.
        WeightsError: the backbone is unknown or its weights cannot be had.
    """

    def __init__(
        self,
        model_size: str = "base",
        use_attention: bool = True,
        use_multiscale: bool = True,
        use_hyper: bool = True,
        pretrained: bool | str | Path = True,
        backbone: str | None = None,
        image_size: int = 224,
        drop_path_rate: float | None = None,
        dropout: float | None = None,
        use_correction: bool = False,
    ):
        if model_size not in MODEL_SIZES:
            raise ValueError(f"model_size must be one of {', '.join(MODEL_SIZES)}; got '{model_size}'.")
        size = MODEL_SIZES["tiny" if backbone else model_size]
        body = Backbone(
            backbone or size.backbone,
            pretrained,
            image_size,
            size.drop_path_rate if drop_path_rate is None else drop_path_rate,
        )
        head = QualityHead(
            body.channels,
            use_multiscale=use_multiscale,
            use_attention=use_attention,
            use_hyper=use_hyper,
            dropout=size.dropout if dropout is None else dropout,
            use_correction=use_correction,
        )
        super().__init__(body, head)

    @classmethod
    def default(cls) -> SmartIQA:
        """A trained model that comes with the package, in eval mode, on the processor.

        SMART-IQA on ``tf_efficientnet_lite2``, trained on people's ratings of the photographs of BIQ2021. Its crops are
        384 px, its scores 0–100. ``iqa_lib/models/weights/README.md`` is its model card.

        Raises:
            CheckpointError: the installed package lacks the weights.
        """
        return cls.from_pretrained(DEFAULT)


class HyperIQA(BlindIQA, PyTorchModelHubMixin):
    """HyperIQA (Su et al., CVPR 2020): the same head on stage 4 alone, without attention or dropout.

    Args:
        pretrained: True, False, or the path of a backbone weights file.
        backbone: ResNet-50 as published, or any timm backbone by name.
        image_size: side of the square crops in pixels.

    Raises:
        WeightsError: the backbone is unknown or its weights cannot be had.
    """

    def __init__(self, pretrained: bool | str | Path = True, backbone: str = "resnet50.tv_in1k", image_size: int = 224):
        body = Backbone(backbone, pretrained, image_size)
        head = QualityHead(body.channels, hidden=(1024, 512), use_multiscale=False, use_attention=False)
        super().__init__(body, head)


def compile_backbone(model: BlindIQA) -> BlindIQA:
    """The same model with its backbone, nearly all of its arithmetic, compiled at first use; RunError where it cannot.

    On a GPU a Swin's blocks are compiled one by one: equal ones share what is compiled, in a fraction of the time.
    """
    _require_compiler(machine.device())
    blocks = model.backbone.equal_blocks() if machine.device().type == "cuda" else []
    if blocks:
        torch._dynamo.config.cache_size_limit = 64  # kinds of blocks times shapes of batches
    for module in blocks or [model.backbone.net]:
        module.compile(**{"dynamic": False} if blocks else {})
    return model


@functools.cache
def _require_compiler(device: torch.device) -> None:
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # of the graph, Triton or the C++ compiler: they share no base class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunError(
            f"torch.compile does not work here ({reason}). It needs a C++ compiler (Debian: apt install g++) and, on a "
            f"GPU, Triton and Python's headers. Install them, or set the profile key `compile` to false."
        ) from error
