"""Tables: data frames ready to show and to save, the paper's numbers beside the measured ones."""

from __future__ import annotations

import importlib.resources

import pandas as pd

from iqa_lib import metrics
from iqa_lib.data.crops import ImageSet
from iqa_lib.evaluate import laplacian_variance
from iqa_lib.runs import Run


def paper(name: str) -> pd.DataFrame:
    """A table of the SMART-IQA paper, such as ``training_log_base``; reference only, never a result."""
    return pd.read_csv(importlib.resources.files("iqa_lib") / "paper" / f"{name}.csv")


def splits(images: ImageSet) -> pd.DataFrame:
    """Per split: images, references, score mean, deviation and range."""
    grouped = images.table.groupby("split", sort=False)
    return pd.DataFrame(
        {
            "images": grouped.size(),
            "references": grouped["reference"].nunique(),
            "mean score": grouped["score"].mean().round(1),
            "SD": grouped["score"].std().round(1),
            "lowest": grouped["score"].min(),
            "highest": grouped["score"].max(),
        }
    ).reset_index()


def epochs_beside_paper(run: Run) -> pd.DataFrame:
    """This run's epochs beside the paper's log of SMART-Base on KonIQ-10k, which chose on its test set."""
    log = paper("training_log_base").set_index("epoch").add_prefix("paper (KonIQ-10k, Swin-B): ")
    return (
        run.epochs.drop(columns="learning_rate_head")
        .round(4)
        .merge(log, how="left", left_on="epoch", right_index=True)
    )


def result_on_test(run: Run, images: ImageSet) -> pd.DataFrame:
    """Each metric with its 95 % interval, the model beside the no-training baseline."""
    rows = images.rows("test")
    baseline = metrics.bootstrap(
        lambda x, y: abs(metrics.srcc(x, y)),
        laplacian_variance(images, rows),
        images.scores(rows),
        resamples=run.settings.bootstrap_samples,
    )
    lines = [
        {"model": "trained", "metric": name, **interval} for name, interval in run.result["test"].items()
    ]
    lines.append({"model": "variance of the Laplacian (no training)", "metric": "SRCC", **baseline._asdict()})
    table = pd.DataFrame(lines).round(4)
    return table.rename(columns={"low": "95 % low", "high": "95 % high"})


def worst(test: pd.DataFrame, count: int) -> pd.DataFrame:
    """The test images with the largest errors, largest first."""
    table = test.assign(error=test["prediction"] - test["score"])
    columns = [c for c in ("image", "score", "prediction", "error", "distortion", "severity") if c in table]
    return table.loc[table["error"].abs().nlargest(count).index, columns].round(2).reset_index(drop=True)
