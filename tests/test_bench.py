"""What the workbook says of cost, precision and other engines."""

import os
import runpy
import signal
import sys

import numpy as np
import pytest
import torch

from iqa_lib.errors import RunError
from iqa_lib.models.export import OnnxScorer, to_int8, to_onnx
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.profile import load_profile
from iqa_lib.study import complexity as bench
from iqa_lib.training.evaluate import ahead

can_export = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="torch 2.6 cannot write these networks as ONNX"
)


def crops(number, size=64):
    return torch.from_numpy(
        np.random.default_rng(1).integers(0, 256, (number, 3, size, size), dtype=np.uint8)
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SmartIQA(backbone="swin_test", pretrained=False, image_size=64).eval()


@can_export
def test_onnx_gives_the_same_scores_for_any_number_of_crops(model, tmp_path):
    device = next(model.parameters()).device
    scorer = OnnxScorer(to_onnx(model, tmp_path / "model.onnx", 64))
    for number in (1, 3, 17):
        with torch.inference_mode():
            expected = model(model.backbone.normalize(crops(number).to(device))).cpu().numpy()
        np.testing.assert_allclose(scorer(crops(number).numpy()), expected, atol=1e-3)


def test_a_torch_that_cannot_write_the_network_says_so(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.onnx.OnnxExporterError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    model = SmartIQA(backbone="swin_test", pretrained=False, image_size=64)
    with pytest.raises(RunError, match=r"cannot write this model as ONNX.*pip install --upgrade torch"):
        to_onnx(model, tmp_path / "model.onnx", 64)


@can_export
def test_int8_is_smaller_and_still_ranks_images_as_before(tmp_path):
    torch.manual_seed(0)
    lite = SmartIQA(backbone="tf_efficientnet_lite0", pretrained=False, image_size=64).eval()
    plain = to_onnx(lite, tmp_path / "plain.onnx", 64)
    quantised = to_int8(plain, tmp_path / "int8.onnx", [crops(8).numpy()])
    assert quantised.stat().st_size < 0.4 * plain.stat().st_size
    assert not list(tmp_path.glob("*prepared*"))
    assert np.isfinite(OnnxScorer(quantised)(crops(4).numpy())).all()


def test_costs_have_a_row_per_model_and_precision_with_the_papers_beside(monkeypatch):
    monkeypatch.setattr(bench, "SHORTEST_RUN", 0.01)
    table = bench.costs(load_profile("smoke"))
    assert set(table["model"]) == {"HyperIQA", "SMART-Base"}
    assert set(table["precision"]) == {"float32", "bf16"}
    assert (table["25 %"] <= table["latency (ms)"]).all() and (table["latency (ms)"] <= table["75 %"]).all()
    assert table.set_index(["model", "precision"])["paper: latency (ms)"]["SMART-Base", "float32"] == 10.06


@pytest.mark.slow
def test_memory_is_measured_per_batch_and_training_takes_more_than_scoring(monkeypatch):
    settings = load_profile("smoke", crop_size=128, resolution=128)
    monkeypatch.setattr(bench, "models", lambda _: {"SMART-IQA": settings})
    table = bench.batch_sizes(settings, largest=16)
    peak = table.groupby("work")["memory (GB)"].max()
    assert 0 < peak["scoring"] < peak["training"]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_measuring_process_that_is_killed_is_named(monkeypatch):
    monkeypatch.setattr(bench, "models", lambda _: {"SMART-IQA": load_profile("smoke")})
    monkeypatch.setattr(bench, "_batches_of", die)
    with pytest.raises(RunError, match=r"measured SMART-IQA \(scoring\) was killed.*--largest-batch 8"):
        bench.batch_sizes(load_profile("smoke"), largest=16)


def test_growth_covers_images_and_crops(home):
    table = bench.growth(load_profile("smoke"), numbers=(32, 64))
    assert table["crops"].tolist() == [32, 64, 32, 64, 128, 256]
    assert (table["seconds"] > 0).all()


def test_reading_ahead_keeps_order_and_lets_errors_through():
    assert list(ahead(lambda i: i * i, range(5))) == [0, 1, 4, 9, 16]
    assert list(ahead(lambda i: i, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda i: 1 / i, [1, 0, 2]))


@pytest.mark.slow
def test_the_plain_way_computes_the_same_scores(model, monkeypatch):
    """Else the comparison would be with another method."""
    monkeypatch.syspath_prepend("benchmarks")
    plain = runpy.run_path("benchmarks/plain.py")
    image = model.backbone.normalize(crops(5))
    with torch.no_grad():
        expected = model(image)
        with plain["plain_target_network"]():
            torch.testing.assert_close(model(image), expected, atol=1e-4, rtol=1e-4)
    sys.modules.pop("prepare", None)
