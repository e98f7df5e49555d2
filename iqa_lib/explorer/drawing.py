"""What the explorer shows, drawn: PNG bytes for pictures, HTML and SVG for words and numbers, a figure and a sheet.

Nothing here knows widgets or models. All text is escaped; scores are 0–100, higher better.

Shape suffixes: C channels, H height, W width, S stages (4).
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.explorer.request import Mark, Request
from iqa_lib.models.backbones import STRIDES
from iqa_lib.progress import templates
from iqa_lib.study.figures import named
from iqa_lib.study.figures_inside import STAGE_COLOURS

PHOTO = (440, 330)  # px: width, height of the photograph and of the overlay
CELL, GAP = (116, 87), 6  # px: one of the four activation maps, and what lies between them
STRIP = (4 * CELL[0] + 3 * GAP, CELL[1])
READY, BUSY, TROUBLE = "●", "◌", "▲"
VIRIDIS = matplotlib.colormaps["viridis"]
GRADIENT = f"linear-gradient(90deg,{','.join(to_hex(VIRIDIS(i / 16)) for i in range(17))})"  # of CSS
QUIET = "#8c8c8c"  # axes and histogram, on a light page and on a dark one


# --- pictures -----------------------------------------------------------------------------------------------


def shrink(map_HW: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """The map at the size in which `photo` would show its image in this box: float32."""
    image = Image.fromarray(map_HW.astype(np.float32))
    return np.asarray(ImageOps.contain(image, box, Image.Resampling.BILINEAR))


def photo(image_HWC: np.ndarray) -> bytes:
    """PNG of the box ``PHOTO``: the whole image, what it leaves of the box transparent."""
    return _png(_letterbox(image_HWC, PHOTO))


def overlay(image_HWC: np.ndarray, map_HW: np.ndarray, opacity: float, span: tuple[float, float]) -> bytes:
    """PNG of the box ``PHOTO``: the map in colour over the image in grey, so that no colour comes from it.

    ``map_HW`` is of `shrink`'s size; opacity 0 shows the image alone, 1 the map alone.
    """
    mixed = (1 - opacity) * _grey(image_HWC)[..., None] + opacity * _coloured(map_HW, span)
    return _png(_letterbox(np.rint(mixed).astype(np.uint8), PHOTO))


def activation_maps(activation_SHW: np.ndarray) -> bytes:
    """PNG: the four maps side by side, each from its own minimum to its own maximum."""
    strip = Image.new("RGBA", STRIP)
    for stage, map_HW in enumerate(activation_SHW):
        cell = _letterbox(_coloured(map_HW, (map_HW.min(), map_HW.max())), CELL)
        strip.paste(cell, (stage * (CELL[0] + GAP), 0))
    return _png(strip)


def quality_span(maps: Iterable[np.ndarray]) -> tuple[float, float]:
    """Scores that the colours span: the maps' own in round tens, so that the scale rarely changes."""
    values = np.concatenate([m.ravel() for m in maps])
    low, high = np.floor(values.min() / 10) * 10, np.ceil(values.max() / 10) * 10
    return float(low), float(max(high, low + 20))


def _grey(image_HWC: np.ndarray) -> np.ndarray:
    """(H, W), at the size in which `photo` shows the image."""
    return np.asarray(_fit(image_HWC, PHOTO).convert("L"))


def _fit(image_HWC: np.ndarray, box: tuple[int, int]) -> Image.Image:
    return ImageOps.contain(Image.fromarray(image_HWC), box, Image.Resampling.LANCZOS)


def _letterbox(image_HWC: np.ndarray, box: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(image_HWC)).convert("RGBA")
    return ImageOps.pad(image, box, Image.Resampling.LANCZOS, (0, 0, 0, 0))


def _coloured(map_HW: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    return VIRIDIS(Normalize(*span)(map_HW), bytes=True)[..., :3]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # for a page on this network, not for a disk
    return buffer.getvalue()


# --- words and charts: the macros of page.jinja ---------------------------------------------------------------


def _x(score: float) -> float:
    return round(26 + 5.8 * float(np.clip(score, 0, 100)), 1)


def _y(score: float) -> float:
    return round(132 - 1.2 * float(np.clip(score, 0, 100)), 1)


_templates = templates(Path(__file__).parent)
_templates.globals.update(
    PHOTO=PHOTO, CELL=CELL, GAP=GAP, STRIP=STRIP, QUIET=QUIET, GRADIENT=GRADIENT, TROUBLE=TROUBLE, x=_x, y=_y
)
_page = _templates.get_template("page.jinja").module
status = _page.status  # a text after a sign: what is happening; screen readers read it aloud when they are free
caption = _page.caption  # of a text; a new line in it is one on the page
headline = (
    _page.headline
)  # a model's score; above: the share of test images whose own score is lower; sure: `answers.sureness`
activation_scale = _page.activation_scale  # under each map of `activation_maps` its colours and what they stand for


def kept_list(table: pd.DataFrame, number: int, files: dict[str, str]) -> str:
    """The kept images as a table, under links that save them; ``files``: name and data: address."""
    rows = table.to_html(index=False, na_rep="–", float_format="{:.2f}".format, border=0, justify="left")  # escapes
    rows = rows.replace("<td>", '<td style="text-align:left;padding:1px 14px 1px 2px">')
    return _page.kept_list(rows, number, files)


def scale(marks: list[Mark], test_scores: np.ndarray, known: float | None, kind: str) -> str:
    """SVG: the models' scores on 0–100 before the histogram of the test images' ``kind`` of score.

    ``known`` is the image's own score in the dataset, where it has one.
    """
    counts, _ = np.histogram(test_scores, np.arange(0, 101, 5))
    highest = max(mark.score for mark in marks)
    # Each number on the side that is away from the other model's line.
    sides = [(mark, mark.score > 88 or 12 < mark.score < highest) for mark in marks]
    said = "Predicted quality of 100: " + ", ".join(f"{m.name} {m.score:.1f}" for m in marks)
    heights = (56 * counts / counts.max()).round(1).tolist()
    return _page.scale(sides, heights, known, kind, len(test_scores), said)


def curve(marks: list[Mark], lines: list[list[float]], distortion: str | None, level: int) -> str:
    """SVG: for each model the score at levels 0 to 5, without distortion at 0 alone; the level on show is shaded."""
    drawn = [(mark, line is max(lines, key=sum), line) for mark, line in zip(marks, lines, strict=True)]
    below, where = "", "without distortion"
    if distortion is not None:
        known = DISTORTIONS[distortion]
        strengths = ", ".join(f"{s:g}" for s in known.levels)
        below = f"level of {distortion} (0: as it is; {known.parameter}: {strengths})"
        where = f"at levels 0 to 5 of {distortion}"
    numbers = "; ".join(f"{mark.name}: {', '.join(f'{s:.0f}' for s in line)}" for mark, _, line in drawn)
    return _page.curve(drawn, level, below, f"Predicted quality {where}: {numbers}")


def bars(alphas: Sequence[float] | None, model: str) -> str:
    """SVG: the four stage weights as bars from 0 to 1, or in their place that the model has none."""
    if alphas is None:
        without = "has no stage weights:\nHyperIQA, and SMART-IQA without attention, have none."
        return _page.no_bars(f"{model} {without}")
    said = "Stage weights: " + ", ".join(f"stage {s} {w:.2f}" for s, w in enumerate(alphas, 1))
    return _page.bars(list(zip(alphas, map(to_hex, STAGE_COLOURS), STRIDES, strict=True)), said)


def quality_scale(span: tuple[float, float]) -> str:
    """HTML: the overlay's colours and the scores they stand for."""
    return _page.colour_bar(PHOTO[0], span[0], "local quality (points; read differences off it)", span[1])


# --- to keep ------------------------------------------------------------------------------------------------


def sheet(kept: list[Request]) -> bytes:
    """PNG: the kept images, each under its title and scores."""
    columns = max(1, min(4, len(kept)))
    lines = max(1, -(-len(kept) // columns))
    figure = Figure(figsize=(3 * columns, 3.1 * lines), dpi=110, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, request in zip(axes.flat, kept, strict=False):
        axis.imshow(_fit(request.pixels_HWC, (300, 225)))
        text = [*request.title().split("\n"), *(f"{mark.score:.1f}  {mark.name}" for mark in request.marks())]
        short = [line if len(line) < 44 else f"{line[:40]} …" for line in text]
        named("\n".join(short), axis, fontsize=7.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def snapshot(request: Request) -> Figure:
    """What the page shows, as a figure: image and quality maps above, stage weights and curve below."""
    marks, maps = request.marks(), request.maps
    figure = Figure(figsize=(3.4 * (1 + len(maps)) + 0.6, 5.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    first, *others = np.ravel(upper.subplots(1, 1 + len(maps)))
    first.imshow(request.pixels_HWC)
    named(request.title(), first, fontsize=8.5)
    grey, span = _grey(request.pixels_HWC), quality_span(maps)
    for axis, mark, map_HW in zip(others, marks, maps, strict=True):
        axis.imshow(grey, cmap="grey")
        shown = axis.imshow(map_HW, cmap="viridis", vmin=span[0], vmax=span[1], alpha=0.6)
        named(f"{mark.name}: {mark.score:.1f}", axis, fontsize=8.5)
    bar = upper.colorbar(shown, ax=others, label="local quality (points)", shrink=0.8)
    bar.solids.set_alpha(1)
    for axis in (first, *others):
        axis.axis("off")
    left, right = lower.subplots(1, 2)
    for mark, score, line in zip(marks, request.scores, request.curves, strict=True):
        style = {"color": mark.colour, "label": mark.name}
        if score.alphas is not None:
            left.bar(np.arange(1, 5) + 0.4 * mark.place - 0.2 * (len(marks) - 1), score.alphas, 0.38, **style)
        right.plot(line, marker="os"[mark.place], **style)
    left.set(xlabel="stage", ylabel="weight (sum 1)", ylim=(0, 1), xticks=range(1, 5))
    right.set(xlabel=f"level of {request.distortion or 'no distortion'}", ylabel="score (0–100)", ylim=(0, 100))
    right.legend(frameon=False, fontsize=7.5)
    return figure
