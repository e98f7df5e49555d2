"""Tables that say what they say of any data set, small panels and few votes among them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from layouts import csiq

from iqa_lib.data.readers.tables import VOTES
from iqa_lib.profile import load_profile
from iqa_lib.study import tables
from iqa_lib.study.page import about_numbers, styled, to_latex


class Voted:
    """The part of an image set that the agreement of raters is computed from."""

    def __init__(self, raters, images=60):
        rng = np.random.default_rng(0)
        quality = rng.normal(3, 1, size=(images, 1))
        votes = np.clip((quality + rng.normal(size=(images, max(raters)))).round(), 1, 5)
        votes[np.arange(max(raters)) >= np.resize(raters, images)[:, None]] = 0
        self.table = pd.DataFrame({vote: (votes == level).sum(axis=1) for level, vote in enumerate(VOTES, 1)})

    def rows(self, split):
        return np.arange(len(self.table))


@pytest.mark.parametrize("raters", [[2], [5], [20], [30], [12, 40], [0, 1, 9]])
def test_raters_of_any_panel_agree_as_far_as_it_can_tell(raters):
    table = tables.agreement_of_raters({"own": Voted(raters)}).set_index("whose")
    assert table.loc["limit of a perfect model", "SRCC"] > table.loc["panel agreement", "SRCC"] > 0
    smallest = min(count for count in raters if count > 1)
    assert (table.loc[["raters"], "raters"] <= max(smallest / 2, np.median([r for r in raters if r > 1]) / 2)).all()


def test_of_single_votes_nothing_is_told():
    assert tables.agreement_of_raters({"own": Voted([1])}).empty


@pytest.mark.parametrize(
    ("table", "best"),
    [
        (pd.DataFrame({"variant": ["L1", "L2"], "SRCC": [0.9, 0.8]}), 1),
        (pd.DataFrame({"what is reported": ["grid of crops (honest)", "best of 20 draws"], "SRCC": [0.8, 0.9]}), 0),
        (pd.DataFrame({"variant": ["base", "base"], "SRCC": [0.9, 0.5], "dataset": ["here", "elsewhere"]}), 0),
        (pd.DataFrame({"dataset": "x", "whose": ["raters", "limit of a perfect model"], "SRCC": [0.8, 0.9]}), 0),
    ],
    ids=["methods", "ways to report", "datasets", "raters"],
)
def test_the_best_is_in_bold_only_where_methods_compete(table, best):
    assert to_latex(table, "x", "x").count("textbf") == best
    assert styled(table).to_html().count("bold") == best


def test_a_name_is_no_markup_in_a_notebook():
    html = styled(pd.DataFrame({"image": ["<img src=x>.jpg"], "SRCC": 0.5}), "of <b> & “c”").to_html()
    assert "<img" not in html and "<b>" not in html and "&lt;img src=x&gt;.jpg" in html


def test_a_set_in_a_folder_of_another_name_is_called_what_it_is(tmp_path):
    csiq(tmp_path / "elsewhere/mine")
    settings = load_profile("smoke", dataset="mine", data_folder=str(tmp_path / "elsewhere"))
    assert about_numbers(settings).startswith("CSIQ, DMOS")


def reported(monkeypatch, changes, srcc):
    """`tables.protocols` of runs whose test-set choice gained ``changes``, and of trainings with these SRCC."""

    def of(settings, run, images):
        return pd.DataFrame({"what is reported": ["honest", "chosen on test"], "n": 9, "SRCC": 0.8, "change": [0, run]})

    monkeypatch.setattr(tables, "_ways_of_reporting", of)
    monkeypatch.setattr(tables.experiments, "crops_are_whole_images", lambda *_: False)
    return tables.protocols(None, changes, [SimpleNamespace(srcc=value) for value in srcc], None).set_index(
        "what is reported"
    )


def test_what_a_way_of_reporting_gains_has_an_interval_over_runs(monkeypatch):
    table = reported(monkeypatch, [0.01, 0.02, 0.03], [0.8, 0.81])
    assert table.loc["chosen on test", ["change", "95 % low", "95 % high", "runs"]].tolist() == [
        0.02,
        -0.0048,
        0.0448,
        3,
    ]
    one = reported(monkeypatch, [0.01], [0.8]).loc[:, ["95 % low", "95 % high"]]
    assert one.isna().all(axis=None), "one run says nothing of the next"


def test_the_best_of_five_trainings_gains_what_it_does_with_normal_scatter(monkeypatch):
    rng, true = np.random.default_rng(0), 0.01 * np.random.default_rng(1).normal(size=(100_000, 5)).max(1).mean()
    rows = [reported(monkeypatch, [0], rng.normal(0.8, 0.01, 4)).loc["best of 5 trainings"] for _ in range(300)]
    assert np.mean([row["95 % low"] <= true <= row["95 % high"] for row in rows]) == pytest.approx(0.95, abs=0.03)
    assert rows[0]["runs"] == 4
