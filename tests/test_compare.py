"""Published methods: scored once on our test images, or a row that says why not."""

import numpy as np
import pytest

from iqa_lib import metrics
from iqa_lib.data.crops import load_images
from iqa_lib.profile import load_profile
from iqa_lib.study import exhibits as study
from iqa_lib.study import experiments
from iqa_lib.study import published as compare


def small(*methods):
    return load_profile("smoke", epochs=1, train_crops=1, compare_methods=methods)


def test_without_pyiqa_the_table_says_how_to_get_it(home, monkeypatch):
    def absent(package):
        raise compare.importlib.metadata.PackageNotFoundError(package)

    settings = small("musiq")
    runs = experiments.results(settings, "main")
    monkeypatch.setattr(compare.importlib.metadata, "version", absent)
    table, _ = study.main_result(settings, runs)["sota_table"]
    row = table.set_index("method").loc["musiq"]
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

        exhibits = study.main_result(settings, experiments.results(settings, "main"))
        row = exhibits["sota_table"][0].set_index("method").loc["piqe"]
        assert row["95 % low"] <= row["SRCC"] <= row["95 % high"] and "pyiqa" in row["remark"]
        assert "SMART-IQA beats piqe" in exhibits["sota_verdicts"][0]["claim"].tolist()

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
        monkeypatch.setattr(study, "published_methods", lambda *_: ({"musiq": scored["piqe"]}, {}))
        table, _ = study.main_result(settings, experiments.results(settings, "main"))["sota_table"]
        assert table.set_index("method").loc["musiq", "paper: SRCC"] == 0.929
        assert "MUSIQ" not in table["method"].tolist()
