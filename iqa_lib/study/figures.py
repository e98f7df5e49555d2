"""Figures: each takes data frames and returns a matplotlib Figure; colours are safe for the colour-blind."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from iqa_lib import metrics
from iqa_lib.data.crops import ImageSet
from iqa_lib.data.distortions import DISTORTIONS, Distortion, distort
from iqa_lib.study import explain

COLOURS = sns.color_palette("colorblind")
SPLIT_COLOURS = {"train": COLOURS[0], "val": COLOURS[1], "test": COLOURS[2]}
sns.set_theme(
    style="ticks",
    palette="colorblind",
    font_scale=0.9,
    rc={"axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42},
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


def galleries(sets: dict[str, ImageSet], columns: int = 8) -> Figure:
    """A row per dataset: test images from its lowest to its highest score."""
    figure, axes = plt.subplots(
        len(sets), columns, figsize=(1.6 * columns, 1.45 * len(sets) + 0.2), squeeze=False
    )
    for line, (name, images) in zip(axes, sets.items(), strict=True):
        rows = images.rows("test")
        rows = rows[np.argsort(images.scores(rows), kind="stable")]
        for axis, row in zip(
            line, rows[np.linspace(0, len(rows) - 1, columns).round().astype(int)], strict=True
        ):
            axis.imshow(images.image(row))
            axis.set_title(f"{images.scores(np.array([row]))[0]:.0f}", fontsize=8, pad=2)
            axis.set(xticks=[], yticks=[])
            sns.despine(ax=axis, left=True, bottom=True)
        line[0].set_ylabel(name, fontsize=8.5)
    figure.tight_layout(h_pad=0.4, w_pad=0.3)
    return figure


def score_histograms(sets: dict[str, ImageSet]) -> Figure:
    """How the scores of each dataset are spread, its splits laid over each other as outlines."""
    columns = min(2, len(sets))
    lines = -(-len(sets) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4 * columns, 2.3 * lines), sharex=True, squeeze=False
    )
    for axis in axes.flat[len(sets) :]:
        axis.axis("off")
    for axis, (name, images) in zip(axes.flat, sets.items(), strict=False):
        for split, part in images.table.groupby("split", sort=False):
            axis.hist(
                part["score"], np.arange(0, 101, 5), histtype="step", lw=1.5, density=True,
                color=SPLIT_COLOURS[split], label=f"{split}, n = {len(part)}",
            )  # fmt: skip
        axis.set(title=name, xlabel="score (0–100, higher is better)", ylabel="share of images per point")
        axis.title.set_size(9)
        axis.yaxis.label.set_size(8)
        axis.legend(frameon=False, fontsize=7, loc="upper left")
    figure.tight_layout()
    return figure


def rating_noise(sets: dict[str, ImageSet]) -> Figure:
    """How much people disagree about an image: the deviation of its ratings against their mean."""
    noisy = {name: images.table for name, images in sets.items() if "std" in images.table}
    figure, axes = plt.subplots(1, len(noisy), figsize=(4 * len(noisy), 2.8), squeeze=False)
    for axis, (name, table) in zip(axes.flat, noisy.items(), strict=True):
        axis.scatter(table["score"], table["std"], s=6, alpha=0.35, lw=0, color=COLOURS[0])
        axis.axhline(table["std"].median(), color=COLOURS[3], lw=1.2)
        axis.set(
            title=f"{name}, n = {len(table)}, median {table['std'].median():.1f}",
            xlabel="MOS (0–100)",
            ylabel="SD of the ratings (points)",
            ylim=(0, None),
        )
        axis.title.set_size(9)
    figure.tight_layout()
    return figure


def raters_curve(agreement: pd.DataFrame) -> Figure:
    """SRCC of the mean of k raters with the others', with the paper's claim for the model where it has one."""
    figure, axis = plt.subplots(figsize=(4.6, 3))
    for (name, part), colour in zip(agreement.groupby("dataset", sort=False), COLOURS, strict=False):
        axis.plot(part["raters"], part["SRCC"], marker="o", ms=4, color=colour, label=name)
    axis.set(xscale="log", xlabel="raters whose mean is taken", ylabel="SRCC with the other raters")
    axis.set_xticks(ticks := sorted(set(agreement["raters"])), ticks)
    axis.minorticks_off()
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def severity_against_score(table: pd.DataFrame, score_label: str) -> Figure:
    """For images with one fault: the score as severity grows."""
    single = table[~table["distortion"].str.contains(r"\+") & (table["distortion"] != "none")]
    grid = sns.relplot(
        single, x="severity", y="score", hue="split", col="distortion", col_wrap=5, height=1.7, aspect=1.05,
        s=16, palette=SPLIT_COLOURS, linewidth=0,
    )  # fmt: skip
    grid.set_titles("{col_name}").set_axis_labels("severity", "score (0–100)").set(ylim=(0, 100))
    grid.figure.suptitle(score_label, y=1.02, fontsize=9)
    return grid.figure


def training_curves(epochs: pd.DataFrame, best_epoch: int) -> Figure:
    """Loss per epoch, and the SRCC of the split that chooses the epoch; the kept one is marked."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    left.plot(epochs["epoch"], epochs["train_loss"], marker="o", ms=3, color=COLOURS[0])
    left.set(xlabel="epoch", ylabel="training loss (points of 100)", ylim=(0, None))
    split = "val" if "val_srcc" in epochs else "test"
    right.plot(epochs["epoch"], epochs[f"{split}_srcc"], marker="o", ms=3, color=SPLIT_COLOURS[split])
    right.axvline(best_epoch, color="0.4", ls=":", label=f"kept: epoch {best_epoch}")
    named = {"val": "validation", "test": "test"}[split]
    right.set(xlabel="epoch", ylabel=f"{named} SRCC, which chooses")
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
        title=f"n = {len(test)}, SRCC {metrics.told(metrics.srcc(test['prediction'], test['score']))}",
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
    """The 25 distortions of KADID-10k at their five levels: a row each, the parameter over each image.

    ``photograph`` is uint8, H x W x 3; its middle part is shown, large enough to see noise and blocks.
    """
    table = list(DISTORTIONS.values())
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 7.3), layout="constrained")
    for axis, part in zip(axes, (table[:13], table[13:]), strict=True):
        _distortion_rows(axis, photograph, part)
    axes[1].set_ylim(axes[0].get_ylim())
    return figure


def _distortion_rows(axis: plt.Axes, photograph: np.ndarray, distortions: list[Distortion]) -> None:
    """One picture of all, for an axis each would take ten times as long to draw."""
    height, width = _middle(photograph).shape[:2]
    step_y, step_x = height + height // 4, width + width // 40  # room for a line of text
    page = np.full((step_y * len(distortions), step_x * 5, 3), 255, np.uint8)
    for row, distortion in enumerate(distortions):
        y = row * step_y + step_y - height
        for column, strength in enumerate(distortion.levels):
            image = _middle(distort(photograph, distortion.name, column + 1))
            page[y : y + height, column * step_x : column * step_x + width] = image
            text = f"level {column + 1}: {strength:g}" if row == 0 else f"{strength:g}"
            axis.text(column * step_x + width / 2, y, text, fontsize=5, ha="center", va="bottom")
        name, parameter = (textwrap.fill(text, 18) for text in (distortion.name, distortion.parameter))
        left, middle = -1.35 * step_x, y + height / 2
        axis.text(left, middle, name, fontsize=5.6, weight="bold", va="bottom")
        axis.text(left, middle, parameter, fontsize=5, va="top")
    axis.imshow(page)
    axis.set_xlim(-1.35 * step_x, None)
    axis.axis("off")


def _middle(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return image[height // 4 : height - height // 4, width // 4 : width - width // 4]


# --- experiments: wide enough for one column of a paper (3.4 in) ------------------------------------------

COLUMN = 3.4
PAPER = {"color": COLOURS[7], "marker": "D", "ls": "", "ms": 4, "label": "paper (KonIQ-10k, its protocol)"}


def _one_column(ax: plt.Axes, **legend) -> plt.Axes:
    """Small letters, the legend above."""
    ax.tick_params(labelsize=7.5)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_size(8)
    above = {"loc": "lower center", "bbox_to_anchor": (0.4, 1), "ncols": 2} | legend
    ax.legend(frameon=False, fontsize=6.5, borderpad=0, **above)
    ax.figure.tight_layout()
    return ax


def _interval_dots(
    axis: plt.Axes, table: pd.DataFrame, place: pd.Series | np.ndarray, lying: bool = False, **style
) -> None:
    """Mean test SRCC with its 95 % interval at these places of the other axis; ``lying``: SRCC runs along x."""
    style = {"fmt": "o", "ms": 5, "capsize": 2.5, "color": COLOURS[0]} | style
    span = np.abs(table[["95 % low", "95 % high"]].to_numpy().T - table["SRCC"].to_numpy())
    if lying:
        axis.errorbar(table["SRCC"], place, xerr=span, **style)
    else:
        axis.errorbar(place, table["SRCC"], yerr=span, **style)


def bars_of_variants(
    table: pd.DataFrame, runs: Mapping[str, Sequence] | None = None, ax: plt.Axes | None = None
) -> plt.Axes:
    """Mean SRCC of each variant with its 95 % interval, a dash for every seed, the paper's value.

    Args:
        table: `statistics.compare_scores`.
        runs: the variants' runs, or their SRCC, one a seed.
    """
    ax = ax or plt.subplots(figsize=(COLUMN, 0.34 * len(table) + 1.15))[1]
    place = np.arange(len(table))[::-1]
    _interval_dots(ax, table, place, lying=True, label="mean, 95 % interval")
    for y, label in zip(place, table["variant"], strict=True):
        values = [getattr(run, "srcc", run) for run in (runs or {}).get(label, [])]
        one = "one seed" if y == place[0] else None
        ax.plot(values, np.full(len(values), y - 0.22), "|", ms=6, color=COLOURS[3], label=one)
    if "paper: SRCC" in table and table["paper: SRCC"].notna().any():
        ax.plot(table["paper: SRCC"], place + 0.22, **PAPER)
    ax.set_yticks(place, [textwrap.fill(v, 28) for v in table["variant"]])
    ax.set(xlabel=f"test SRCC, n = {table['n'].iloc[0]}", ylim=(-0.6, len(table) - 0.4))
    return _one_column(ax)


def sizes_curve(table: pd.DataFrame, runs: object = None, ax: plt.Axes | None = None) -> plt.Axes:
    """Test SRCC against the number of parameters; controls are hollow."""
    ax = ax or plt.subplots(figsize=(COLUMN, 2.2 + 0.13 * len(table)))[1]
    for (_, row), colour in zip(table.iterrows(), itertools.cycle(COLOURS[:7])):
        control = row.get("role") == "control"
        label = row["variant"] if control else f"{row['variant']} ({row['backbone'].removeprefix('tf_')})"
        style = {"mfc": "white" if control else colour, "color": colour, "label": label}
        _interval_dots(ax, row.to_frame().T.infer_objects(), [row["parameters (M)"]], **style)
    if "paper: SRCC" in table and table["paper: SRCC"].notna().any():
        ax.plot(table["paper: parameters (M)"], table["paper: SRCC"], **PAPER)
    ax.set(xlabel="parameters (million)", ylabel=f"test SRCC, n = {table['n'].iloc[0]}", xscale="log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.margins(x=0.15)
    return _one_column(ax, loc="lower left", bbox_to_anchor=(0, 1), ncols=1)


def learning_rate_curve(table: pd.DataFrame, runs: object = None, ax: plt.Axes | None = None) -> plt.Axes:
    """Test SRCC against the factor on all learning rates."""
    ax = ax or plt.subplots(figsize=(COLUMN, 2.4))[1]
    _interval_dots(ax, table, table["factor"], fmt="o-", ms=4, label="measured, 95 % interval")
    if "paper: SRCC" in table:
        ax.plot(table["factor"], table["paper: SRCC"], **PAPER)
    ax.set(xscale="log", xlabel="learning rates × factor", ylabel=f"test SRCC, n = {table['n'].iloc[0]}")
    ax.set_xticks(ticks := table["factor"].tolist(), [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    return _one_column(ax)


def cross_dataset_heatmap(table: pd.DataFrame, ax: plt.Axes | None = None) -> plt.Axes:
    """Test SRCC of each method on each dataset; the paper's in brackets where it has one."""
    value = table.pivot(index="variant", columns="dataset", values="SRCC")[table["dataset"].unique()]
    paper = table.pivot(index="variant", columns="dataset", values="paper: SRCC")[value.columns]
    text = value.map(metrics.told) + paper.map(lambda p: "" if np.isnan(p) else f"\n[{p:.3f}]")
    counts = table.drop_duplicates("dataset").set_index("dataset")["n"]
    ax = ax or plt.subplots(figsize=(COLUMN, 0.55 * len(value) + 1.2))[1]
    scale = {"cmap": "cividis", "vmin": 0, "vmax": 1, "cbar_kws": {"label": "test SRCC"}}
    sns.heatmap(value, annot=text, fmt="", annot_kws={"size": 7.5}, ax=ax, **scale)
    ax.set(xlabel="", ylabel="")
    ax.set_xticklabels([f"{d.replace('-', chr(10))}\nn = {counts[d]}" for d in value.columns], rotation=0)
    ax.tick_params(labelsize=7)
    bar = ax.collections[0].colorbar.ax
    bar.tick_params(labelsize=7)
    bar.yaxis.label.set_size(8)
    ax.figure.tight_layout()
    return ax


# --- attention and feature maps ---------------------------------------------------------------------------

STAGES = ["stage 1", "stage 2", "stage 3", "stage 4"]
STAGE_COLOURS = sns.color_palette("viridis", 4)  # dark to light with depth, readable when printed in grey


def attention_examples(images: ImageSet, rows: np.ndarray, test: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Three test images over their stage weights, beside those of the paper's images of like quality.

    ``test`` holds one row for each of ``rows``; ``paper`` is the table ``attention_examples``.
    """
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), height_ratios=[1.5, 1], layout="constrained")
    for (top, bottom), row, seen, theirs in zip(
        axes.T, rows, test.itertuples(), paper.itertuples(), strict=True
    ):
        top.imshow(images.image(row))
        top.axis("off")
        top.set_title(
            f"{theirs.quality} quality: score {seen.score:.0f}, predicted {seen.prediction:.0f}", fontsize=10
        )
        ours = [getattr(seen, alpha) for alpha in explain.ALPHAS]
        published = [theirs.stage1, theirs.stage2, theirs.stage3, theirs.stage4]
        place = np.arange(4)
        bottom.bar(place - 0.2, ours, 0.4, color=COLOURS[0], label="this run")
        bottom.bar(place + 0.2, published, 0.4, color="0.85", hatch="//", ec="0.4", lw=0.5, label="paper")
        for x, value in [*zip(place - 0.2, ours, strict=True), *zip(place + 0.2, published, strict=True)]:
            bottom.text(x, value + 0.02, f"{value:.2f}", ha="center", fontsize=7.5)
        bottom.set(ylim=(0, 1.15), xticks=place, xticklabels=STAGES)
    axes[1, 0].set_ylabel("weight (sum 1)")
    axes[1, 0].legend(frameon=False, fontsize=8)
    return figure


def attention_against_score(
    test: pd.DataFrame, control: pd.DataFrame, tenth: pd.Series, label: str
) -> Figure:
    """Entropy and each weight of every test image, with the mean of each tenth; an untrained attention in grey.

    Bars are 95 % intervals over the images of a tenth.
    """
    figure, axes = plt.subplots(1, 5, figsize=(13, 3), sharex=True, layout="constrained")
    columns = ["entropy", *explain.ALPHAS]
    data, untrained = (t.assign(entropy=explain.entropy(t)) for t in (test, control))
    for axis, column, title in zip(axes, columns, ["entropy", *STAGES], strict=True):
        colour = COLOURS[0]
        axis.scatter(data["score"], data[column], s=7, color=colour, alpha=0.3, lw=0, label="test image")
        for table, style in ((untrained, {"color": "0.5", "ls": "--"}), (data, {"color": colour, "lw": 2})):
            means = table.groupby(tenth)[["score", column]].agg(["mean", "sem"])
            axis.errorbar(
                means["score", "mean"], means[column, "mean"], 1.96 * means[column, "sem"], capsize=2, **style,
                label="untrained attention" if table is untrained else "mean of a tenth",
            )  # fmt: skip
        axis.set(title=title, ylim=(-0.05, 2.1 if column == "entropy" else 1.05), xlim=(-2, 102))
    axes[0].set_ylabel("entropy of the weights (bits)")
    axes[1].set_ylabel("weight (the four sum to 1)")
    axes[2].set_xlabel(f"{label}, 0–100; n = {len(test)} test images")
    axes[-1].legend(frameon=False, fontsize=7.5)
    return figure


def attention_by_group(by_tenth: pd.DataFrame, by_kind: pd.DataFrame | None) -> Figure:
    """Mean stage weights of each tenth of the scores and, where known, under each kind of fault.

    The tables are those of `tables.attention_by`.
    """
    tables = [by_tenth] if by_kind is None else [by_tenth, by_kind.sort_values("score")]
    figure, axes = plt.subplots(
        1, len(tables), figsize=(6 * len(tables), 3.8), squeeze=False, layout="constrained"
    )
    for axis, table in zip(axes[0], tables, strict=True):
        group, share = table.columns[0], table.columns[-1]
        names = [f"{name}  (n = {n})" for name, n in zip(table[group], table["n"], strict=True)]
        left = np.zeros(len(table))
        for column, stage, colour in zip(explain.ALPHAS, STAGES, STAGE_COLOURS, strict=True):
            axis.barh(names, table[column], left=left, color=colour, label=stage, ec="white", lw=0.5)
            left += table[column].to_numpy()
        for place, value in enumerate(table[share]):
            axis.text(1.02, place, f"{value:.0%}", va="center", fontsize=8)
        axis.text(1.02, len(table) - 0.2, share.replace(" on one", "\non one"), fontsize=7.5)
        axis.set(xlim=(0, 1), xlabel="mean stage weight", ylabel=f"{group} (low scores at the bottom)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside lower center", fontsize=8)
    return figure


def scores_with_other_weights(table: pd.DataFrame) -> Figure:
    """What SRCC loses when the learned weights are replaced: paired differences with 95 % intervals."""
    learned, others = table.iloc[0], table.iloc[1:]
    figure, axis = plt.subplots(figsize=(8, 0.36 * len(others) + 1.3), layout="constrained")
    value, place = others["difference of SRCC"], np.arange(len(others))
    reach = [value - others["95 % low"], others["95 % high"] - value]
    axis.errorbar(value, place, xerr=reach, fmt="o", color=COLOURS[0], capsize=3)
    axis.axvline(0, color="0.5", lw=1, ls="--")
    axis.set_yticks(
        place,
        [f"{w}: SRCC {metrics.told(s)}" for w, s in zip(others["weights"], others["SRCC"], strict=True)],
    )
    axis.invert_yaxis()
    axis.set(
        xlabel="SRCC less that with the learned weights",
        # An interval may reach further than a difference can: it then runs out of the frame.
        xlim=(min(value.min(), -0.1) - 0.2, max(value.max(), 0.1) + 0.2),
        title=f"other weights than the learned ones (SRCC {metrics.told(learned['SRCC'])}); "
        f"n = {learned['n']}, seeds: {learned['seeds']}",
    )
    return figure


def feature_maps(shown: list[tuple[np.ndarray, explain.Examination]], titles: list[str]) -> Figure:
    """Images, a row each, with the activation maps of the four stages; a stage has one scale for all rows."""
    figure, axes = plt.subplots(
        len(shown), 5, figsize=(13, 2.25 * len(shown) + 0.6), squeeze=False, layout="constrained"
    )
    _draw_maps(figure, axes, shown)
    for row, title in zip(axes, titles, strict=True):
        for axis, text in zip(row, [title, *STAGES], strict=True):
            axis.set_title(text, fontsize=9)
    return figure


def maps_under_distortion(shown: list[tuple[np.ndarray, explain.Examination]], name: str) -> Figure:
    """A photograph and its activation maps, a column for each level; a stage has one scale for all levels."""
    figure, axes = plt.subplots(5, len(shown), figsize=(2.1 * len(shown) + 0.8, 8.2), layout="constrained")
    _draw_maps(figure, axes.T, shown, below=False)
    for level, (axis, (_, seen)) in enumerate(zip(axes[0], shown, strict=True)):
        what = f"{name}, level {level}" if level else "original"
        axis.set_title(f"{what}\npredicted {seen.score:.0f}", fontsize=8.5)
    return figure


def _draw_maps(figure: Figure, axes: np.ndarray, shown: list, below: bool = True) -> None:
    """``axes`` (images, 5): the image and its maps, with a colour bar for each stage."""
    for row, (image, _) in zip(axes, shown, strict=True):
        row[0].imshow(image)
        for axis in row:
            axis.axis("off")
    where = {"location": "bottom", "aspect": 30} if below else {"location": "right", "aspect": 12}
    for column in range(5):
        # The images get a bar as well, an unseen one: it keeps them as large as their maps.
        maps = [image[..., 0] if column == 0 else seen.activation_SHW[column - 1] for image, seen in shown]
        scale = {"vmin": min(m.min() for m in maps), "vmax": np.quantile(np.concatenate(maps, None), 0.995)}
        drawn = ScalarMappable(Normalize(**scale), "viridis")
        bar = figure.colorbar(drawn, ax=list(axes[:, column]), shrink=0.85, pad=0.01, extend="max", **where)
        bar.set_label(f"{STAGES[column - 1]}: mean |activation|" if column else " ", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        for axis, activation in zip(axes[:, column], maps, strict=True):
            if column:
                axis.imshow(activation, cmap="viridis", **scale)
        if column == 0:
            bar.ax.set(xticks=[], yticks=[])
            for artist in bar.ax.get_children():
                artist.set_visible(False)


def stage_statistics(table: pd.DataFrame, label: str) -> Figure:
    """Each image's mean activation and its unevenness over places, against the score, for the four stages."""
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.8), sharex=True, layout="constrained")
    for line, quantity in zip(axes, ("activation", "unevenness"), strict=True):
        for axis, (stage, part), colour in zip(line, table.groupby("stage"), STAGE_COLOURS, strict=True):
            axis.scatter(part["score"], part[quantity], s=12, color=colour, ec="0.3", lw=0.3)
            axis.set_title(
                f"stage {stage}, SRCC {metrics.srcc(part[quantity], part['score']):+.2f}", fontsize=9
            )
            axis.set_xlim(-2, 102)
    axes[0, 0].set_ylabel("mean |activation|")
    axes[1, 0].set_ylabel("SD over places / mean")
    figure.supxlabel(f"{label}, 0–100; n = {table['row'].nunique()} test images", fontsize=9)
    return figure


def activation_by_level(table: pd.DataFrame) -> Figure:
    """How each stage's mean activation moves as a distortion grows, in % of the original photograph's."""
    kinds = table["distortion"].unique()
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3.4 * len(kinds), 3), sharey=True, layout="constrained"
    )
    for axis, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        for (stage, part), colour, marker in zip(
            table[table["distortion"] == kind].groupby("stage"), STAGE_COLOURS, "osD^", strict=True
        ):
            original = part.loc[part["level"] == 0, "activation"].item()
            change = 100 * part["activation"] / original
            axis.plot(part["level"], change, marker=marker, color=colour, label=f"stage {stage}")
        axis.axhline(100, color="0.6", lw=0.8, ls="--")
        axis.set(title=kind, xlabel="level (0: original)")
    np.atleast_1d(axes)[0].set_ylabel("mean |activation| (% of original)")
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize=8)
    return figure


def local_maps(image: np.ndarray, quality: np.ndarray, added: np.ndarray, title: str) -> Figure:
    """An image, its local quality, and what each part adds to its score."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    reach = np.abs(added).max()
    axes[0].imshow(image)
    axes[0].set_title(title)
    for axis, layer, options, name, unit in (
        (axes[1], quality, {"cmap": "viridis"}, "local quality", "score of small crops (0–100)"),
        (axes[2], added, {"cmap": "PuOr_r", "vmin": -reach, "vmax": reach}, "what a part adds", "points lost when blurred"),
    ):  # fmt: skip
        _lay_over(axis, image, layer, name, unit, **options)
    for axis in axes:
        axis.axis("off")
    return figure


def quality_beside(image: np.ndarray, quality: np.ndarray, title: str) -> Figure:
    """An image and its local quality, on the whole scale, so that maps of several images compare."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    axes[0].imshow(image)
    axes[0].set_title(title)
    _lay_over(
        axes[1], image, quality, "local quality", "score of small crops", cmap="viridis", vmin=0, vmax=100
    )
    for axis in axes:
        axis.axis("off")
    return figure


def _lay_over(axis, image: np.ndarray, layer: np.ndarray, name: str, unit: str, **options) -> None:
    axis.imshow(image.mean(axis=2), cmap="gray")
    drawn = axis.imshow(layer, alpha=0.7, **options)
    axis.set_title(name)
    axis.figure.colorbar(drawn, ax=axis, label=unit, shrink=0.8)


def accuracy_and_cost(table: pd.DataFrame) -> Figure:
    """Test SRCC with its interval against arithmetic and against latency, a point per model."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    markers = itertools.cycle("osD^vP")
    for (number, row), marker in zip(table.reset_index(drop=True).iterrows(), markers, strict=False):
        error = [[row["SRCC"] - row["95 % low"]], [row["95 % high"] - row["SRCC"]]]
        for axis, cost in zip(axes, ("GMAC", "latency (ms)"), strict=True):
            axis.errorbar(
                row[cost],
                row["SRCC"],
                error,
                marker=marker,
                color=COLOURS[number],
                capsize=3,
                label=row["model"],
            )
    n = f", n = {table['n'].iloc[0]}" if len(table) else ": no stored run yet"
    axes[0].set(xlabel="multiply–accumulates of a crop (10⁹)", ylabel=f"test SRCC{n}")
    axes[1].set(xlabel="median latency of a crop (ms), float32")
    for axis in axes:
        axis.set_xlim(0, None)
    if len(table):
        axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def latencies(table: pd.DataFrame) -> Figure:
    """Median time of one crop with its quartiles, per model and way to run it."""
    models, ways = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["precision"]))
    figure, axis = plt.subplots(figsize=(8, 0.22 * len(models) * len(ways) + 1.2))
    height = 0.8 / len(ways)
    for number, way in enumerate(ways):
        rows = table[table["precision"] == way].set_index("model").reindex(models)
        y = np.arange(len(models)) + (number - (len(ways) - 1) / 2) * height
        spread = [rows["latency (ms)"] - rows["25 %"], rows["75 %"] - rows["latency (ms)"]]
        bars = axis.barh(
            y, rows["latency (ms)"], height, xerr=spread, color=COLOURS[number], label=way, ecolor="0.2"
        )
        # emulated bf16 is so slow that the others' bars can hardly be read beside it
        axis.bar_label(bars, [_milliseconds(t) for t in rows["latency (ms)"]], padding=3, fontsize=7)
    backbones = table.drop_duplicates("model")["backbone"].str.removeprefix("tf_").str.split(".").str[0]
    axis.set_yticks(range(len(models)), [f"{m}\n{b}" for m, b in zip(models, backbones, strict=True)])
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set(xlabel="time of one crop (ms): median, quartiles")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _milliseconds(time: float) -> str:
    """To three digits; nothing where a model was not run that way."""
    return "" if np.isnan(time) else f"{time:.0f}" if time >= 100 else f"{time:.3g}"


def growth(table: pd.DataFrame) -> Figure:
    """Seconds of a training epoch over the number of images, and over crops per image; dashed: linear."""
    kinds = list(dict.fromkeys(table["what grows"]))
    figure, axes = plt.subplots(1, len(kinds), figsize=(8, 3))
    for axis, kind in zip(axes, kinds, strict=True):
        rows = table[table["what grows"] == kind]
        column = "images" if kind == "images" else "crops per image"
        axis.plot(rows[column], rows["seconds"], marker="o", color=COLOURS[0], label="measured")
        largest = rows.iloc[-1]
        axis.plot(
            [0, largest[column]], [0, largest["seconds"]], ls="--", lw=1, color="0.5", label="in proportion"
        )
        fixed = (
            f"{rows['crops per image'].iloc[0]} crop per image"
            if kind == "images"
            else f"{rows['images'].iloc[0]} images"
        )
        axis.set(xlabel=f"{kind} ({fixed})", ylabel="seconds an epoch", xlim=(0, None), ylim=(0, None))
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def batch_sizes(table: pd.DataFrame) -> Figure:
    """Peak memory and crops per second against the batch size, for scoring and training."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.2), sharex=True)
    for column, work in enumerate(dict.fromkeys(table["work"])):
        for number, (model, rows) in enumerate(table[table["work"] == work].groupby("model", sort=False)):
            for row, what in enumerate(("memory (GB)", "crops/s")):
                axes[row, column].plot(
                    rows["batch"], rows[what], marker="o", ms=4, color=COLOURS[number], label=model
                )
                axes[row, column].set(ylabel=what, ylim=(0, None))
        axes[0, column].set_title(work)
        axes[1, column].set_xlabel("crops in a batch")
        axes[1, column].set_xscale("log", base=2)
    axes[1, 1].xaxis.set_major_formatter("{x:.0f}")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure
