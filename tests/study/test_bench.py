"""What the workbook says of cost, precision and other engines."""

import itertools
import os
import runpy
import signal
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from iqa_lib import machine
from iqa_lib.errors import RunError
from iqa_lib.models.export import OnnxScorer, to_int8, to_onnx
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.profile import load_profile
from iqa_lib.study import complexity as bench
from iqa_lib.study import figures, precisions
from iqa_lib.study.page import Page
from iqa_lib.training.predictor import ahead
from iqa_lib.training.runs import Run

can_export = pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6 cannot write these networks as ONNX")


def crops(number, size=64):
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (number, 3, size, size), dtype=np.uint8))


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


class Clock:
    """A stand-in for the clock: time passes only in jobs."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(bench, "clock", lambda: self.now)

    def job(self, name, seconds):
        """Takes these seconds, one after the other and over again."""
        waiting = itertools.cycle(seconds)

        def run():
            self.calls.append(name)
            self.now += next(waiting)

        return run


@pytest.fixture
def fake_clock(monkeypatch):
    monkeypatch.setattr(precisions, "EVALUATION_BATCH", 4)  # a GPU scores more crops at once
    monkeypatch.setattr(precisions, "PART", 32)
    return Clock(monkeypatch)


def test_measuring_stops_as_soon_as_every_median_has_settled(fake_clock):
    jobs = {"steady": fake_clock.job("steady", [1.0]), "shaky": fake_clock.job("shaky", [1.0, 1.1, 1.2])}
    times = bench.in_turn(jobs, bench.Budget(1e6, "times"))
    assert len(times["steady"]) == bench.FEWEST
    assert bench.FEWEST < len(times["shaky"]) < 100
    assert bench.uncertainty(times["shaky"]) <= bench.SETTLED < bench.uncertainty(times["shaky"][:-1])
    assert fake_clock.calls[:4] == ["steady", "shaky", "steady", "shaky"]


def test_measuring_stops_when_the_seconds_are_spent(fake_clock):
    jobs = {"short": fake_clock.job("short", [1.0, 3.0]), "long": fake_clock.job("long", [10.0])}
    times = bench.in_turn(jobs, bench.Budget(30, "times"))
    assert fake_clock.now <= 30
    assert times == {"short": [1, 3, 1, 3], "long": [10, 10]}  # the short one still fits when the long does not
    never = bench.in_turn(jobs, bench.Budget(0.1, "times"))
    assert {job: len(found) for job, found in never.items()} == {"short": 1, "long": 1}


def test_the_standard_error_is_that_of_a_median():
    rng = np.random.default_rng(0)
    medians = [np.median(rng.normal(100, 10, 25)) for _ in range(4000)]
    estimated = np.mean([bench.uncertainty(list(rng.normal(100, 10, 25))) for _ in range(4000)])
    assert estimated == pytest.approx(np.std(medians) / 100, rel=0.1)
    assert np.isnan(bench.uncertainty([1.0] * (bench.FEWEST - 1)))


@pytest.mark.parametrize("native", [True, False], ids=["native bf16", "emulated bf16"])
def test_costs_have_a_row_per_backbone_and_precision_with_the_papers_beside(monkeypatch, capsys, native):
    monkeypatch.setattr(machine, "native_bf16", lambda on: native)
    table = bench.costs(load_profile("smoke", measuring_seconds=3, backbone_tiny="swin_nano", crop_size=64))
    assert table["model"].tolist() == ["SMART-Tiny"] * 2 + ["SMART-Base"] * 2  # HyperIQA is on SMART-Base's backbone
    assert table["precision"].tolist() == ["float32", "bf16"] * 2
    assert (table["25 %"] <= table["latency (ms)"]).all() and (table["latency (ms)"] <= table["75 %"]).all()
    found = table.set_index(["model", "precision"])
    assert found["paper: latency (ms)"]["SMART-Base", "float32"] == 10.06
    bf16 = table[table["precision"] == "bf16"]
    assert native or ((bf16["n"] <= bench.EMULATED) & (bf16["at batch"] == 1)).all()
    reached = table["standard error (%)"] <= 100 * bench.SETTLED
    assert set(table["settled"]) <= {"yes", "no"} and reached[table["settled"] == "yes"].all()
    assert f"computes in {'bf16' if native else 'float32'} on this machine" in capsys.readouterr().err


def test_accuracy_beside_cost_says_what_its_intervals_resample(home):
    settings = load_profile("smoke", bootstrap_samples=100)
    run = Run(settings, "one")
    run.folder.mkdir(parents=True)
    test = pd.DataFrame({"score": np.arange(40.0), "prediction": np.arange(40.0) % 17, "split": "test"})
    test = test.assign(image=[f"{i}.png" for i in range(40)], reference=[f"{i // 10}.png" for i in range(40)])
    run.complete_with(test, {"parameters": 1_000_000, "best_epoch": 1, "logistic": None}, "cpu", 0.0)
    of_backbone = {"backbone": run.backbone, "precision": "float32", "GMAC": 1.0, "latency (ms)": 1.0, "crops/s": 1.0}
    table = bench.accuracy_beside_cost(settings, {"SMART-IQA": [run]}, pd.DataFrame([of_backbone]))
    page = Page(settings, "09_complexity")
    page.save(table, "accuracy_cost", "Test SRCC")
    page.save(figures.accuracy_against(table, "GMAC"), "accuracy_cost_curve", "Accuracy against cost", table)
    for (kept,) in (page.saved["tables"], page.saved["figures"]):
        assert "Intervals: 95 %, over 4 references (rough), not over seeds" in kept["caption"]


def test_each_backbone_is_measured_once():
    names = {label: of.backbone for label, of in bench.models(load_profile("demo")).items()}
    assert len(set(names.values())) == len(names) == 4
    assert next(iter(bench.models(load_profile("paper")))) == "HyperIQA"  # on a ResNet of its own


class Counted:
    """Engines of `precisions` that take a second a crop, and count them."""

    def __init__(self, fake_clock, monkeypatch):
        self.crops, self.clock = Counter(), fake_clock
        monkeypatch.setattr(precisions, "_by_torch", lambda settings, *_: self.engine(settings.precision))
        monkeypatch.setattr(precisions, "_by_onnx", lambda scorer, *_: self.engine(scorer))
        names = ("float32, ONNX Runtime", "INT8, ONNX Runtime")
        monkeypatch.setattr(precisions, "onnx_scorers", lambda *_: {name: name for name in names})
        monkeypatch.setattr(precisions, "_calibration", lambda *_: [])

    def engine(self, name):
        def score(crops):
            self.crops[name] += len(crops)
            self.clock.now += len(crops)
            return np.array([crop[0] % 7 + 0.01 * len(name) * crop[0] for crop in crops])

        return score


class Trained:
    settings = load_profile("smoke")

    def load_model(self):
        return None


def of_test_images(number):
    images = bench.noise_images(number, 64)
    images.table["split"] = "test"
    return images


@pytest.mark.parametrize("native", [True, False], ids=["native bf16", "emulated bf16"])
def test_precisions_are_compared_on_as_many_images_as_the_seconds_suffice_for(fake_clock, monkeypatch, native):
    monkeypatch.setattr(machine, "native_bf16", lambda on: native)
    counted, images = Counted(fake_clock, monkeypatch), of_test_images(300)
    settings = load_profile("smoke", measuring_seconds=2000)
    table = precisions.compare(settings, Trained(), images).set_index("precision")
    assert table.index.tolist() == ["float32", "bf16", bench.FLOAT_ONNX, bench.INT8_ONNX]
    seconds = 2000 * bench.SHARES["precisions"]
    assert 0.8 * seconds < fake_clock.now <= seconds
    same = table.drop(index=[] if native else "bf16")
    assert same["n"].nunique() == 1 and precisions.FEWEST_IMAGES < same["n"].iloc[0] < 300
    assert dict(counted.crops) == table["n"].to_dict()  # a crop covers an image of these
    if not native:
        assert table["n"]["bf16"] == precisions.EMULATED_IMAGES
    assert table["change"]["float32"] == 0 and table["largest change of a score"].drop("float32").gt(0).all()


def test_bf16_that_is_emulated_is_never_run_over_the_whole_split(fake_clock, monkeypatch):
    counted, images = Counted(fake_clock, monkeypatch), of_test_images(300)
    enough = load_profile("smoke", measuring_seconds=1e6)
    assert precisions.compare(enough, Trained(), images)["n"].tolist() == [300, precisions.EMULATED_IMAGES, 300, 300]
    counted.crops.clear()
    few = precisions.compare(load_profile("smoke", measuring_seconds=1), Trained(), images).set_index("precision")
    assert counted.crops["bf16"] == few["n"]["bf16"] == precisions.EVALUATION_BATCH
    assert np.isnan(few["SRCC"]["bf16"]) and few["largest change of a score"]["bf16"] > 0
    assert precisions.FEWEST_IMAGES <= few["n"]["float32"] < precisions.FEWEST_IMAGES + precisions.PART


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
    assert table["crops"].tolist() == [32, 64, 32, 64]
    assert (table["seconds"] > 0).all() and table["n"].between(1, bench.EPOCHS).all()


def test_growth_leaves_out_sizes_that_take_too_long(fake_clock, monkeypatch):
    def epoch_of(settings, number, crops):
        return fake_clock.job((number, crops), [number * crops / 100])

    monkeypatch.setattr(bench, "_epoch_of", epoch_of)

    def sizes(seconds):
        fake_clock.now = 0.0
        settings = load_profile("smoke", measuring_seconds=seconds / bench.SHARES["growth"])
        table = bench.growth(settings, numbers=(100, 200, 400, 800))
        assert table["what grows"].value_counts().nunique() == 1
        return table[table["what grows"] == "images"]["images"].tolist()

    assert sizes(100) == [100, 200, 400, 800] and fake_clock.now <= 100
    assert sizes(20) == [100, 200, 400] and fake_clock.now <= 20
    assert sizes(1) == [100, 200]


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
