"""Published methods: scored once on our test images, or a row that says why not."""

import numpy as np
import pytest

from iqa_lib import metrics
from iqa_lib.data.images import load_images
from iqa_lib.profile import load_profile
from iqa_lib.study import experiments, tables
from iqa_lib.study import published as compare
from iqa_lib.study.statistics import compare_scores


def main_table(settings):
    """As 02_ablation makes it: the table of methods, and the claims."""
    methods, reasons = compare.published_methods(settings, load_images(settings))
    both = experiments.variants(settings, "main")
    runs = experiments.train_all(settings, both) | {name: [run] for name, run in methods.items()}
    table = tables.beside_cited(compare_scores(settings, runs), methods, reasons)
    return table.set_index("method"), tables.claims_of_methods(both, methods)


def small(*methods):
    return load_profile("smoke", epochs=1, train_crops=1, compare_methods=methods)


def test_without_pyiqa_the_table_says_how_to_get_it(home, monkeypatch):
    def absent(package):
        raise compare.importlib.metadata.PackageNotFoundError(package)

    settings = small("musiq")
    experiments.results(settings, "main")
    monkeypatch.setattr(compare.importlib.metadata, "version", absent)
    row = main_table(settings)[0].loc["musiq"]
    assert "pip install -e '.[compare]'" in row["remark"] and np.isnan(row["SRCC"])


class TestWithPyiqa:
    @pytest.fixture(autouse=True)
    def _needs_it(self):
        pytest.importorskip("pyiqa", reason="needs the optional extra: pip install -e '.[compare]'")

    def test_piqe_is_scored_like_a_run_and_compared_with_ours(self, home):
        settings = small("piqe")
        images = load_images(settings)
        scored, reasons = compare.published_methods(settings, images)
        test = scored["piqe"].test
        assert not reasons and len(test) == len(images.rows("test"))
        assert (test["prediction"] <= 0).all()  # PIQE counts faults: turned round, higher is better
        assert scored["piqe"].srcc == metrics.srcc(test["prediction"], test["score"])

        table, claims = main_table(settings)
        row = table.loc["piqe"]
        assert row["95 % low"] <= row["SRCC"] <= row["95 % high"] and "pyiqa" in row["remark"]
        assert "SMART-IQA beats piqe" in [claim.text for claim in claims]

    def test_it_is_scored_once(self, home, monkeypatch):
        settings = small("piqe")
        images = load_images(settings)
        first, _ = compare.published_methods(settings, images)
        monkeypatch.setattr(compare, "_score", pytest.fail)
        again, _ = compare.published_methods(settings, images)
        assert again["piqe"].folder == first["piqe"].folder

    def test_weights_out_of_reach_and_unknown_names_are_told_and_stop_nothing(self, home, monkeypatch):
        import pyiqa

        def offline(*args, **kwargs):
            raise OSError("no network")

        monkeypatch.setattr(pyiqa, "create_metric", offline)
        settings = small("musiq", "musik")
        _, reasons = compare.published_methods(settings, load_images(settings))
        assert "no network" in reasons["musiq"]
        assert "no no-reference metric" in reasons["musik"] and "musiq" in reasons["musik"]

    def test_the_papers_figure_stands_beside_a_method_that_it_cites(self, home, monkeypatch):
        settings = small("piqe")
        scored, _ = compare.published_methods(settings, load_images(settings))
        monkeypatch.setattr(compare, "published_methods", lambda *_: ({"musiq": scored["piqe"]}, {}))
        table, _ = main_table(settings)
        assert table.loc["musiq", "paper: SRCC"] == 0.929
        assert "MUSIQ" not in table.index
