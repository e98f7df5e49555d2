"""A trained model as ONNX, in float32 or INT8, for engines other than PyTorch.

Shape suffixes: B batch, H height, W width.
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from iqa_lib import paths
from iqa_lib.errors import RunError
from iqa_lib.models.smart_iqa import BlindIQA

INPUT, OUTPUT = "crops", "score"


class _CropsToScores(nn.Module):
    def __init__(self, model: BlindIQA):
        super().__init__()
        self.model = model

    def forward(self, crops_B3HW: Tensor) -> Tensor:
        return self.model.head(self.model.stages(self.model.backbone.normalize(crops_B3HW)))[0]


def to_onnx(model: BlindIQA, path: str | Path, crop_size: int, batch: int | None = None) -> Path:
    """Write the model as ONNX: ``crops`` uint8 (B, 3, crop_size, crop_size), RGB, to ``score`` (B,).

    Args:
        batch: the only B that the file takes, which halves the time of writing it; any number where None.

    Raises:
        RunError: this version of torch cannot export the network (2.6 cannot).
    """
    model = _CropsToScores(copy.deepcopy(model)).cpu().eval()
    model.model.backbone.fuse_attention(False)  # fused, it would fix the number of crops in the file
    example = torch.zeros(batch or 2, 3, crop_size, crop_size, dtype=torch.uint8)
    any_number = ({0: torch.export.Dim("batch", min=1, max=1 << 16)},)
    with _quiet():
        try:
            torch.onnx.export(
                model,
                (example,),
                str(path),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=None if batch else any_number,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise RunError(
                f"torch {torch.__version__} cannot write this model as ONNX, newer ones can: "
                "pip install --upgrade torch onnxscript"
            ) from error
    return Path(path)


PREPARE = (
    "Open the photograph upright, as 8-bit RGB, transparent parts white. {resize} Cut the fewest squares of {crop} px that "
    "cover it, evenly spaced from side to side and rounded to whole pixels. Its score is the mean of theirs: 0-100, higher "
    "is better. Normalisation is in the graph."
)
KEEPING_ASPECT = (
    "Reduce it (bicubic, antialiased) to a short side of {resolution} px if that is longer; enlarge it to {crop} px if "
    "shorter than that."
)
PORTRAIT = "Resize it (bicubic, antialiased), whatever its shape, to {resolution} px wide and a third taller."


def export_model(model: BlindIQA, path: Path, resolution: int, crop_size: int, portrait: bool = False) -> Path:
    """As `to_onnx`, written atomically, with what a user must do before and after as the file's metadata."""
    import onnx  # here, and onnxruntime below: a page that compares no engines need not wait for it

    with tempfile.TemporaryDirectory() as unfinished:
        written = onnx.load(to_onnx(model, Path(unfinished) / "model.onnx", crop_size))
    sizes = {"resolution": resolution, "crop": crop_size}
    resize = PORTRAIT if portrait else KEEPING_ASPECT
    properties = {**sizes, "prepare": PREPARE.format(**sizes, resize=resize.format(**sizes))}
    onnx.helper.set_model_props(written, {key: str(value) for key, value in properties.items()})
    paths.write_atomically(path, written.SerializeToString())
    return path


def to_int8(onnx_file: str | Path, path: str | Path, batches: Iterable[np.ndarray]) -> Path:
    """Quantise an ONNX model statically: INT8 weights per channel, INT8 activations in ranges measured on ``batches``.

    ``batches``: crops, uint8 (B, 3, H, W).
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(quantization.CalibrationDataReader):
        def __init__(self):
            self.waiting = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.waiting, None)
            return None if batch is None else {INPUT: batch}

    prepared = Path(path).with_suffix(".prepared.onnx")
    with _quiet():
        quant_pre_process(str(onnx_file), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(path),
            Batches(),
            per_channel=True,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            # not the products of two activations, among them the target network: its weights differ per image
            extra_options={"MatMulConstBOnly": True},
        )
    prepared.unlink()
    return Path(path)


class OnnxScorer:
    """An ONNX file that scores crops: uint8 (B, 3, H, W) to (B,), on the processor."""

    def __init__(self, path: str | Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, crops_B3HW: np.ndarray) -> np.ndarray:
        return self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(crops_B3HW)})[0]


@contextlib.contextmanager
def _quiet():
    """Keeps the exporter's and the quantiser's messages about their own internals off the screen."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)
