"""What fills one panel draws on the Axes it is given, or on a figure of its own; a page saves either."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from iqa_lib.profile import load_profile
from iqa_lib.study import attention, figures, figures_inside
from iqa_lib.study.page import Page

SCORE = np.linspace(5, 95, 20)
TEST = pd.DataFrame(
    {"score": SCORE, "prediction": SCORE[::-1], "reference": [f"photo {n % 4}" for n in range(20)]}
).assign(**dict.fromkeys(attention.ALPHAS, 0.25))
COSTS = pd.DataFrame(
    [("A", "swin", "float32", 1.0, 2.0, 3.0), ("A", "swin", "bf16", 20.0, 21.0, 22.0)],
    columns=["model", "backbone", "precision", "25 %", "latency (ms)", "75 %"],
)
ACCURACY = pd.DataFrame({"model": ["A", "B"], "GMAC": [1, 4], "SRCC": 0.8, "95 % low": 0.7, "95 % high": 0.9, "n": 20})
GROWTH = pd.DataFrame(
    {"what grows": "images", "images": [1, 2], "crops per image": 1, "crops": [1, 2], "seconds": [1, 2]}
)
REPLACED = pd.DataFrame(
    {"weights": ["as learned", "uniform"], "SRCC": 0.8, "n": 20, "seeds": 2, "difference of SRCC": -0.1}
).assign(**{"95 % low": -0.2, "95 % high": 0.0})
SIZES = pd.DataFrame(
    [(model, work, batch, batch / 8, 10.0 * batch)
     for model in "AB" for work in ("scoring", "training") for batch in (1, 2, 4)],
    columns=["model", "work", "batch", "memory (GB)", "crops/s"],
)  # fmt: skip

PANELS = {
    "predicted": lambda ax: figures.predicted_against_true(TEST, "MOS", ax),
    "residuals": lambda ax: figures.residuals(TEST, "MOS", ax),
    "groups": lambda ax: figures.error_by_group(TEST, "reference", ax),
    "raters": lambda ax: figures.raters_curve(
        pd.DataFrame(
            {"dataset": "x", "raters": [1, 2, 2], "SRCC": [0.5, 0.6, 0.8]}
            | {"whose": ["raters", "panel agreement", "limit of a perfect model"]}
        ),
        ax,
    ),
    "accuracy": lambda ax: figures.accuracy_against(ACCURACY, "GMAC", ax),
    "latencies": lambda ax: figures.latencies(COSTS, ax),
    "growth": lambda ax: figures.growth(GROWTH, "images", ax),
    "weights": lambda ax: figures_inside.attention_by_group(
        attention.attention_by(TEST, (TEST["score"] // 50).rename("half")), ax
    ),
    "replaced": lambda ax: figures_inside.scores_with_other_weights(REPLACED, ax),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("draw", PANELS.values(), ids=PANELS)
def test_a_panel_is_drawn_on_the_axes_given_or_on_its_own(draw):
    figure, (left, right) = figures.panels(2, 2, 3, 3)
    assert draw(right) is right and right.has_data() and not left.has_data()
    own = draw(None)
    assert isinstance(own, Axes) and own.figure is not figure and own.has_data()
    figure.canvas.draw()


def test_a_name_in_a_figure_is_no_formula_and_no_command(tmp_path):
    names = ["\u202egpj", "a $\\x$", "b"]
    ax = figures.error_by_group(TEST.assign(reference=np.resize(names, len(TEST))), "reference")
    figures.named("\x1b $\\x$", ax)
    ax.figure.savefig(tmp_path / "x.pdf")
    assert ax.get_title() == r"\x1b $\x$"
    assert {label.get_text().split(" (n")[0] for label in ax.get_yticklabels()} == {r"\u202egpj", r"a $\x$", "b"}


def test_a_page_saves_axes_as_the_figure_they_are_part_of(home):
    page = Page(load_profile("smoke"), "figures")
    saved = page.save(figures.residuals(TEST, "MOS"), "residuals", "Errors", TEST)
    assert saved.axes[0].get_title().startswith("RMSE")
    assert (page.settings.figures / "residuals.pdf").is_file() and page.saved["figures"][0]["name"] == "residuals"


def test_batch_sizes_have_a_panel_for_memory_and_rate_of_scoring_and_training():
    figure = figures.batch_sizes(SIZES)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["scoring", "training"]
    assert all(len(ax.lines) >= 2 and ax.get_xscale() == "log" for ax in figure.axes)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["1", "2", "4"]


def test_activation_by_level_is_a_share_of_the_original():
    table = pd.DataFrame(
        [(name, level, stage, (1 + stage) * (1 - level / 10)) for name in ("blur", "noise")
         for level in range(6) for stage in range(1, 5)],
        columns=["distortion", "level", "stage", "activation"],
    )  # fmt: skip
    figure = figures_inside.activation_by_level(table)
    for ax in figure.axes:
        of_stages = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 6]
        assert len(of_stages) == 4
        np.testing.assert_allclose(of_stages, np.tile([100, 90, 80, 70, 60, 50], (4, 1)))
