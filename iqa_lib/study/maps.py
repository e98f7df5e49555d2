"""Local quality of photographs as pictures, for the command line."""

from __future__ import annotations

import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from iqa_lib import paths
from iqa_lib.data.crops import WorkingSize, quiet_pillow, read_image
from iqa_lib.progress import Progress
from iqa_lib.scoring.score import Scorer
from iqa_lib.study import explain, figures


def save_map(scorer: Scorer, file: Path, target: Path, title: str) -> None:
    """Write a PNG of the photograph beside its local quality (`explain.quality_map`)."""
    with quiet_pillow():
        pixels_HWC = read_image(file, WorkingSize.of_settings(scorer.settings))
    quality_HW = explain.quality_map(scorer.settings, scorer.model, pixels_HWC)
    figure = figures.quality_beside(pixels_HWC, quality_HW, title)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    plt.close(figure)
    paths.write_atomically(target, content.getvalue())


def save_maps(scorer: Scorer, table: pd.DataFrame, folder: Path) -> None:
    """`save_map` of every scored file of ``table`` (`scoring.score.score_all`), under its path below their common folder."""
    scored = table[table["fault"] == ""]
    common = os.path.commonpath([Path(name).absolute().parent for name in scored["image"]] or ["."])
    for row in Progress(list(scored.itertuples()), desc="quality maps"):
        below = Path(row.image).absolute().relative_to(common)
        save_map(scorer, Path(row.image), folder / f"{below}.png", f"{below}: {row.score:.1f}")
