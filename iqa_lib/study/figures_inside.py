"""Figures of what a model does inside: stage weights, activation maps, local quality. The rules are `figures`'."""

import io
import os
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iqa_lib import metrics, paths
from iqa_lib.data.decode import WorkingSize, quiet_pillow, read_image
from iqa_lib.data.images import ImageSet
from iqa_lib.progress import Progress, in_a_line
from iqa_lib.scoring.score import Scorer
from iqa_lib.study import attention, maps
from iqa_lib.study.figures import COLOURS, axes_or_new, interval_dots, named, panels

STAGES = ["stage 1", "stage 2", "stage 3", "stage 4"]
STAGE_COLOURS = sns.color_palette("viridis", 4)  # dark to light with depth, readable when printed in grey
Shown = list[tuple[np.ndarray, maps.Examination]]  # images, each with its examination


# --- stage weights ----------------------------------------------------------------------------------------


def attention_examples(images: ImageSet, rows: np.ndarray, test: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Three test images over their stage weights, beside those of the paper's images of like quality.

    ``test`` holds one row for each of ``rows``; ``paper`` is the table ``attention_examples``.
    """
    figure, axes = panels(6, 3, 3, 2.3, height_ratios=[1.5, 1])
    axes = axes.reshape(2, 3)
    beside = {"color": "0.85", "hatch": "//", "ec": "0.4", "lw": 0.5, "label": "paper"}
    styles = ((-0.2, {"color": COLOURS[0], "label": "this run"}), (0.2, beside))
    weights = zip(test[attention.ALPHAS].to_numpy(), paper.filter(like="stage").to_numpy(), strict=True)
    examples = zip(axes.T, rows, test.itertuples(), paper["quality"], weights, strict=True)
    for (top, bottom), row, seen, quality, both in examples:
        title = f"{quality} quality: score {seen.score:.0f}, predicted {seen.prediction:.0f}"
        photograph(images.image(row), title, top, fontsize=10)
        for alphas, (shift, style) in zip(both, styles, strict=True):
            bottom.bar_label(bottom.bar(np.arange(4) + shift, alphas, 0.4, **style), fmt="%.2f", fontsize=7.5)
        bottom.set(ylim=(0, 1.15), xticks=range(4), xticklabels=STAGES)
    axes[1, 0].set_ylabel("weight (sum 1)")
    axes[1, 0].legend()
    return figure


def attention_against_score(test: pd.DataFrame, control: pd.DataFrame, decile: pd.Series, label: str) -> Figure:
    """Entropy and each weight of every test image, with the mean of each decile; an untrained attention in grey.

    Bars are 95 % intervals over the images of a decile.
    """
    figure, axes = panels(5, 5, 2.6, 3, sharex=True)
    data, untrained = (t.assign(entropy=attention.entropy(t)) for t in (test, control))
    lines = (
        (untrained, {"color": "0.5", "ls": "--", "label": "untrained attention"}),
        (data, {"color": COLOURS[0], "lw": 2, "label": "mean of a decile"}),
    )
    for axis, column, title in zip(axes, ["entropy", *attention.ALPHAS], ["entropy", *STAGES], strict=True):
        axis.scatter(data["score"], data[column], s=7, color=COLOURS[0], alpha=0.3, lw=0, label="test image")
        for table, style in lines:
            means = table.groupby(decile)[["score", column]].agg(["mean", "sem"])
            interval = 1.96 * means[column, "sem"]
            axis.errorbar(means["score", "mean"], means[column, "mean"], interval, capsize=2, **style)
        axis.set(title=title, ylim=(-0.05, 2.1 if column == "entropy" else 1.05), xlim=(-2, 102))
    axes[0].set_ylabel("entropy of the weights (bits)")
    axes[1].set_ylabel("weight (the four sum to 1)")
    axes[2].set_xlabel(f"{label}, 0–100; n = {len(test)} test images")
    axes[-1].legend(fontsize=7.5)
    return figure


def attention_by_group(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean stage weights of each group of images, in the order of a table of `attention.attention_by`."""
    ax = axes_or_new(ax, 6, 3.8)
    group, share = table.columns[0], table.columns[-1]
    weights = table[attention.ALPHAS].set_axis(STAGES, axis=1)
    weights.index = [f"{name}  (n = {n})" for name, n in zip(table[group], table["n"], strict=True)]
    weights.plot.barh(stacked=True, width=0.8, color=STAGE_COLOURS, ec="white", lw=0.5, ax=ax)
    for place, value in enumerate(table[share]):
        ax.text(1.02, place, f"{value:.0%}", va="center", fontsize=8)
    ax.text(1.02, len(table) - 0.2, share.replace(" on one", "\non one"), fontsize=7.5)
    ax.set(xlim=(0, 1), xlabel="mean stage weight", ylabel=group)
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return ax


def scores_with_other_weights(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What SRCC loses when the learned weights are replaced: paired differences with 95 % intervals."""
    learned, others = table.iloc[0], table.iloc[1:]
    ax = axes_or_new(ax, 8, 0.36 * len(others) + 1.3)
    value, place = others["difference of SRCC"], range(len(others))
    interval_dots(ax, others, place, value.name, lying=True, ms=6, capsize=3)
    ax.axvline(0, color="0.5", lw=1, ls="--")
    srcc = others["SRCC"].map(metrics.in_words)
    ax.set_yticks(place, [f"{w}: SRCC {s}" for w, s in zip(others["weights"], srcc, strict=True)])
    ax.invert_yaxis()
    ax.set(
        xlabel="SRCC less that with the learned weights",
        # An interval may reach further than a difference can: it then runs out of the frame.
        xlim=(min(value.min(), -0.1) - 0.2, max(value.max(), 0.1) + 0.2),
        title=f"other weights than the learned ones (SRCC {metrics.in_words(learned['SRCC'])}); "
        f"n = {learned['n']}, seeds: {learned['seeds']}",
    )
    return ax


# --- activation maps --------------------------------------------------------------------------------------


def feature_maps(shown: Shown, titles: list[str]) -> Figure:
    """Images, a row each, with the activation maps of the four stages; a stage has one scale for all rows."""
    figure, axes = panels(5 * len(shown), 5, 2.6, 2.5)
    axes = axes.reshape(-1, 5)
    _draw_maps(figure, axes, shown, location="bottom", aspect=30)
    for row, title in zip(axes, titles, strict=True):
        for axis, text in zip(row, [title, *STAGES], strict=True):
            axis.set_title(text)
    return figure


def maps_under_distortion(shown: Shown, name: str) -> Figure:
    """A photograph and its activation maps, a column for each level; a stage has one scale for all levels."""
    figure, axes = plt.subplots(5, len(shown), figsize=(2.1 * len(shown) + 0.8, 8.2), layout="constrained")
    _draw_maps(figure, axes.T, shown, location="right", aspect=12)
    for level, (axis, (_, seen)) in enumerate(zip(axes[0], shown, strict=True)):
        what = f"{name}, level {level}" if level else "original"
        axis.set_title(f"{what}\npredicted {seen.score:.0f}", fontsize=8.5)
    return figure


def _draw_maps(figure: Figure, axes: np.ndarray, shown: Shown, **where: str | int) -> None:
    """``axes`` (images, 5): the image and its maps, with a colour bar for each stage."""
    bars = {"shrink": 0.85, "pad": 0.01, "extend": "max", **where}
    for axis in axes.flat:
        axis.axis("off")
    for axis, (image, _) in zip(axes[:, 0], shown, strict=True):
        axis.imshow(image)
    for stage, (column, name) in enumerate(zip(axes.T[1:], STAGES, strict=True)):
        layers = [seen.activation_SHW[stage] for _, seen in shown]
        low, high = min(m.min() for m in layers), np.quantile(np.concatenate(layers, None), 0.995)
        for axis, activation in zip(column, layers, strict=True):
            drawn = axis.imshow(activation, cmap="viridis", vmin=low, vmax=high)
        bar = figure.colorbar(drawn, ax=list(column), **bars)
        bar.set_label(f"{name}: mean |activation|", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    # An unseen bar keeps the images as large as their maps.
    for artist in figure.colorbar(drawn, ax=list(axes[:, 0]), **bars).ax.get_children():
        artist.set_visible(False)


def stage_statistics(table: pd.DataFrame, label: str) -> Figure:
    """Each image's mean activation and its unevenness over places, against the score, for the four stages."""
    figure, axes = panels(8, 4, 2.75, 2.4, sharex=True)
    quantities = {"activation": "mean |activation|", "unevenness": "SD over places / mean"}
    for line, (quantity, name) in zip(axes.reshape(2, 4), quantities.items(), strict=True):
        for axis, (stage, part), colour in zip(line, table.groupby("stage"), STAGE_COLOURS, strict=True):
            axis.scatter(part["score"], part[quantity], s=12, color=colour, ec="0.3", lw=0.3)
            axis.set_title(f"stage {stage}, SRCC {metrics.srcc(part[quantity], part['score']):+.2f}")
            axis.set_xlim(-2, 102)
        line[0].set_ylabel(name)
    figure.supxlabel(f"{label}, 0–100; n = {table['row'].nunique()} test images", fontsize=9)
    return figure


def activation_by_level(table: pd.DataFrame) -> Figure:
    """How each stage's mean activation moves as a distortion grows, in % of the original photograph's."""
    original = table.groupby(["distortion", "stage"])["activation"].transform("first")  # level 0
    grid = sns.relplot(
        table.assign(change=100 * table["activation"] / original), x="level", y="change", hue="stage", style="stage",
        kind="line", col="distortion", palette=STAGE_COLOURS, markers=list("osD^"), dashes=False, height=3, aspect=1.1,
    )  # fmt: skip
    grid.refline(y=100).set_titles("{col_name}")
    grid.set_axis_labels("level (0: original)", "mean |activation| (% of original)")
    return grid.figure


# --- local quality ----------------------------------------------------------------------------------------


def photograph(image: np.ndarray, title: str, ax: Axes, fontsize: float | str = "large") -> Axes:
    """An image under its title."""
    ax.imshow(image, cmap="gray")  # which colour images ignore
    named(title, ax, fontsize=fontsize)
    ax.axis("off")
    return ax


def quality_over(image: np.ndarray, quality_HW: np.ndarray, ax: Axes, **scale: float) -> Axes:
    """Local quality laid over the image in grey; ``scale``: vmin and vmax in points."""
    return _lay_over(ax, image, quality_HW, "local quality", "score of small crops (0–100)", **scale)


def added_over(image: np.ndarray, added_HW: np.ndarray, ax: Axes) -> Axes:
    """What each part adds to the score (`maps.occlusion`), laid over the image in grey."""
    scale = {"cmap": "PuOr_r", "vmin": -np.abs(added_HW).max(), "vmax": np.abs(added_HW).max()}
    return _lay_over(ax, image, added_HW, "what a part adds", "points lost when blurred", **scale)


def _lay_over(ax: Axes, image: np.ndarray, layer: np.ndarray, title: str, unit: str, **scale) -> Axes:
    photograph(image.mean(axis=2), title, ax)
    drawn = ax.imshow(layer, **{"cmap": "viridis", "alpha": 0.7, **scale})
    ax.figure.colorbar(drawn, ax=ax, label=unit, shrink=0.8)
    return ax


def save_maps(scorer: Scorer, table: pd.DataFrame, folder: Path) -> None:
    """A PNG of every scored file of ``table`` (`scoring.score.score_all`): the photograph beside its local quality.

    It lies under the file's path below the folder that all files have in common. Colours reach from 0 to 100, so
    that maps of several images compare.
    """
    scored = table[table["fault"] == ""]
    common = os.path.commonpath([paths.named(name).absolute().parent for name in scored["image"]] or ["."])
    for row in Progress(list(scored.itertuples()), desc="quality maps"):
        file = paths.named(row.image)
        below = file.absolute().relative_to(common)
        with quiet_pillow():
            image_HWC = read_image(file, WorkingSize.of_settings(scorer.settings))
        figure, (left, right) = panels(2, 2, 4.5, 3.6)
        photograph(image_HWC, f"{in_a_line(paths.printable(below))}: {row.score:.1f}", left)
        quality_over(image_HWC, maps.quality_map(scorer.settings, scorer.model, image_HWC), right, vmin=0, vmax=100)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150)
        plt.close(figure)
        if len(name := os.fsencode(below.name)) > paths.LONGEST_NAME:  # no room for .png behind it
            below = below.with_name(f"{name[:100].decode(errors='ignore')}… {zlib.crc32(name):08x}")
        paths.write_atomically(folder / f"{below}.png", content.getvalue())
