"""What the explorer shows, drawn: PNG bytes for pictures, SVG text for numbers, a figure and a sheet to keep.

Nothing here knows widgets or models. Whatever text comes in is escaped here; scores are 0–100, higher better.

Shape suffixes: C channels, H height, W width, S stages (4).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.models.backbones import STRIDES
from iqa_lib.study.figures import COLOURS
from iqa_lib.study.figures_inside import STAGE_COLOURS

PHOTO = (440, 330)  # px: width, height of the photograph and of the overlay
CELL, GAP = (116, 87), 6  # px: one of the four activation maps, and what lies between them
STRIP = (4 * CELL[0] + 3 * GAP, CELL[1])
READY, BUSY, TROUBLE = "●", "◌", "▲"
MODEL_COLOURS = [to_hex(COLOURS[0]), to_hex(COLOURS[1])]  # blue and orange: apart for every kind of eye
GLYPHS = "●■"  # and told apart without colour
VIRIDIS = matplotlib.colormaps["viridis"]
GRADIENT = f"linear-gradient(90deg,{','.join(to_hex(VIRIDIS(i / 16)) for i in range(17))})"  # of CSS
QUIET = "#8c8c8c"  # axes and histogram, on a light page and on a dark one


class Mark(NamedTuple):
    """A model's place on the scale: 0 or 1, its name, its score (None: not known yet)."""

    place: int
    name: str
    score: float | None


# --- pictures -----------------------------------------------------------------------------------------------


def shrink(map_HW: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """The map at the size in which `photo` would show its image in this box: float32."""
    image = Image.fromarray(map_HW.astype(np.float32))
    return np.asarray(ImageOps.contain(image, box, Image.Resampling.BILINEAR))


def photo(image_HWC: np.ndarray, box: tuple[int, int] = PHOTO) -> bytes:
    """PNG of exactly the box's size: the whole image, what it leaves of the box transparent."""
    return _png(_letterbox(image_HWC, box))


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
    """Scores that the colours reach over: the maps' own in round tens, so that they seldom change on the way."""
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
    low, high = span
    return VIRIDIS((map_HW - low) / max(high - low, 1e-12), bytes=True)[..., :3]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # for a page on this network, not for a disk
    return buffer.getvalue()


# --- words --------------------------------------------------------------------------------------------------


def status(text: str, sign: str) -> str:
    """The line that says what is happening; screen readers tell its changes when they have time."""
    colour = "#c2410c" if sign == TROUBLE else "inherit"
    return (
        f'<div role="status" aria-live="polite" style="font-size:14px;font-weight:600;color:{colour}">'
        f"{sign} {escape(text)}</div>"
    )


def caption(text: str) -> str:
    return (
        f'<div style="line-height:1.4;max-width:{PHOTO[0]}px">{escape(text).replace(chr(10), "<br>")}</div>'
    )


def headline(mark: Mark, above: float) -> str:
    """A model's name and score; ``above``: the share of test images whose own score is lower."""
    colour = MODEL_COLOURS[mark.place]
    return (
        f'<div style="font-size:14px;line-height:1.6;border-top:2px solid {colour};margin-top:6px">'
        f'<span style="color:{colour}">{GLYPHS[mark.place]}</span> {escape(mark.name)}: '
        f'<b style="font-size:22px">{mark.score:.1f}</b> of 100 points, '
        f"higher than {100 * above:.0f} % of the test images</div>"
    )


def kept_list(table: pd.DataFrame, number: int, files: dict[str, str]) -> str:
    """The kept images as a table, under links that save them; ``files``: name and data: address."""
    links = " · ".join(
        f'<a download="{name}" href="{address}" style="text-decoration:underline">{name}</a>'
        for name, address in files.items()
    )
    rows = table.to_html(
        index=False, na_rep="–", float_format="{:.2f}".format, border=0, justify="left"
    )  # escapes
    rows = rows.replace("<td>", '<td style="text-align:left;padding:1px 14px 1px 2px">')
    return f'<div style="font-size:14px"><b>Kept: {number}</b> · download {links}</div>{rows}'


# --- numbers ------------------------------------------------------------------------------------------------


def scale(marks: list[Mark], test_scores: np.ndarray, known: float | None, kind: str) -> str:
    """SVG: the models' scores on 0–100 before the histogram of the test images' ``kind`` of score.

    ``known`` is the image's own score in the dataset, where it has one.
    """
    counts, _ = np.histogram(test_scores, np.arange(0, 101, 5))
    parts = [
        f'<rect x="{_x(5 * i) + 0.5:.1f}" width="{5 * 5.8 - 1:.1f}" y="{100 - 56 * c / counts.max():.1f}" '
        f'height="{56 * c / counts.max():.1f}" fill="{QUIET}" fill-opacity="0.4"/>'
        for i, c in enumerate(counts)
        if c
    ]
    for value in range(0, 101, 20):
        parts.append(_text(_x(value), 116, str(value), anchor="middle"))
    parts.append(f'<path d="M{_x(0)} 100H{_x(100)}" stroke="currentColor"/>')
    if known is not None:
        x = _x(known)
        parts.append(
            f'<path d="M{x} 92l6 8l-6 8l-6 -8z" fill="none" stroke="currentColor" stroke-width="2"/>'
        )
    known_marks = [mark for mark in marks if mark.score is not None]
    for mark in known_marks:
        x, top = _x(np.clip(mark.score, 0, 100)), 16 + 17 * mark.place
        colour = MODEL_COLOURS[mark.place]
        parts.append(f'<path d="M{x:.1f} {top + 4}V100" stroke="{colour}" stroke-width="3"/>')
        # each number on the side that is away from the other model's line
        left = mark.score > 88 or 12 < mark.score < max(other.score for other in known_marks)
        side = ("end", -6) if left else ("start", 6)
        parts.append(
            _text(x + side[1], top + 2, f"{GLYPHS[mark.place]} {mark.score:.1f}", 15, side[0], colour)
        )
    own = "" if known is None else f"   ◇ this image at level 0: {known:.1f}"
    parts.append(_text(_x(0), 136, f"quality in points: 0 worst – 100 best{own}"))
    parts.append(_text(_x(0), 152, f"grey: {kind} of the {len(test_scores)} test images"))
    said = ", ".join(f"{m.name} {m.score:.1f}" for m in known_marks)
    return _svg(640, 158, parts, f"Predicted quality of 100: {said}")


def curve(marks: list[Mark], lines: list[list[float | None]], distortion: str | None, level: int) -> str:
    """SVG: for each model the score at levels 0 to 5 (None: not known yet); the level on show is shaded."""
    parts = [_text(60 + 110 * n, 150, f"{n}", anchor="middle") for n in range(6)]
    parts.append(
        f'<rect x="{60 + 110 * level - 26}" y="8" width="52" height="128" fill="{QUIET}" opacity=".2"/>'
    )
    for value in (0, 50, 100):
        parts.append(_text(26, _y(value) + 4, str(value), anchor="end"))
        parts.append(f'<path d="M32 {_y(value)}H636" stroke="{QUIET}" stroke-opacity=".5"/>')
    higher = max(lines, key=lambda line: sum(s or 0 for s in line))
    for mark, line in zip(marks, lines, strict=True):
        parts += _line(mark, line is higher, [(60 + 110 * n, s) for n, s in enumerate(line) if s is not None])
    if distortion is None:
        parts.append(_text(350, 80, "Choose a distortion to see the score at its five levels.", 13, "middle"))
    else:
        known = DISTORTIONS[distortion]
        strengths = ", ".join(f"{s:g}" for s in known.levels)
        parts.append(_text(26, 168, f"level of {distortion} (0: as it is; {known.parameter}: {strengths})"))
    said = "; ".join(
        f"{m.name}: {', '.join('…' if s is None else f'{s:.0f}' for s in line)}"
        for m, line in zip(marks, lines, strict=True)
    )
    return _svg(
        640, 174, parts, f"Predicted quality at levels 0 to 5 of {distortion or 'no distortion'}: {said}"
    )


def _line(mark: Mark, higher: bool, points: list[tuple[int, float]]) -> list[str]:
    colour, dashes = MODEL_COLOURS[mark.place], ' stroke-dasharray="7 4"' if mark.place else ""
    path = " ".join(f"{x},{_y(s):.1f}" for x, s in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"{dashes}/>']
    for x, score in points:
        y = _y(score)
        shape = f'<rect x="{x - 5}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'
        parts.append(shape if mark.place else f'<circle cx="{x}" cy="{y:.1f}" r="5" fill="{colour}"/>')
        # the higher line's numbers above it, the other's below; inside where there is no room
        place = y - 9 if (higher and y > 22) or y > 118 else y + 19
        parts.append(_text(x, place, f"{score:.1f}", anchor="middle"))
    return parts


def bars(alphas: Sequence[float]) -> str:
    """SVG: the four stage weights as bars from 0 to 1."""
    parts = [_text(0, 14, "attention: weight of each stage (the four sum to 1)", 13)]
    for stage, (weight, colour, stride) in enumerate(zip(alphas, STAGE_COLOURS, STRIDES, strict=True)):
        y = 24 + 25 * stage
        parts.append(_text(0, y + 14, f"stage {stage + 1}, cells of {stride} px"))
        parts.append(f'<rect x="150" y="{y}" width="280" height="18" fill="{QUIET}" fill-opacity=".15"/>')
        parts.append(
            f'<rect x="150" y="{y}" width="{280 * weight:.1f}" height="18" fill="{to_hex(colour)}" '
            f'stroke="currentColor" stroke-width=".7"/>'
        )
        parts.append(_text(438, y + 14, f"{weight:.2f}", 13))
    said = ", ".join(f"stage {s + 1} {w:.2f}" for s, w in enumerate(alphas))
    return _svg(STRIP[0], 126, parts, f"Stage weights: {said}")


def sentence(text: str) -> str:
    """SVG of the size of `bars`: words in their place."""
    parts = [_text(0, 14, "attention: none", 13)]
    parts += [_text(0, 40 + 17 * n, line) for n, line in enumerate(text.split("\n"))]
    return _svg(STRIP[0], 126, parts, text)


def activation_scale(activation_SHW: np.ndarray) -> str:
    """HTML: under each map of `activation_maps` its colours and the numbers they stand for."""
    bars = [
        _colour_bar(CELL[0], map_HW.min(), f"stage {stage}", map_HW.max())
        for stage, map_HW in enumerate(activation_SHW, 1)
    ]
    line = f'<div style="display:flex;gap:{GAP}px">{"".join(bars)}</div>'
    return f"{line}{caption('mean |activation| over channels (no unit), own colours per stage')}"


def quality_scale(span: tuple[float, float]) -> str:
    """HTML: the overlay's colours and the scores they stand for."""
    return _colour_bar(PHOTO[0], span[0], "local quality (points; read differences off it)", span[1])


def _colour_bar(width: int, low: float, text: str, high: float) -> str:
    words = "".join(f"<span>{word}</span>" for word in (f"{low:.3g}", text, f"{high:.3g}"))
    return (
        f'<div style="width:{width}px;font-size:12px;line-height:1.4"><div style="height:9px;background:{GRADIENT}">'
        f'</div><div style="display:flex;justify-content:space-between">{words}</div></div>'
    )


def _x(score: float) -> float:
    return 26 + 5.8 * score


def _y(score: float) -> float:
    return 132 - 1.2 * float(np.clip(score, 0, 100))


def _text(
    x: float, y: float, text: str, size: int = 12, anchor: str = "start", colour: str = "currentColor"
) -> str:
    weight = ' font-weight="600"' if size > 12 else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{weight}>'
        f"{escape(text)}</text>"
    )


def _svg(width: int, height: int, parts: Iterable[str], said: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(said)}" '
        f'style="display:block;max-width:100%;height:auto;color:var(--jp-ui-font-color1,#222);'
        f'font-family:system-ui,sans-serif">{"".join(parts)}</svg>'
    )


# --- to keep ------------------------------------------------------------------------------------------------


def sheet(kept: list[tuple[np.ndarray, str, list[Mark]]], columns: int = 4) -> bytes:
    """PNG: the kept images, each under its title and scores."""
    columns = max(1, min(columns, len(kept)))
    lines = max(1, -(-len(kept) // columns))
    figure = Figure(figsize=(3 * columns, 3.1 * lines), dpi=110, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (image_HWC, title, marks) in zip(axes.flat, kept, strict=False):
        axis.imshow(_fit(image_HWC, (300, 225)))
        text = [*title.split("\n"), *(f"{mark.score:.1f}  {mark.name}" for mark in marks)]
        short = [line if len(line) < 44 else f"{line[:40]} …" for line in text]
        axis.set_title("\n".join(short), fontsize=7.5, parse_math=False)  # a dollar in a name is a dollar
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def snapshot(
    image_HWC: np.ndarray,
    title: str,
    marks: list[Mark],
    alphas: list[Sequence[float] | None],
    lines: list[list[float | None]],
    maps: list[np.ndarray],
    distortion: str | None,
) -> Figure:
    """What the page shows, as a figure: image and quality maps above, stage weights and curve below."""
    figure = Figure(figsize=(3.4 * (1 + len(maps)) + 0.6, 5.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    first, *others = np.ravel(upper.subplots(1, 1 + len(maps)))
    first.imshow(image_HWC)
    first.set_title(title, fontsize=8.5, parse_math=False)
    grey, span = _grey(image_HWC), quality_span(maps)
    for axis, mark, map_HW in zip(others, marks, maps, strict=True):
        axis.imshow(grey, cmap="grey")
        shown = axis.imshow(map_HW, cmap="viridis", vmin=span[0], vmax=span[1], alpha=0.6)
        axis.set_title(f"{mark.name}: {mark.score:.1f}", fontsize=8.5, parse_math=False)
    bar = upper.colorbar(shown, ax=others, label="local quality (points)", shrink=0.8)
    bar.solids.set_alpha(1)
    for axis in (first, *others):
        axis.axis("off")
    left, right = lower.subplots(1, 2)
    for mark, weights, line in zip(marks, alphas, lines, strict=True):
        style = {"color": MODEL_COLOURS[mark.place], "label": mark.name}
        if weights is not None:
            left.bar(np.arange(1, 5) + 0.4 * mark.place - 0.2 * (len(marks) - 1), weights, 0.38, **style)
        right.plot(range(6), [np.nan if s is None else s for s in line], marker="os"[mark.place], **style)
    left.set(xlabel="stage", ylabel="weight (sum 1)", ylim=(0, 1), xticks=range(1, 5))
    right.set(xlabel=f"level of {distortion or 'no distortion'}", ylabel="score (0–100)", ylim=(0, 100))
    right.legend(frameon=False, fontsize=7.5)
    return figure
