"""Numbers that do not exist, or only just: told as what they are, never taken for a result."""

import time

import numpy as np
import pandas as pd
import pytest
import torch

from iqa_lib import SmartIQA, machine, metrics
from iqa_lib.data.images import load_images
from iqa_lib.errors import RunError
from iqa_lib.profile import load_profile
from iqa_lib.study import figures, statistics, tables
from iqa_lib.study.page import Page, styled, to_latex
from iqa_lib.training import losses
from iqa_lib.training.evaluate import predict
from iqa_lib.training.runs import Run
from iqa_lib.training.train import train
from iqa_lib.workbook import report

# --- a loss that is none ----------------------------------------------------------------------------------


def spoil_loss(predicted, label, wrong):
    return (predicted - label).abs().mean() * wrong


def spoil_gradient(predicted, label, wrong):
    return (predicted - label).abs().mean() + 0 * (predicted - predicted).sqrt().sum()  # 0, of slope nan


SPOILT = {
    "nan": (7, spoil_loss, float("nan"), r"The loss is nan in epoch 2, batch 2 \(images .*learning rates \["),
    "inf": (7, spoil_loss, float("inf"), r"The loss is inf in epoch 2, batch 2 \(images .*learning rates \["),
    "weights": (
        10,
        spoil_gradient,
        0,
        r"After the last batch of epoch 2, .* are not finite \(images .*learning rates began at \[",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_number_that_is_none_stops_the_run_which_then_goes_on_from_its_last_good_epoch(
    home, monkeypatch, record, what
):
    at, spoil, wrong, message = SPOILT[what]
    settings, calls = load_profile("smoke"), []
    sound = losses.LOSSES["l1"]

    def poisoned(predicted, label):
        calls.append(1)
        return spoil(predicted, label, wrong) if len(calls) == at else sound(predicted, label)

    monkeypatch.setitem(losses.LOSSES, "l1", poisoned)
    with pytest.raises(RunError, match=message):
        train(settings)
    (state,) = home.glob("runs/smoke/store/*/state.pt")
    kept = torch.load(state, weights_only=True)
    assert len(kept["epochs"]) == 1 and all(v.isfinite().all() for v in kept["model"].values())
    monkeypatch.setitem(losses.LOSSES, "l1", sound)
    healed = train(settings).predictions
    for folder in home.glob("runs/smoke/store/*"):
        folder.rename(home / "healed")
    on_processor = machine.device().type == "cpu"
    same = {"check_exact": True} if on_processor else {"rtol": 1e-2}  # a GPU adds in another order
    pd.testing.assert_frame_equal(train(settings).predictions, healed, **same)
    record(
        "numbers",
        f"{what} in training; then on from the last good epoch",
        1,
        f"nothing: the same {'bits' if on_processor else 'scores, nearly,'} as undisturbed",
    )


# --- correlations that are undefined ----------------------------------------------------------------------


def stored(folder, predicted, score):
    """A finished run with these predictions."""
    run = Run(load_profile("smoke"), folder.name)
    run.folder.mkdir(parents=True)
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(len(score))], "score": score, "prediction": predicted})
    result = {"parameters": 1_000_000, "best_epoch": 1, "logistic": None}
    run.complete_with(table.assign(split="test", reference=table["image"]), result, "cpu", 0.0)
    return run


UNDEFINED = {
    "constant predictions": (np.full(12, 50.0), np.arange(12.0)),
    "constant scores": (np.arange(12.0), np.full(12, 70.0)),
    "one test image": (np.array([41.0]), np.array([40.0])),
}


@pytest.mark.parametrize("what", UNDEFINED)
def test_an_undefined_correlation_is_told_as_undefined_from_metric_to_report(home, record, what):
    settings = load_profile("smoke", bootstrap_samples=100)
    run = stored(home / what.replace(" ", "-"), *UNDEFINED[what])
    measured = run.measure(100)
    assert all(np.isnan(measured[name].value) for name in ("SRCC", "PLCC", "KRCC"))
    assert measured["RMSE"].value >= 1
    assert str(measured["SRCC"]) == "undefined" and np.isnan(run.srcc)

    runs = {"constant": [run], "sound": [stored(home / "sound", np.arange(12.0) ** 2, np.arange(12.0))]}
    table = statistics.compare_scores(settings, runs).set_index("variant")
    assert table.loc["constant", ["SRCC", "95 % low", "95 % high", "PLCC"]].isna().all()
    assert table.loc["sound", "SRCC"] == 1
    table = table.reset_index()
    assert styled(table).to_html().count("–") >= 4
    written = to_latex(table, "x", "x")
    (row,) = [line for line in written.splitlines() if line.startswith("constant")]
    assert "--" in row and "0.0000" not in row and "1.0000 " not in row.partition("parameters")[0].rsplit("&", 1)[0]

    page = Page(settings, "numbers")
    page.save(table[["variant", "SRCC"]], "numbers", "numbers")
    page.save(
        figures.bars_of_variants(table, {"constant": np.array([np.nan]), "sound": np.array([1.0])}), "bars", "bars"
    )
    index = report.write_index(page).read_text(encoding="utf-8")
    cells = index.partition("constant</td>")[2][:80]
    assert "–" in cells and "nan" not in cells.lower()
    assert "SRCC undefined" in figures.predicted_against_true(run.test, "MOS").get_title()
    if what != "one test image":
        difference = statistics.compare(
            run.test["prediction"].to_numpy()[None],
            np.arange(12.0)[None],
            run.test["score"],
            groups=None,
            resamples=100,
        )
        assert statistics.verdict(difference, 0.1) == statistics.UNTOLD
        assert len(tables.worst(run.test, 5)) == 5
    record("numbers", f"{what}: metrics, table, LaTeX, figures, report", 6, "told as undefined everywhere")


# --- many, tied, half precision ---------------------------------------------------------------------------


def test_a_million_tied_predictions_take_seconds(record):
    rng = np.random.default_rng(0)
    score = rng.integers(0, 101, 1_000_000).astype(float)
    predicted = np.round(score + rng.normal(0, 20, len(score)))
    began = time.process_time()
    values = [metric(predicted, score) for metric in (metrics.srcc, metrics.plcc, metrics.krcc, metrics.rmse)]
    interval = metrics.bootstrap(metrics.srcc, predicted, score, groups=None, resamples=20)
    seconds = time.process_time() - began
    assert np.isfinite(values).all() and interval.low <= values[0] <= interval.high
    assert interval.high - interval.low < 0.01 and seconds < 60
    record(
        "numbers",
        "metrics of 1,000,000 tied predictions, and an interval",
        1_000_000,
        f"nothing; {seconds:.1f} s of one core",
    )


def test_half_precision_ranks_as_single_precision_does(home, record, auto_is_float32):
    """The model that comes with the package, on every image of an embedded set; on few where bf16 is emulated."""
    settings = load_profile("smoke", crop_size=384, resolution=384)
    images = load_images(settings)
    every = 1 if auto_is_float32(torch.device("cpu")) else 8
    model, rows = SmartIQA.default(), np.arange(0, len(images), every)
    scored = {
        precision: predict(settings.model_copy(update={"precision": precision}), model, images, rows)["prediction"]
        for precision in ("float32", "bf16")
    }
    assert not np.array_equal(scored["float32"], scored["bf16"])
    apart = (scored["float32"] - scored["bf16"]).abs().max()
    assert apart < 3
    alike = metrics.srcc(scored["float32"], scored["bf16"])
    assert every > 1 or alike > 0.995
    record(
        "numbers",
        f"bf16 against float32: SRCC with one another {alike:.4f}, {len(rows)} images",
        len(rows),
        f"{apart:.1f} of 100 points (allowed: 3); SRCC (of all images: more than 0.995)",
    )
