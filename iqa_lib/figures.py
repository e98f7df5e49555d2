"""Figures: each takes data frames and returns a matplotlib Figure; colours are safe for the colour-blind."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from iqa_lib import metrics
from iqa_lib.data.crops import ImageSet
from iqa_lib.data.distortions import DISTORTIONS, distort

COLOURS = sns.color_palette("colorblind")
SPLIT_COLOURS = {"train": COLOURS[0], "val": COLOURS[1], "test": COLOURS[2]}
sns.set_theme(
    style="ticks",
    palette="colorblind",
    font_scale=0.9,
    rc={"axes.spines.top": False, "axes.spines.right": False},
)


def gallery(images: ImageSet, rows: np.ndarray, titles: list[str], columns: int = 6) -> Figure:
    """Images in reading order, each under its title."""
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.1 * columns, 1.95 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row, title in zip(axes.flat, rows, titles, strict=False):
        axis.imshow(images.image(row))
        axis.set_title(title, fontsize=7.5)
    figure.tight_layout()
    return figure


def score_histogram(table: pd.DataFrame, score_label: str) -> Figure:
    """How the scores of each split are spread."""
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.4), sharex=True)
    for axis, (split, part) in zip(axes, table.groupby("split", sort=False), strict=False):
        axis.hist(part["score"], bins=np.arange(0, 101, 5), color=SPLIT_COLOURS[split])
        axis.set(title=f"{split}, n = {len(part)}", xlabel=score_label, ylabel="images")
        axis.xaxis.label.set_size(7.5)
    figure.tight_layout()
    return figure


def severity_against_score(table: pd.DataFrame, score_label: str) -> Figure:
    """For images with one fault: the score as severity grows."""
    single = table[~table["distortion"].str.contains(r"\+") & (table["distortion"] != "none")]
    grid = sns.relplot(
        single, x="severity", y="score", hue="split", col="distortion", col_wrap=5, height=1.7, aspect=1.05,
        s=16, palette=SPLIT_COLOURS, linewidth=0,
    )  # fmt: skip
    grid.set_titles("{col_name}").set_axis_labels("severity (0–1)", "score (0–100)").set(ylim=(0, 100))
    grid.figure.suptitle(score_label, y=1.02, fontsize=9)
    return grid.figure


def training_curves(epochs: pd.DataFrame, best_epoch: int) -> Figure:
    """Loss and validation SRCC per epoch; the kept epoch is marked."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    left.plot(epochs["epoch"], epochs["train_loss"], marker="o", ms=3, color=COLOURS[0])
    left.set(xlabel="epoch", ylabel="training loss (points of 100)", ylim=(0, None))
    right.plot(epochs["epoch"], epochs["val_srcc"], marker="o", ms=3, color=COLOURS[1])
    right.axvline(best_epoch, color="0.4", ls=":", label=f"kept: epoch {best_epoch}")
    right.set(xlabel="epoch", ylabel="validation SRCC")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.tight_layout()
    return figure


def predicted_against_true(test: pd.DataFrame, score_label: str) -> Figure:
    """Predictions and residuals of the test images; the tenth with the largest errors is marked."""
    residual = test["prediction"] - test["score"]
    worst = residual.abs() >= residual.abs().quantile(0.9)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    for axis, y in ((left, test["prediction"]), (right, residual)):
        axis.scatter(
            test["score"][~worst], y[~worst], s=12, color=COLOURS[0], alpha=0.7, lw=0, label="test image"
        )
        axis.scatter(
            test["score"][worst], y[worst], s=22, color=COLOURS[3], marker="^", lw=0, label="worst tenth"
        )
        axis.set_xlabel(score_label)
    left.axline((0, 0), slope=1, color="0.5", lw=1, ls="--", label="prediction = score")
    left.set(
        ylabel="predicted score",
        title=f"n = {len(test)}, SRCC {metrics.srcc(test['prediction'], test['score']):.3f}",
    )
    left.legend(frameon=False, fontsize=7.5)
    right.axhline(0, color="0.5", lw=1, ls="--")
    right.set(
        ylabel="prediction − score (points)",
        title=f"RMSE {metrics.rmse(test['prediction'], test['score']):.1f} points",
    )
    figure.tight_layout()
    return figure


def error_by_group(test: pd.DataFrame, group: str) -> Figure:
    """Distribution of the error in each group, the widest spread first."""
    data = test.assign(error=test["prediction"] - test["score"])
    order = data.groupby(group)["error"].std().sort_values(ascending=False).index
    figure, axis = plt.subplots(figsize=(8, 0.32 * len(order) + 1.2))
    sns.boxplot(data, x="error", y=group, order=order, color=COLOURS[0], width=0.6, fliersize=2, ax=axis)
    axis.axvline(0, color="0.5", lw=1, ls="--")
    counts = data[group].value_counts()
    axis.set_yticks(range(len(order)), [f"{name} (n = {counts[name]})" for name in order])
    axis.set(xlabel="prediction − score (points)", ylabel="")
    figure.tight_layout()
    return figure


def distortion_gallery(photograph: np.ndarray) -> Figure:
    """The 25 distortions of KADID-10k at their five levels: a row each, the parameter under its name.

    ``photograph`` is uint8, H x W x 3; its middle part is shown, large enough to see noise and blocks.
    """
    figure = plt.figure(figsize=(13, 11.6))
    table = list(DISTORTIONS.values())
    for half, part in zip(figure.subfigures(1, 2, wspace=0.02), (table[:13], table[13:]), strict=True):
        axes = half.subplots(13, 6, width_ratios=[1.3, 1, 1, 1, 1, 1])
        half.subplots_adjust(left=0.01, right=0.995, bottom=0.005, top=0.965, wspace=0.03, hspace=0.22)
        for axis in axes.flat:
            axis.axis("off")
        for row, distortion in zip(axes, part, strict=False):
            name, parameter = (textwrap.fill(text, 20) for text in (distortion.name, distortion.parameter))
            row[0].text(0, 0.55, name, fontsize=8.5, weight="bold")
            row[0].text(0, 0.45, parameter, fontsize=7.5, va="top")
            for level, (axis, strength) in enumerate(zip(row[1:], distortion.levels, strict=True), 1):
                axis.imshow(_middle(distort(photograph, distortion.name, level)))
                axis.set_title(f"{strength:g}", fontsize=7.5, pad=1.5)
        for level, axis in enumerate(axes[0, 1:], 1):
            axis.set_title(f"level {level}\n{part[0].levels[level - 1]:g}", fontsize=7.5, pad=1.5)
    return figure


def _middle(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return image[height // 4 : height - height // 4, width // 4 : width - width // 4]
