"""Reading checkpoints of the reference code: same network, other names."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from iqa_lib.errors import CheckpointError
from iqa_lib.models.smart_iqa import BlindIQA, HyperIQA, SmartIQA
from iqa_lib.models.tensors import DERIVED, read_without_running, require_same_tensors, state_dict_in

WRAPPERS = ("model", "model_hyper", "model_state_dict")

# reference name → ours, applied in order
RENAMES = [
    (r"^swin\.backbone\.", "backbone.net."),
    (r"^(?:swin|res)\.lda([123])_pool\.0\.", lambda m: f"head.local.reduce.{int(m[1]) - 1}."),
    (r"^(?:swin|res)\.lda([1234])_fc\.", lambda m: f"head.local.project.{int(m[1]) - 1}."),
    (r"^res\.", "backbone.net."),
    (r"^multiscale_attention\.attention_net\.0\.", "head.attention.hidden."),
    (r"^multiscale_attention\.attention_net\.3\.", "head.attention.weigh."),
    (r"^conv1\.", "head.hyper.content."),
    (r"^fc([1234])w_conv\.", lambda m: f"head.hyper.weights.{int(m[1]) - 1}."),
    (r"^fc([1234])b_fc\.", lambda m: f"head.hyper.biases.{int(m[1]) - 1}."),
    (r"^fc5w_fc\.", "head.hyper.last_weight."),
    (r"^fc5b_fc\.", "head.hyper.last_bias."),
]


def load_reference_checkpoint(source: str | Path | Mapping[str, Tensor]) -> BlindIQA:
    """Build SMART-IQA or HyperIQA from a checkpoint of the reference code, in eval mode.

    Size, aggregation and attention are read off the tensors.

    Args:
        source: path of a ``.pkl`` or ``.pth`` file, or a state dict, bare or under ``model``,
            ``model_hyper`` or ``model_state_dict``.

    Raises:
        CheckpointError: the file is unsafe or unreadable, or its tensors are not those of the model.
    """
    label = "the given state dict" if isinstance(source, Mapping) else f"'{source}'"
    content = source if isinstance(source, Mapping) else read_without_running(source)
    reference = state_dict_in(content, label, WRAPPERS)
    model = _matching_model(reference, label)
    expected = model.state_dict()
    renamed = {_rename(k): v for k, v in reference.items() if not k.endswith(DERIVED)}
    for buffer in (k for k in expected if k.endswith(DERIVED)):
        renamed[buffer] = expected[buffer]
    require_same_tensors(renamed, expected, label)
    model.load_state_dict(renamed)
    return model.eval()


def _matching_model(reference: Mapping[str, Tensor], label: str) -> BlindIQA:
    if "res.conv1.weight" in reference:
        return HyperIQA(pretrained=False)
    try:
        embedding = reference["swin.backbone.patch_embed.proj.weight"].shape[0]
        last_channels = reference["swin.lda4_fc.weight"].shape[1]
        hyper_channels = reference["conv1.0.weight"].shape[1]
    except (KeyError, IndexError) as error:
        fault = f"it lacks the tensor {error}" if isinstance(error, KeyError) else "a tensor has too few dimensions"
        raise CheckpointError(f"{label} is no SMART-IQA or HyperIQA checkpoint: {fault}.") from error
    depth = len({k.split(".")[4] for k in reference if k.startswith("swin.backbone.layers_2.blocks.")})
    sizes = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base"}
    if (embedding, depth) not in sizes:
        raise CheckpointError(
            f"{label} has a Swin of width {embedding} with {depth} blocks in stage 3; known (width, blocks): {sizes}."
        )
    return SmartIQA(
        sizes[embedding, depth],
        use_attention="multiscale_attention.attention_net.0.weight" in reference,
        use_multiscale=hyper_channels > last_channels,
        pretrained=False,
    )


def _rename(key: str) -> str:
    for pattern, ours in RENAMES:
        key, changed = re.subn(pattern, ours, key)
        if changed:
            break
    return key
