"""What a notebook leaves behind: figures, tables and one result file that the runner and the report read."""

import html
import io
import itertools
import json
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from iqa_lib import paths
from iqa_lib.data.catalog import describe
from iqa_lib.models.backbones import stands_in, what_it_is
from iqa_lib.paths import to_csv
from iqa_lib.profile import Profile
from iqa_lib.study.claims import beside_published
from iqa_lib.training.runs import StoredRun

AnyRun = TypeVar("AnyRun", bound=StoredRun)
Exhibit = Figure | plt.Axes | pd.DataFrame


def about_numbers(settings: Profile) -> str:
    """What a caption must say of a profile's numbers: data, kind of scores, protocol, stand-ins, confounding."""
    dataset = describe(settings.dataset, settings.data_folder)
    parts = [f"{dataset.title}, {dataset.scores}"]
    if settings.freeze_backbone:
        parts.append("frozen backbone")
    base = settings.backbone_base or settings.backbone
    if stands_in(base):
        parts.append(f"stand-in backbones ({what_it_is(base)} for Swin)")
    if settings.protocol == "paper":
        parts.append("PAPER'S PROTOCOL: epoch chosen on the test set")
    return "; ".join(parts)


# Of exhibits that a notebook and `exhibits` both show; a name in _verdicts has that of its scores.
CAPTIONS = {
    "training_curves": "Training of {backbone}",
    "training_log": "Epochs of this run, beside the paper's log of SMART-Base on KonIQ-10k",
    "hyper_parameters": "Settings of this profile, beside those of the reference code",
    "sota_table": "Measured here and cited from the paper's Table I; PLCC without a mapping",
    "sota": "The methods compared",
    "ablation": "Ablation: each row adds a part",
    "ablation_bars": "Ablation; a dash is one seed",
    "fixed_regressor": "A fixed regressor in place of the hyper-network",
    "model_sizes": "Model sizes",
    "model_sizes_curve": "SRCC against the number of parameters",
    "learning_rate": "Learning rates, all multiplied by one factor",
    "learning_rate_curve": "SRCC against the learning rate",
    "loss": "Losses; the paper's “SRCC loss” is 1 − PLCC of the batch",
    "loss_bars": "Losses; a dash is one seed",
    "augmentation": "Augmentation and resolution",
    "augmentation_bars": "Augmentation and resolution; a dash is one seed",
    "protocols": "Ways of reporting; change against the honest one on the same n images, with its interval over runs",
    "cross_dataset": "Trained on {dataset}, tested there and elsewhere",
    "cross_dataset_heatmap": "SRCC on every dataset",
}


class Page:
    """The figures, tables, runs and result of a notebook such as ``02_ablation``, as files for runner and report.

    ``about``: what a caption must say of the numbers; None: `about_numbers`.
    """

    def __init__(self, settings: Profile, notebook: str, about: str | None = None):
        self.settings, self.notebook = settings, notebook
        self.about = about_numbers(settings) if about is None else about
        self.saved: dict[str, list[dict[str, Any]]] = {"figures": [], "tables": [], "runs": []}

    def save(
        self, exhibit: Exhibit, name: str, caption: str | None = None, data: pd.DataFrame | None = None
    ) -> Figure | pd.DataFrame:
        """Write a figure as ``figures/<profile>/NAME.pdf`` and ``.png``, a table as ``.csv`` and ``.tex``; returns it.

        Args:
            caption: to which is added what the numbers are (`about`); None: that of ``CAPTIONS``.
            data: what a figure shows, for a ``.csv`` beside it.
        """
        if isinstance(exhibit, pd.DataFrame):
            exhibit = beside_published(exhibit, name, self.settings.profile)
        target = self.settings.figures / f"{name}.csv"
        caption = self._in_full(name, caption, exhibit if isinstance(exhibit, pd.DataFrame) else data)
        if isinstance(exhibit, pd.DataFrame):
            paths.write_atomically(target, to_csv(exhibit))
            paths.write_atomically(target.with_suffix(".tex"), to_latex(exhibit, name, caption))
            self._note("tables", {"name": name, "caption": caption, "file": str(target)})
            return exhibit
        figure = exhibit if isinstance(exhibit, Figure) else exhibit.figure
        png = {"dpi": 300, "pil_kwargs": {"compress_level": 1}}  # twice as fast as matplotlib's 6, a fifth larger
        for suffix, options in {".pdf": {"metadata": {"CreationDate": None}}, ".png": png}.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], bbox_inches="tight", **options)
            paths.write_atomically(target.with_suffix(suffix), content.getvalue())
        if data is not None:
            paths.write_atomically(target, to_csv(data))
        plt.close(figure)
        # A study is published without its data's images.
        shows = {"shows images": any(axes.images for axes in figure.axes)}
        self._note("figures", {"name": name, "caption": caption, "file": str(target.with_suffix(".png")), **shows})
        return figure

    def show(self, exhibit: Exhibit, name: str, caption: str | None = None, data: pd.DataFrame | None = None) -> None:
        """`save` and display; a table without rows is left out."""
        if isinstance(exhibit, pd.DataFrame) and exhibit.empty:
            return
        saved = self.save(exhibit, name, caption, data)
        display(styled(saved, self.saved["tables"][-1]["caption"]) if isinstance(saved, pd.DataFrame) else saved)

    def _in_full(self, name: str, caption: str | None, table: pd.DataFrame | None) -> str:
        if caption is None:
            of = name.removesuffix("_verdicts")
            caption = CAPTIONS.get(of, of).format(**dict(self.settings)) + ": verdicts" * (of != name)
        table, parts = pd.DataFrame() if table is None else table, [caption.rstrip(". ")]
        if "verdict" in table:
            parts.append(
                "Intervals hold the truth for all rows together in 95 % of studies; p times the number of rows; "
                "smallest detectable: with 80 % power among them"
            )
        elif "interval over" in table and len(table):
            over = " and ".join(table["interval over"].dropna().unique())
            parts.append(f"Intervals: 95 %, over {over}, not over seeds")
        return f"{'. '.join([*parts, self.about])}."

    def uses(self, run: AnyRun) -> AnyRun:
        """Note that this notebook reads the run: the runner redoes the notebook when the run is gone."""
        self._note("runs", {"name": str(run.folder), "file": f"{run.folder}/result.json"})
        return run

    def uses_all(self, runs: dict[str, list[AnyRun]]) -> dict[str, list[AnyRun]]:
        """As `uses`, of the runs of all variants."""
        for run in itertools.chain.from_iterable(runs.values()):
            self.uses(run)
        return runs

    def finish(self, headline: str, **numbers: Any) -> Markdown:
        """Write ``runs/<profile>/results/NOTEBOOK.json``, proof that the notebook came to its end; the conclusion."""
        result = {"notebook": self.notebook, "headline": headline, "numbers": numbers, **self.saved}
        path = self.settings.folder / "results" / f"{self.notebook}.json"
        paths.write_atomically(path, json.dumps(result, indent=1))
        return Markdown(f"**{headline}**")

    def _note(self, kind: str, entry: dict[str, Any]) -> None:
        self.saved[kind] = [e for e in self.saved[kind] if e["name"] != entry["name"]] + [entry]


def _competed_in(table: pd.DataFrame) -> list[str]:
    """The measured columns whose best value is set in bold; none where the rows are not methods on one dataset."""
    if "dataset" in table or not {"variant", "method", "model"} & set(table):
        return []
    return [c for c in ("SRCC", "PLCC", "KRCC") if c in table and table[c].notna().any()]


def styled(table: pd.DataFrame, caption: str = "") -> Styler:
    """The table as notebooks show it: four digits, the best measured value in bold."""
    return (
        table.style.hide(axis="index")
        .format(precision=4, na_rep="–", escape="html")
        .highlight_max(subset=_competed_in(table), props="font-weight: bold")
        .set_caption(html.escape(caption, quote=False))
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
    cells, names = table.apply(_latex_cells), {column: str(column) for column in table}
    for column in _competed_in(table):
        best = table[column] == table[column].max()
        cells.loc[best, column] = r"\textbf{" + cells.loc[best, column] + "}"
    if {"95 % low", "95 % high"} <= set(table):  # they go behind the number on their left, whose limits they are
        value = list(table)[table.columns.get_loc("95 % low") - 1]
        low, high = cells.pop("95 % low"), cells.pop("95 % high")
        cells[value] += (" [" + low + ", " + high + "]").where(low != "--", "")
        names[value] += " [95 %]"
    numeric = table.select_dtypes("number").columns
    alignment = "".join("r" if column in numeric else "l" for column in cells)
    tabular = cells.rename(columns=lambda column: names[column].translate(LATEX)).style.hide(axis="index")
    body = tabular.to_latex(hrules=True, column_format=alignment).rstrip()
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{caption.translate(LATEX)}}}\n\\label{{tab:{name}}}\n"
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
        f"\n{body}%\n}}\n\\end{{table}}\n"
    )


def _latex_cells(column: pd.Series) -> pd.Series:
    written = "{:.4f}".format if pd.api.types.is_float_dtype(column) else lambda value: str(value).translate(LATEX)
    return column.map(lambda value: "--" if pd.isna(value) else written(value))
