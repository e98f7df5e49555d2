"""What a notebook leaves behind: figures, tables and one result file that the runner and the report read."""

from __future__ import annotations

import io
import json
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from iqa_lib import paths
from iqa_lib.paths import to_csv
from iqa_lib.profile import Profile
from iqa_lib.training.runs import StoredRun

AnyRun = TypeVar("AnyRun", bound=StoredRun)


class Page:
    """One notebook's figures, tables, runs and result, and the files that the runner and the report read.

    Args:
        notebook: its name, such as ``02_ablation``.
    """

    def __init__(self, settings: Profile, notebook: str):
        self.settings, self.notebook = settings, notebook
        self.saved: dict[str, list[dict[str, Any]]] = {"figures": [], "tables": [], "runs": []}

    def save(
        self, exhibit: Figure | Axes | pd.DataFrame, name: str, caption: str, data: pd.DataFrame | None = None
    ) -> Figure | pd.DataFrame:
        """Write a figure as ``figures/<profile>/NAME.pdf`` and ``.png``, a table as ``.csv`` and ``.tex``; returns it.

        Args:
            data: what a figure shows, for a ``.csv`` beside it.
        """
        target = self.settings.figures / f"{name}.csv"
        if isinstance(exhibit, pd.DataFrame):
            paths.write_atomically(target, to_csv(exhibit))
            paths.write_atomically(target.with_suffix(".tex"), to_latex(exhibit, name, caption))
            self._note("tables", {"name": name, "caption": caption, "file": str(target)})
            return exhibit
        if isinstance(exhibit, Axes):
            exhibit = exhibit.figure
        for suffix, options in {".pdf": {"metadata": {"CreationDate": None}}, ".png": {"dpi": 300}}.items():
            content = io.BytesIO()
            exhibit.savefig(content, format=suffix[1:], bbox_inches="tight", **options)
            paths.write_atomically(target.with_suffix(suffix), content.getvalue())
        if data is not None:
            paths.write_atomically(target, to_csv(data))
        plt.close(exhibit)
        self._note("figures", {"name": name, "caption": caption, "file": str(target.with_suffix(".png"))})
        return exhibit

    def uses(self, run: AnyRun) -> AnyRun:
        """Note that this notebook reads the run: the runner redoes the notebook when the run is gone."""
        self._note("runs", {"name": str(run.folder), "file": f"{run.folder}/result.json"})
        return run

    def uses_all(self, runs: dict[str, list[AnyRun]]) -> dict[str, list[AnyRun]]:
        """As `uses`, of the runs of all variants."""
        for of_variant in runs.values():
            for run in of_variant:
                self.uses(run)
        return runs

    def finish(self, headline: str, **numbers: Any) -> None:
        """Write ``runs/<profile>/results/NOTEBOOK.json``: proof that the notebook came to its end."""
        result = {"notebook": self.notebook, "headline": headline, "numbers": numbers, **self.saved}
        path = self.settings.folder / "results" / f"{self.notebook}.json"
        paths.write_atomically(path, json.dumps(result, indent=1))

    def _note(self, kind: str, entry: dict[str, Any]) -> None:
        self.saved[kind] = [e for e in self.saved[kind] if e["name"] != entry["name"]] + [entry]


LIMITS = ("95 % low", "95 % high")
BEST_IS_HIGH = ("SRCC", "PLCC", "KRCC")  # measured columns whose best value is set in bold


def styled(table: pd.DataFrame, caption: str = "") -> Styler:
    """The table as notebooks show it: four digits, the best measured value in bold."""
    best = [c for c in BEST_IS_HIGH if c in table]
    return (
        table.style.hide(axis="index")
        .format(precision=4, na_rep="–")
        .highlight_max(subset=best, props="font-weight: bold")
        .set_caption(caption)
    )


LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {
        "→": r"$\to$",
        "Δ": r"$\Delta$",
        "α": r"$\alpha$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "≥": r"$\geq$",
        "−": "$-$",
    }
    | {"–": "--", "“": "``", "”": "''"}
)


def to_latex(table: pd.DataFrame, name: str, caption: str) -> str:
    """A booktabs table with caption and label, the best measured value in bold, intervals in brackets.

    Needs ``\\usepackage{booktabs,graphicx}``; a table wider than the line is shrunk to it.
    """
    cells = table.apply(_latex_cells)
    for column in (c for c in BEST_IS_HIGH if c in table and table[c].notna().any()):
        best = table[column] == table[column].max()
        cells.loc[best, column] = r"\textbf{" + cells.loc[best, column] + "}"
    numeric = cells.columns.isin(table.select_dtypes("number").columns)
    alignment = "".join("r" if is_number else "l" for is_number in numeric)
    cells, alignment = _intervals_in_brackets(cells, alignment)
    tabular = cells.rename(columns=lambda c: str(c).translate(LATEX)).style.hide(axis="index")
    body = tabular.to_latex(hrules=True, column_format=alignment).rstrip()
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{caption.translate(LATEX)}}}\n\\label{{tab:{name}}}\n"
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
        f"\n{body}%\n}}\n\\end{{table}}\n"
    )


def _latex_cells(column: pd.Series) -> pd.Series:
    if pd.api.types.is_float_dtype(column):
        return column.map(lambda value: "--" if pd.isna(value) else f"{value:.4f}")
    return column.map(lambda value: "--" if pd.isna(value) else str(value).translate(LATEX))


def _intervals_in_brackets(cells: pd.DataFrame, alignment: str) -> tuple[pd.DataFrame, str]:
    """The limits of a 95 % interval behind the number that they belong to, the column on their left."""
    names = list(cells)
    if LIMITS[0] not in names or names[(low := names.index(LIMITS[0])) + 1] != LIMITS[1]:
        return cells, alignment
    value, known = names[low - 1], cells[LIMITS[0]] != "--"
    limits = " [" + cells[LIMITS[0]] + ", " + cells[LIMITS[1]] + "]"
    merged = cells.assign(**{value: cells[value] + limits.where(known, "")}).drop(columns=list(LIMITS))
    return merged.rename(columns={value: f"{value} [95 %]"}), alignment[:low] + alignment[low + 2 :]
