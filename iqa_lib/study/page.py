"""What a notebook leaves behind: figures, tables and one result file that the runner and the report read."""

from __future__ import annotations

import io
import json
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from iqa_lib import paths
from iqa_lib.paths import to_csv
from iqa_lib.profile import Profile

_saved: dict[str, list[dict[str, Any]]] = {"figures": [], "tables": [], "runs": []}


def save_figure(settings: Profile, figure: Figure, name: str, caption: str, data: pd.DataFrame | None = None):
    """Write ``figures/<profile>/NAME.pdf``, ``.png`` and, with ``data``, ``.csv``; returns the figure."""
    target = settings.figures / name
    for suffix, options in {".pdf": {"metadata": {"CreationDate": None}}, ".png": {"dpi": 300}}.items():
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], bbox_inches="tight", **options)
        paths.write_atomically(target.with_suffix(suffix), content.getvalue())
    if data is not None:
        paths.write_atomically(target.with_suffix(".csv"), to_csv(data))
    plt.close(figure)
    _remember("figures", {"name": name, "caption": caption, "file": str(target.with_suffix(".png"))})
    return figure


def save_table(settings: Profile, table: pd.DataFrame, name: str, caption: str) -> pd.DataFrame:
    """Write ``figures/<profile>/NAME.csv`` and ``.tex`` (`to_latex`); returns the table to show."""
    target = settings.figures / f"{name}.csv"
    paths.write_atomically(target, to_csv(table))
    paths.write_atomically(target.with_suffix(".tex"), to_latex(table, name, caption))
    _remember("tables", {"name": name, "caption": caption, "file": str(target)})
    return table


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


def remember_run(folder: str) -> None:
    """Note that this notebook read that run, so the runner redoes the notebook when the run is gone."""
    _remember("runs", {"name": folder, "file": f"{folder}/result.json"})


def record(settings: Profile, notebook: str, headline: str, **numbers: Any) -> None:
    """Write ``runs/<profile>/results/NOTEBOOK.json``: proof that the notebook came to its end."""
    result = {"notebook": notebook, "headline": headline, "numbers": numbers, **_saved}
    path = settings.folder / "results" / f"{notebook}.json"
    paths.write_atomically(path, json.dumps(result, indent=1))


def saved() -> dict[str, list[dict[str, Any]]]:
    """What this process saved so far, as in a result file."""
    return _saved


def _remember(kind: str, entry: dict[str, Any]) -> None:
    _saved[kind] = [e for e in _saved[kind] if e["name"] != entry["name"]] + [entry]
