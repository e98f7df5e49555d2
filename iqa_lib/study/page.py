"""What a notebook leaves behind: figures, tables and one result file that the runner and the report read."""

from __future__ import annotations

import io
import json
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from iqa_lib import paths
from iqa_lib.data.catalog import describe
from iqa_lib.models.backbones import stands_in, what_it_is
from iqa_lib.paths import to_csv
from iqa_lib.profile import Profile
from iqa_lib.training.runs import StoredRun

AnyRun = TypeVar("AnyRun", bound=StoredRun)


def about_numbers(settings: Profile) -> str:
    """What a caption must say of a profile's numbers: data, kind of scores, protocol, stand-ins, confounding."""
    dataset = describe(settings.dataset)
    parts = [f"{dataset.title}, {dataset.scores}"]
    if settings.freeze_backbone:
        parts.append("frozen backbone")
    base = settings.backbone_base or settings.backbone
    if stands_in(base):
        parts.append(f"stand-in backbones ({what_it_is(base)} for Swin)")
    if settings.protocol == "paper":
        parts.append("PAPER'S PROTOCOL: epoch chosen on the test set")
    return "; ".join(parts)


class Page:
    """One notebook's figures, tables, runs and result, and the files that the runner and the report read.

    Args:
        notebook: its name, such as ``02_ablation``.
        about: what a caption must say of the numbers; None: `about_numbers`.
    """

    def __init__(self, settings: Profile, notebook: str, about: str | None = None):
        self.settings, self.notebook = settings, notebook
        self.about = about_numbers(settings) if about is None else about
        self.saved: dict[str, list[dict[str, Any]]] = {"figures": [], "tables": [], "runs": []}

    def save(
        self, exhibit: Figure | plt.Axes | pd.DataFrame, name: str, caption: str, data: pd.DataFrame | None = None
    ) -> Figure | pd.DataFrame:
        """Write a figure as ``figures/<profile>/NAME.pdf`` and ``.png``, a table as ``.csv`` and ``.tex``; returns it.

        The caption ends with what the numbers are (`about`).

        Args:
            data: what a figure shows, for a ``.csv`` beside it.
        """
        target = self.settings.figures / f"{name}.csv"
        caption = self._in_full(caption, exhibit)
        if isinstance(exhibit, pd.DataFrame):
            paths.write_atomically(target, to_csv(exhibit))
            paths.write_atomically(target.with_suffix(".tex"), to_latex(exhibit, name, caption))
            self._note("tables", {"name": name, "caption": caption, "file": str(target)})
            return exhibit
        figure = exhibit if isinstance(exhibit, Figure) else exhibit.figure
        for suffix, options in {".pdf": {"metadata": {"CreationDate": None}}, ".png": {"dpi": 300}}.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], bbox_inches="tight", **options)
            paths.write_atomically(target.with_suffix(suffix), content.getvalue())
        if data is not None:
            paths.write_atomically(target, to_csv(data))
        plt.close(figure)
        self._note("figures", {"name": name, "caption": caption, "file": str(target.with_suffix(".png"))})
        return figure

    def show(self, exhibit: Figure | plt.Axes | pd.DataFrame, name: str, caption: str) -> None:
        """`save` and display; a table without rows is left out."""
        from IPython.display import display

        if isinstance(exhibit, pd.DataFrame) and exhibit.empty:
            return
        saved = self.save(exhibit, name, caption)
        display(styled(saved, self._in_full(caption, saved)) if isinstance(saved, pd.DataFrame) else saved)

    def _in_full(self, caption: str, exhibit: object) -> str:
        columns = set(exhibit) if isinstance(exhibit, pd.DataFrame) else set()
        parts = [caption.rstrip(". ")]
        if "verdict" in columns:
            parts.append(
                "Intervals hold the truth for all rows together in 95 % of studies; p times the number of rows; "
                "smallest detectable: with 80 % power among them"
            )
        elif "interval over" in columns:
            parts.append("Intervals: 95 %, over what the column says, not over seeds")
        if self.about not in caption:
            parts.append(self.about)
        return ". ".join(part for part in parts if part) + "."

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

    def finish(self, headline: str, **numbers: Any) -> Markdown:
        """Write ``runs/<profile>/results/NOTEBOOK.json``, proof that the notebook came to its end; the conclusion, to show."""
        result = {"notebook": self.notebook, "headline": headline, "numbers": numbers, **self.saved}
        path = self.settings.folder / "results" / f"{self.notebook}.json"
        paths.write_atomically(path, json.dumps(result, indent=1))
        return Markdown(f"**{headline}**")

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
    | {"→": r"$\to$", "Δ": r"$\Delta$", "α": r"$\alpha$", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$", "−": "$-$"}
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
