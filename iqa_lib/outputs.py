"""What a notebook leaves behind: figures, tables and one result file that the runner and the report read."""

from __future__ import annotations

import json
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from iqa_lib import paths
from iqa_lib.profile import Profile

_saved: dict[str, list[dict[str, Any]]] = {"figures": [], "tables": [], "runs": []}


def save_figure(settings: Profile, figure: Figure, name: str, caption: str, data: pd.DataFrame | None = None):
    """Write ``figures/<profile>/NAME.pdf``, ``.png`` and, with ``data``, ``.csv``; returns the figure."""
    settings.figures.mkdir(parents=True, exist_ok=True)
    target = settings.figures / name
    figure.savefig(target.with_suffix(".pdf"), bbox_inches="tight", metadata={"CreationDate": None})
    figure.savefig(target.with_suffix(".png"), bbox_inches="tight", dpi=200)
    if data is not None:
        data.to_csv(target.with_suffix(".csv"), index=False)
    plt.close(figure)
    _remember("figures", {"name": name, "caption": caption, "file": str(target.with_suffix(".png"))})
    return figure


def save_table(settings: Profile, table: pd.DataFrame, name: str, caption: str) -> pd.DataFrame:
    """Write ``figures/<profile>/NAME.csv``; returns the table to show."""
    settings.figures.mkdir(parents=True, exist_ok=True)
    target = settings.figures / f"{name}.csv"
    table.to_csv(target, index=False)
    _remember("tables", {"name": name, "caption": caption, "file": str(target)})
    return table


def remember_run(folder: str) -> None:
    """Note that this notebook read that run, so the runner redoes the notebook when the run is gone."""
    _remember("runs", {"name": folder, "file": f"{folder}/result.json"})


def record(settings: Profile, notebook: str, headline: str, **numbers: Any) -> None:
    """Write ``runs/<profile>/results/NOTEBOOK.json``: proof that the notebook came to its end."""
    result = {"notebook": notebook, "headline": headline, "numbers": numbers, **_saved}
    path = settings.folder / "results" / f"{notebook}.json"
    paths.write_atomically(path, json.dumps(result, indent=1))


def _remember(kind: str, entry: dict[str, Any]) -> None:
    _saved[kind] = [e for e in _saved[kind] if e["name"] != entry["name"]] + [entry]
