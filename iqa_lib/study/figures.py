"""Figures of data, training, experiments and costs; colours are safe for the colour-blind.

What fills one panel takes the Axes to draw on (``ax``), or makes a figure of its own, and returns the Axes; a grid
of panels returns its Figure. `figures_inside` draws stage weights and maps.
"""

import itertools
import logging
import textwrap
import warnings
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iqa_lib import metrics
from iqa_lib.data.distortions import DISTORTIONS, distort
from iqa_lib.data.images import ImageSet
from iqa_lib.progress import shown

# Fonts that systems and their packages have for scripts which DejaVu lacks: where one is installed, names are legible.
OTHER_SCRIPTS = {"Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Unifont"}
OTHER_SCRIPTS |= {"Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Lohit Devanagari"}
OTHER_SCRIPTS |= {"Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "Leelawadee UI", "Arial Unicode MS"}
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # says which of them have no such weight
warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")  # one a letter, of a name that tables hold in full
COLOURS = sns.color_palette("colorblind")
SPLIT_COLOURS = {"train": COLOURS[0], "val": COLOURS[1], "test": COLOURS[2]}
sns.set_theme(
    style="ticks",
    palette="colorblind",
    font_scale=0.9,
    rc={"font.family": ["sans-serif", "DejaVu Sans", *sorted(OTHER_SCRIPTS & set(font_manager.get_font_names()))]}
    | {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9, "pdf.fonttype": 42}
    | {"legend.frameon": False, "legend.fontsize": 8},
)


def axes_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """The caller's Axes, or those of a new figure of this size in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def named(title: str, ax: Axes, **style: float | str) -> None:
    """A title that may hold a file's name: no letter of it is a command, a dollar is a dollar."""
    ax.set_title(shown(title), parse_math=False, **style)


def panels(number: int, columns: int, width: float, height: float, **options) -> tuple[Figure, np.ndarray]:
    """A new figure and its Axes in reading order, each of this size in inches."""
    lines = -(-number // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns, height * lines), layout="constrained", squeeze=False, **options
    )
    for axis in axes.flat[number:]:
        axis.axis("off")
    return figure, axes.ravel()[:number]


# --- data and training ------------------------------------------------------------------------------------


def gallery(images: ImageSet, rows: np.ndarray, titles: list[str], columns: int = 6) -> Figure:
    """Images in reading order, each under its title."""
    return _titled([(images.image(row), title) for row, title in zip(rows, titles, strict=True)], columns, 2.1, 1.95)


def galleries(sets: dict[str, ImageSet], columns: int = 8) -> Figure:
    """A row per dataset: test images from its lowest to its highest score."""
    shown = []
    for images in sets.values():
        rows = images.rows("test")
        rows = rows[np.argsort(images.scores(rows), kind="stable")]
        rows = rows[np.linspace(0, len(rows) - 1, columns).round().astype(int)]
        shown += [(images.image(row), f"{score:.0f}") for row, score in zip(rows, images.scores(rows), strict=True)]
    figure = _titled(shown, columns, 1.6, 1.45)
    for axis, name in zip(figure.axes[::columns], sets, strict=True):
        axis.set_ylabel(name, fontsize=8.5)
    return figure


def _titled(shown: list[tuple[np.ndarray, str]], columns: int, width: float, height: float) -> Figure:
    figure, axes = panels(len(shown), columns, width, height)
    for axis, (image, title) in zip(axes, shown, strict=True):
        axis.imshow(image)
        axis.set_title(title, fontsize=7.5, pad=2)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def score_histograms(sets: dict[str, ImageSet]) -> Figure:
    """How the scores of each dataset are spread, its splits laid over each other as outlines."""
    figure, axes = panels(len(sets), min(2, len(sets)), 4, 2.3, sharex=True)
    for axis, (name, images) in zip(axes, sets.items(), strict=True):
        for split, part in images.table.groupby("split", sort=False):
            style = {"histtype": "step", "lw": 1.5, "color": SPLIT_COLOURS[split]}
            label = f"{split}, n = {len(part)}"
            axis.hist(part["score"], np.arange(0, 101, 5), density=True, label=label, **style)
        axis.set(title=name, xlabel="score (0–100, higher is better)", ylabel="share of images per point")
        axis.yaxis.label.set_size(8)
        axis.legend(fontsize=7, loc="upper left")
    return figure


def rating_noise(sets: dict[str, ImageSet]) -> Figure:
    """How much people disagree about an image: the deviation of its ratings against their mean."""
    noisy = {name: images.table for name, images in sets.items() if "std" in images.table}
    figure, axes = panels(len(noisy), len(noisy), 4, 2.8)
    for axis, (name, table) in zip(axes, noisy.items(), strict=True):
        median = table["std"].median()
        axis.scatter(table["score"], table["std"], s=6, alpha=0.35, lw=0, color=COLOURS[0])
        axis.axhline(median, color=COLOURS[3], lw=1.2)
        axis.set(xlabel="MOS (0–100)", ylabel="SD of the ratings (points)", ylim=(0, None))
        axis.set_title(f"{name}, n = {len(table)}, median {median:.1f}")
    return figure


def raters_curve(agreement: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """SRCC of the mean of k raters with the others'; dashed: the limit of a perfect model with the whole panel."""
    ax = axes_or_new(ax, 4.6, 3)
    for (name, part), colour in zip(agreement.groupby("dataset", sort=False), COLOURS, strict=False):
        limits = part["whose"] == "limit of a perfect model"
        ax.plot(part["raters"][~limits], part["SRCC"][~limits], marker="o", ms=4, color=colour, label=name)
        ax.axhline(part["SRCC"][limits].item(), color=colour, ls="--", lw=1)
    ax.set(xscale="log", xlabel="raters whose mean is taken", ylabel="SRCC with the other raters")
    ax.set_xticks(ticks := sorted(set(agreement["raters"])), ticks)
    ax.minorticks_off()
    ax.legend(fontsize="medium")
    return ax


def rating_curve(table: pd.DataFrame, forecast: pd.DataFrame, ceiling: float, ax: Axes | None = None) -> Axes:
    """SRCC against the number of ratings learnt from, what more would bring, and what the ratings' noise allows."""
    ax = axes_or_new(ax, 5, 3.2)
    default, learnt = table.iloc[0], table.iloc[1:]
    ax.fill_between(
        forecast["ratings"], forecast["95 % low"], forecast["95 % high"], color=COLOURS[0], alpha=0.15, lw=0
    )
    ax.plot(forecast["ratings"], forecast["SRCC"], color=COLOURS[0], ls=":", label="power law")
    interval_dots(ax, learnt, learnt["ratings"], ms=4, capsize=2, label="learnt, tested on others")
    ax.axhline(default["SRCC"], color=COLOURS[7], ls="--", label="default model")
    if ceiling < 1:
        ax.axhline(ceiling, color=COLOURS[3], lw=1, label="ceiling of these ratings")
    first, last = learnt["ratings"].iloc[0], forecast["ratings"].iloc[-1]
    ax.set(xscale="log", xlabel="rated photographs", ylabel="SRCC", xlim=(first * 0.9, last * 1.1))
    known = np.outer(10.0 ** np.arange(5), [1, 2, 5]).ravel()
    ax.set_xticks(known[(known >= first) & (known <= last)])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return ax


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
    figure, (left, right) = panels(2, 2, 4, 2.8)
    split, named = ("val", "validation") if "val_srcc" in epochs else ("test", "test")
    left.plot(epochs["epoch"], epochs["train_loss"], marker="o", ms=3, color=COLOURS[0])
    left.set(xlabel="epoch", ylabel="training loss (points of 100)", ylim=(0, None))
    right.plot(epochs["epoch"], epochs[f"{split}_srcc"], marker="o", ms=3, color=SPLIT_COLOURS[split])
    right.axvline(best_epoch, color="0.4", ls=":", label=f"kept: epoch {best_epoch}")
    right.set(xlabel="epoch", ylabel=f"{named} SRCC, which chooses")
    right.legend(fontsize="medium")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def predicted_against_true(test: pd.DataFrame, score_label: str, ax: Axes | None = None) -> Axes:
    """Predictions of the test images against their scores; the 10 % with the largest errors are marked."""
    ax = _mark_worst(test, test["prediction"], score_label, ax)
    ax.axline((0, 0), slope=1, color="0.5", lw=1, ls="--", label="prediction = score")
    srcc = metrics.in_words(metrics.srcc(test["prediction"], test["score"]))
    ax.set(ylabel="predicted score", title=f"n = {len(test)}, SRCC {srcc}")
    ax.legend(fontsize=7.5)
    return ax


def residuals(test: pd.DataFrame, score_label: str, ax: Axes | None = None) -> Axes:
    """Errors of the test images against their scores; the largest 10 % are marked."""
    ax = _mark_worst(test, test["prediction"] - test["score"], score_label, ax)
    ax.axhline(0, color="0.5", lw=1, ls="--")
    rmse = metrics.rmse(test["prediction"], test["score"])
    ax.set(ylabel="prediction − score (points)", title=f"RMSE {rmse:.1f} points")
    return ax


def _mark_worst(test: pd.DataFrame, y: pd.Series, score_label: str, ax: Axes | None) -> Axes:
    ax = axes_or_new(ax, 4, 3.4)
    error = (test["prediction"] - test["score"]).abs()
    worst, score = error >= error.quantile(0.9), test["score"]
    ax.scatter(score[~worst], y[~worst], s=12, color=COLOURS[0], alpha=0.7, lw=0, label="test image")
    ax.scatter(score[worst], y[worst], s=22, color=COLOURS[3], marker="^", lw=0, label="worst 10 %")
    ax.set_xlabel(score_label)
    return ax


def error_by_group(test: pd.DataFrame, group: str, ax: Axes | None = None, most: int = 30) -> Axes:
    """Distribution of the error in each group of several images, or the ``most`` largest; the widest spread first."""
    sizes = test[group].value_counts()
    largest = sizes[sizes > 1].index[:most]
    data = test.assign(error=test["prediction"] - test["score"])[test[group].isin(largest)]
    order = data.groupby(group)["error"].std().sort_values(ascending=False).index
    ax = axes_or_new(ax, 8, 0.32 * len(order) + 1.2)
    sns.boxplot(data, x="error", y=group, order=order, color=COLOURS[0], width=0.6, fliersize=2, ax=ax)
    ax.axvline(0, color="0.5", lw=1, ls="--")
    counts = data[group].value_counts()
    ax.set_yticks(range(len(order)), [shown(f"{name} (n = {counts[name]})") for name in order], parse_math=False)
    ax.set(xlabel="prediction − score (points)", ylabel="")
    return ax


def distortion_gallery(photograph: np.ndarray) -> Figure:
    """The 25 distortions of KADID-10k at their five levels: a row each, the parameter over each image.

    ``photograph`` is uint8, H x W x 3; its middle part is shown, large enough to see noise and blocks.
    """
    table = list(DISTORTIONS.values())
    middle = tuple(slice(side // 4, side - side // 4) for side in photograph.shape[:2])
    height, width = photograph[middle].shape[:2]
    step_y, step_x = height + height // 4, width + width // 40  # room for a line of text
    left = -1.35 * step_x  # of names and parameters
    figure, axes = panels(2, 2, 4.3, 7.3)
    for axis, part in zip(axes, (table[:13], table[13:]), strict=True):
        # One picture of all, for an axis each would take ten times as long to draw.
        page = np.full((step_y * 13, step_x * 5, 3), 255, np.uint8)
        for row, distortion in enumerate(part):
            y = row * step_y + step_y - height
            for column, strength in enumerate(distortion.levels):
                x, level = column * step_x, column + 1
                page[y : y + height, x : x + width] = distort(photograph, distortion.name, level)[middle]
                text = f"level {level}: {strength:g}" if row == 0 else f"{strength:g}"
                axis.text(x + width / 2, y, text, fontsize=5, ha="center", va="bottom")
            name, parameter = (textwrap.fill(text, 18) for text in (distortion.name, distortion.parameter))
            axis.text(left, y + height / 2, name, fontsize=5.6, weight="bold", va="bottom")
            axis.text(left, y + height / 2, parameter, fontsize=5, va="top")
        axis.imshow(page)
        axis.set_xlim(left, None)
        axis.axis("off")
    return figure


# --- experiments: wide enough for one column of a paper (3.4 in) ------------------------------------------

COLUMN = 3.4
PAPER = {"color": COLOURS[7], "marker": "D", "ls": "", "ms": 4, "label": "paper (KonIQ-10k, its protocol)"}


def _one_column(ax: Axes, **legend) -> Axes:
    """Small letters, the legend above."""
    ax.tick_params(labelsize=7.5)
    ax.xaxis.label.set_size(8)
    ax.yaxis.label.set_size(8)
    above = {"loc": "lower center", "bbox_to_anchor": (0.4, 1), "ncols": 2} | legend
    ax.legend(fontsize=6.5, borderpad=0, **above)
    return ax


def interval_dots(
    ax: Axes, table: pd.DataFrame | pd.Series, place: Sequence, value: str = "SRCC", lying: bool = False, **style
) -> None:
    """Values of a table (or a row) with 95 % intervals, at places of the other axis; ``lying``: values run along x."""
    style = {"fmt": "o", "ms": 5, "capsize": 2.5, "color": COLOURS[0]} | style
    values, low, high = (np.atleast_1d(table[column]) for column in (value, "95 % low", "95 % high"))
    reach = np.abs([low - values, high - values])
    if lying:
        ax.errorbar(values, place, xerr=reach, **style)
    else:
        ax.errorbar(place, values, yerr=reach, **style)


def bars_of_variants(table: pd.DataFrame, runs: Mapping[str, Sequence] | None = None, ax: Axes | None = None) -> Axes:
    """Mean SRCC of each variant (`statistics.compare_scores`) with its 95 % interval, and the paper's value.

    ``runs``: the variants' runs, or their SRCC, one a seed: a dash each.
    """
    ax = axes_or_new(ax, COLUMN, 0.34 * len(table) + 1.15)
    place = np.arange(len(table))[::-1]
    interval_dots(ax, table, place, lying=True, label="mean, 95 % interval")
    for y, label in zip(place, table["variant"], strict=True):
        values = [getattr(run, "srcc", run) for run in (runs or {}).get(label, [])]
        one = "one seed" if y == place[0] else None
        ax.plot(values, np.full(len(values), y - 0.22), "|", ms=6, color=COLOURS[3], label=one)
    if "paper: SRCC" in table and table["paper: SRCC"].notna().any():
        ax.plot(table["paper: SRCC"], place + 0.22, **PAPER)
    ax.set_yticks(place, [textwrap.fill(v.replace(" = ", "\u00a0=\u00a0"), 22) for v in table["variant"]])
    ax.set(xlabel=f"test SRCC, n = {table['n'].iloc[0]}", ylim=(-0.6, len(table) - 0.4))
    ax.margins(x=0.08)
    return _one_column(ax, loc="lower right", bbox_to_anchor=(1, 1))  # above the names, not beside the axes


def sizes_curve(table: pd.DataFrame, runs: object = None, ax: Axes | None = None) -> Axes:
    """Test SRCC against the number of parameters; controls are hollow."""
    ax = axes_or_new(ax, COLUMN, 2.2 + 0.13 * len(table))
    for (_, row), colour in zip(table.iterrows(), itertools.cycle(COLOURS[:7])):
        control = row.get("role") == "control"
        label = row["variant"] if control else f"{row['variant']} ({row['backbone'].removeprefix('tf_')})"
        filled = "white" if control else colour
        interval_dots(ax, row, row["parameters (M)"], mfc=filled, color=colour, label=label)
    if "paper: SRCC" in table and table["paper: SRCC"].notna().any():
        ax.plot(table["paper: parameters (M)"], table["paper: SRCC"], **PAPER)
    ax.set(xlabel="parameters (million)", ylabel=f"test SRCC, n = {table['n'].iloc[0]}", xscale="log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.margins(x=0.15)
    return _one_column(ax, loc="lower left", bbox_to_anchor=(0, 1), ncols=1)


def learning_rate_curve(table: pd.DataFrame, runs: object = None, ax: Axes | None = None) -> Axes:
    """Test SRCC against the factor on all learning rates."""
    ax = axes_or_new(ax, COLUMN, 2.4)
    interval_dots(ax, table, table["factor"], fmt="o-", ms=4, label="measured, 95 % interval")
    if "paper: SRCC" in table:
        ax.plot(table["factor"], table["paper: SRCC"], **PAPER)
    ax.set(xscale="log", xlabel="learning rates × factor", ylabel=f"test SRCC, n = {table['n'].iloc[0]}")
    ax.set_xticks(ticks := table["factor"].tolist(), [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    return _one_column(ax)


def cross_dataset_heatmap(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Test SRCC of each method on each dataset; the paper's in brackets where it has one."""
    value = table.pivot(index="variant", columns="dataset", values="SRCC")[table["dataset"].unique()]
    paper = table.pivot(index="variant", columns="dataset", values="paper: SRCC")[value.columns]
    text = value.map(metrics.in_words) + paper.map(lambda p: "" if np.isnan(p) else f"\n[{p:.3f}]")
    counts = table.drop_duplicates("dataset").set_index("dataset")["n"]
    ax = axes_or_new(ax, COLUMN, 0.55 * len(value) + 1.2)
    sns.heatmap(value, annot=text, fmt="", annot_kws={"size": 7.5}, cmap="cividis", vmin=0, vmax=1, ax=ax)
    ax.set(xlabel="", ylabel="")
    ax.set_xticklabels([f"{d.replace('-', chr(10))}\nn = {counts[d]}" for d in value.columns], rotation=0)
    bar = ax.collections[0].colorbar.ax
    bar.set_ylabel("test SRCC", fontsize=8)
    for axis in (ax, bar):
        axis.tick_params(labelsize=7)
    return ax


# --- costs ------------------------------------------------------------------------------------------------


def accuracy_against(table: pd.DataFrame, cost: str, ax: Axes | None = None) -> Axes:
    """Test SRCC with its interval against one of the table's costs, a point per model."""
    ax = axes_or_new(ax, 4.5, 3.2)
    for (_, row), colour, marker in zip(table.iterrows(), COLOURS, itertools.cycle("osD^vP"), strict=False):
        interval_dots(ax, row, row[cost], fmt=marker, ms=6, capsize=3, color=colour, label=row["model"])
    n = f", n = {table['n'].iloc[0]}" if len(table) else ": no stored run yet"
    ax.set(xlabel=f"{cost} of a crop", ylabel=f"test SRCC{n}", xlim=(0, None))
    return ax


def latencies(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Median time of one crop with its quartiles, per model and way to run it."""
    models, ways = table["model"].unique(), table["precision"].unique()
    ax, height = axes_or_new(ax, 8, 0.22 * len(models) * len(ways) + 1.2), 0.8 / len(ways)
    for number, way in enumerate(ways):
        rows = table[table["precision"] == way].set_index("model").reindex(models)
        y = np.arange(len(models)) + (number - (len(ways) - 1) / 2) * height
        median = rows["latency (ms)"]
        span = [median - rows["25 %"], rows["75 %"] - median]
        bars = ax.barh(y, median, height, xerr=span, ecolor="0.2", color=COLOURS[number], label=way)
        # Emulated bf16 is so slow that the others' bars can hardly be read beside it.
        ax.bar_label(bars, [f"{t:.3g}" if t < 100 else f"{t:.0f}" for t in median], padding=3, fontsize=7)
    backbones = table.drop_duplicates("model")["backbone"].str.removeprefix("tf_").str.split(".").str[0]
    ax.set_yticks(range(len(models)), [f"{m}\n{b}" for m, b in zip(models, backbones, strict=True)])
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set(xlabel="time of one crop (ms): median, quartiles")
    ax.legend()
    return ax


def growth(table: pd.DataFrame, kind: str, ax: Axes | None = None) -> Axes:
    """Seconds of a training epoch as images or crops per image (``kind``) grow; dashed: in proportion."""
    ax, rows = axes_or_new(ax, 4, 3), table[table["what grows"] == kind]
    other = {"images": "crops per image", "crops per image": "images"}[kind]
    ax.plot(rows[kind], rows["seconds"], marker="o", color=COLOURS[0], label="measured")
    largest = rows.iloc[-1]
    ax.plot([0, largest[kind]], [0, largest["seconds"]], ls="--", lw=1, color="0.5", label="in proportion")
    ax.set(xlabel=f"{kind} ({other}: {rows[other].iloc[0]})", ylabel="seconds an epoch")
    ax.set(xlim=(0, None), ylim=(0, None))
    ax.legend()
    return ax


def batch_sizes(table: pd.DataFrame) -> Figure:
    """Peak memory and crops per second against the batch size, for scoring and training."""
    long = table.melt(["model", "work", "batch"], ["memory (GB)", "crops/s"], "what")
    grid = sns.relplot(
        long, x="batch", y="value", hue="model", row="what", col="work", kind="line", marker="o", height=2.6,
        aspect=1.5, facet_kws={"sharey": False, "legend_out": False, "margin_titles": True},
    )  # fmt: skip
    grid.set_titles(col_template="{col_name}", row_template="{row_name}")
    grid.set_axis_labels("crops in a batch", "").set(ylim=(0, None)).set(xscale="log")
    ticks = sorted(table["batch"].unique())
    grid.set(xticks=ticks, xticklabels=ticks).tick_params(which="minor", bottom=False)
    return grid.figure
