"""How sure a score is: intervals that cover, marks on what the model does not know, scores that can be verified."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from skimage import data as photographs

from iqa_lib import __main__, metrics, paths
from iqa_lib.data.catalog import CATALOG
from iqa_lib.data.images import ImageSet
from iqa_lib.errors import CheckpointError, DataError
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.scoring import certainty, verify
from iqa_lib.scoring.certainty import Traits, conformal_quantile, fit
from iqa_lib.scoring.metric import Metric
from iqa_lib.scoring.score import load_scorer, score, score_all

CROP = 64  # as in conftest.py


def simulated(n, seed):
    """Traits of photographs whose scores miss the truth by more the lower they are, and the truth."""
    rng = np.random.default_rng(seed)
    score_N = rng.uniform(10, 90, n)
    truth_N = score_N + rng.normal(size=n) * (12 - score_N / 10)
    return Traits(score_N, rng.random(n), rng.normal(size=(n, 5)), rng.uniform(0, 0.4, n)), truth_N


@pytest.fixture(scope="module")
def fitted():
    (train, rated), (val, val_truth), (test, test_truth) = (simulated(n, n) for n in (301, 1500, 2000))
    return fit(train, val, test, val_truth, test_truth, rated)


# --- the interval ---


def test_nine_in_ten_intervals_cover_the_truth_of_new_photographs(fitted):
    new, truth_N = simulated(20_000, 1)
    covered_N = np.abs(truth_N - new.score_N) <= fitted.half_width(new)
    assert 0.88 < covered_N.mean() < 0.92
    for decile in np.array_split(np.argsort(new.score_N), 10):
        assert 0.84 < covered_N[decile].mean() < 0.97


def test_coverage_holds_on_average_over_calibrations_however_few_the_images():
    new, truth_N = simulated(500, 1)
    covered = []
    for seed in range(100):
        (train, rated), (val, val_truth), (test, test_truth) = (simulated(n, 10 * seed + n) for n in (40, 50, 25))
        found = fit(train, val, test, val_truth, test_truth, rated)
        covered.append((np.abs(truth_N - new.score_N) <= found.half_width(new)).mean())
    assert 0.88 < np.mean(covered) < 0.94


def test_an_interval_is_wider_where_the_model_is_less_sure_and_narrower_than_a_constant_one(fitted):
    new, _ = simulated(20_000, 1)
    half_N = fitted.half_width(new)
    assert metrics.srcc(half_N, -new.score_N) > 0.95
    test, truth_N = simulated(2000, 2000)
    assert half_N.mean() < 0.97 * conformal_quantile(np.abs(truth_N - test.score_N), 0.1)


@pytest.mark.parametrize("n", [9, 19, 100, 101, 999])
def test_the_quantile_is_that_of_the_formula(n):
    values = np.random.default_rng(n).random(n)
    assert conformal_quantile(values, 0.1) == np.sort(values)[int(np.ceil((n + 1) * 0.9 - 1e-9)) - 1]


def test_the_interval_is_that_of_mapie():
    regression = pytest.importorskip("mapie.regression")
    scores = pytest.importorskip("mapie.conformity_scores")
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(0)
    x, y = rng.random((200, 1)), rng.random(200)
    line = LinearRegression().fit(x, y)
    mapie = regression.SplitConformalRegressor(line, 0.9, scores.AbsoluteConformityScore(), prefit=True)
    _, ends = mapie.conformalize(x, y).predict_interval(x[:1])
    expected = (ends[0, 1, 0] - ends[0, 0, 0]) / 2
    assert conformal_quantile(np.abs(y - line.predict(x)), 0.1) == pytest.approx(expected)


def test_the_spread_of_crops_counts_for_nothing_where_few_calibration_images_have_several():
    (train, rated), (val, val_truth), (test, test_truth) = (simulated(n, n) for n in (300, 500, 600))
    new, _ = simulated(100, 1)
    one_crop = [part._replace(spread_N=np.where(np.arange(len(part.score_N)) % 40, 0, 0.1)) for part in (val, test)]
    found = fit(train, *one_crop, val_truth, test_truth, rated)
    np.testing.assert_allclose(found.half_width(new), found.half_width(new._replace(spread_N=9 * new.spread_N)))


def test_too_few_images_give_no_interval_rather_than_a_wrong_one():
    assert conformal_quantile(np.arange(8), 0.1) == np.inf and conformal_quantile(np.arange(9), 0.1) == 8
    (train, rated), (val, val_truth), (test, test_truth) = (simulated(n, n) for n in (20, 8, 7))
    assert np.isnan(fit(train, val, test, val_truth, test_truth, rated).half_width(test)).all()


def test_a_percentile_counts_the_photographs_that_people_scored_lower(fitted):
    assert fitted.better_than(np.array([-100.0, 200.0])).tolist() == [0, 100]
    rated = simulated(301, 301)[1]
    assert fitted.better_than(np.array([50.0]))[0] == pytest.approx(100 * (rated < 50).mean(), abs=1)
    assert fitted.rated == 301


# --- a model of its own: calibrated on a tiny set ---


def parts_of_photographs(n):
    """An image set of parts of four photographs, with scores from nowhere."""
    rng = np.random.default_rng(0)
    whole = [getattr(photographs, name)() for name in ("coffee", "chelsea", "rocket", "astronaut")]
    parts = []
    for number in range(n):
        side = int(rng.integers(100, 300))
        top, left = (int(rng.integers(0, length - side + 1)) for length in whole[number % 4].shape[:2])
        part = Image.fromarray(whole[number % 4][top : top + side, left : left + side])
        parts.append(np.asarray(part.resize((96, 64), Image.Resampling.BICUBIC)))
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(n)], "score": rng.uniform(0, 100, n)})
    table["split"] = ["train"] * (n // 2) + ["val"] * (n // 4) + ["test"] * (n - n // 2 - n // 4)
    return ImageSet(table, np.concatenate(parts, axis=None), np.tile([64, 96], (n, 1)), "parts")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A folder with a model that sees something, and what it is sure of."""
    folder = tmp_path_factory.mktemp("models") / "sure"
    torch.manual_seed(0)
    SmartIQA(backbone="tf_efficientnet_lite0", image_size=CROP).save_pretrained(folder)
    scorer = load_scorer(folder)
    certainty.calibrate(scorer, parts_of_photographs(120), "biq2021").save(folder, scorer.model)
    return folder


@pytest.fixture(scope="module")
def sure(calibrated):
    return load_scorer(calibrated)


@pytest.fixture
def photos(tmp_path):
    place = tmp_path / "photos"
    place.mkdir()
    for name in ("coffee", "chelsea", "rocket"):
        Image.fromarray(getattr(photographs, name)()).resize((150, 100)).save(place / f"{name}.png")
    return place


def command(*arguments):
    return __main__.main([str(a) for a in arguments])


def test_noise_single_colours_and_drawings_are_marked_and_photographs_are_not(sure, photos):
    rng = np.random.default_rng(0)
    drawing = np.full((100, 150, 3), 255, np.uint8)
    drawing[20:60, 30:90] = [200, 30, 30]
    odd = [rng.integers(0, 256, (100, 150, 3), dtype=np.uint8), np.full((100, 150, 3), 90, np.uint8), drawing]
    assert score_all(sure, odd, 3)["mark"].tolist() == ["unlike"] * 3
    table = score_all(sure, sorted(photos.iterdir()), 3)
    assert table["mark"].tolist() == [""] * 3 and table["score"].notna().all()


def test_a_photograph_below_the_crop_size_is_marked_and_keeps_its_number(sure, tmp_path):
    Image.fromarray(photographs.coffee()).resize((63, 200)).save(tmp_path / "small.png")
    for given in (tmp_path / "small.png", Image.open(tmp_path / "small.png"), np.zeros((63, 200, 3), np.uint8)):
        (row,) = score_all(sure, [given], 1).to_dict("records")
        assert "small" in row["mark"].split() and np.isfinite(row["score"])
    with pytest.warns(UserWarning, match=r"'small': 1 of 1 images, smaller than its crops of 64 px"):
        assert np.isfinite(score(tmp_path / "small.png", sure))


def test_scores_come_with_an_interval_and_are_those_of_the_model_without(calibrated, sure, photos):
    table = score_all(sure, sorted(photos.iterdir()), 3)
    plain = score_all(sure._replace(certainty=None), sorted(photos.iterdir()), 3)
    assert table.columns.tolist() == ["image", "score", "low", "high", "better_than", "mark", "fault", "pixels"]
    pd.testing.assert_frame_equal(table[plain.columns], plain)
    np.testing.assert_allclose(table["high"] - table["score"], table["score"] - table["low"])
    assert (table["high"] > table["low"]).all() and table["better_than"].between(0, 100).all()
    ends_N2 = Metric(sure).interval(photos)
    np.testing.assert_allclose(ends_N2, table[["low", "high"]], atol=1e-4)


def test_a_model_that_was_not_calibrated_scores_without(scorer, photos):
    table = score_all(scorer, sorted(photos.iterdir()), 3)
    assert table.columns.tolist() == ["image", "score", "fault", "pixels"]
    with pytest.raises(DataError, match="tiny was not calibrated"):
        Metric(scorer).interval(photos)


def test_the_command_prints_interval_and_percentile_and_counts_what_is_marked(calibrated, photos, capsys):
    Image.new("RGB", (40, 40), "red").save(photos / "red.png")
    (photos / "bad.jpg").write_text("no image")
    assert command("score", photos, "--model", calibrated, "--csv", photos / "s.csv") == 1
    shown = capsys.readouterr()
    assert len(re.findall(r"\d ± \d+\.\d .* \d+ % ", shown.out)) == 4
    assert re.search(r"better than so many of\s+[\d,]+\s+rated", shown.out)
    assert "marked 'unlike': 1 of 5 images, unlike anything that the model knows\n" in shown.err
    assert "marked 'small': 1 of 5 images, smaller than its crops of 64 px\n" in shown.err
    table = pd.read_csv(photos / "s.csv", keep_default_na=False).set_index("image")
    assert table.loc[str(photos / "red.png"), "mark"] == "unlike small"
    assert table.loc[str(photos / "bad.jpg"), ["score", "low", "better_than", "mark", "pixels"]].tolist() == [""] * 5


def test_another_models_certainty_and_a_damaged_one_are_refused(calibrated, scorer, folder, tmp_path):
    (tmp_path / "m").mkdir()
    scorer.model.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / certainty.FILE
    file.write_bytes((calibrated / certainty.FILE).read_bytes())
    with pytest.raises(
        CheckpointError, match=r"is of the model \w+, the weights beside it are \w+\. Calibrate the model"
    ):
        load_scorer(tmp_path / "m")
    file.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"is damaged .* or remove"):
        load_scorer(tmp_path / "m")


def test_finetuning_calibrates_the_model_on_the_users_own_images(home, monkeypatch, photos, capsys):
    """What the command does after the notebooks, which another test runs."""
    own = home / "own"
    own.mkdir()
    rng = np.random.default_rng(0)
    photo = Image.fromarray(photographs.chelsea())
    for i in range(60):
        photo.crop((i, i, i + 150, i + 150)).resize((CROP, CROP)).rotate(6 * i).save(own / f"{i}.png")
    (own / "labels.csv").write_text("image,score\n" + "".join(f"{i}.png,{rng.random():.3f}\n" for i in range(60)))
    monkeypatch.setattr("iqa_lib.workbook.runner.run_workbook", lambda *_, **__: 0)
    wanted = ["finetune", own / "labels.csv", "--range", "0", "1", "--profile", "smoke", "-p", "epochs=1"]
    assert command(*wanted) == 0
    assert "Calibrated on 12 test images" in capsys.readouterr().out
    scorer = load_scorer("mine")
    assert command(*wanted, "protocol=paper", "--name", "paper") == 0
    assert "No 90 % intervals: they take validation images" in capsys.readouterr().out
    assert scorer.certainty.rated == 60 and scorer.certainty.data == "labels"
    assert (score_all(scorer, [photos / "coffee.png"], 1)["high"] > 0).all()


# --- the passport ---


@pytest.fixture
def scores(calibrated, photos):
    assert command("score", photos, "--model", calibrated, "--csv", photos / "s.csv") == 0
    return photos / "s.csv"


def verified(capsys, table, calibrated):
    capsys.readouterr()
    code = command("verify", table, "--model", calibrated)
    return code, capsys.readouterr().out


def test_a_table_of_scores_is_verified_wherever_it_lies(scores, calibrated, capsys, tmp_path):
    code, told = verified(capsys, scores, calibrated)
    assert code == 0 and re.fullmatch(r"same: 3 of 3 scores computed again, apart by \S+ points at most\.\n", told)
    assert command("score", scores.parent, "--model", calibrated, "--json") == 0
    (tmp_path / "s.json").write_text(capsys.readouterr().out)
    assert json.loads((tmp_path / "s.json").read_text())[0]["scored_by"].startswith("model=")
    assert verified(capsys, tmp_path / "s.json", calibrated)[0] == 0
    table = pd.read_csv(scores)
    table["image"] = [name.rsplit("/", 1)[-1] for name in table["image"]]
    table.to_csv(scores, index=False)
    assert verified(capsys, scores, calibrated)[0] == 0


def test_verify_names_the_file_that_changed_and_by_how_much(scores, calibrated, capsys):
    Image.fromarray(photographs.coffee()).resize((150, 100)).rotate(180).save(scores.parent / "chelsea.png")
    (scores.parent / "rocket.png").unlink()
    code, told = verified(capsys, scores, calibrated)
    assert code == 1 and told.startswith("different: 3 of 3")
    assert re.search(r"file: 1 of 3 decode to other pixels, .*chelsea\.png", told)
    assert re.search(r"file: .*rocket\.png ", told)
    assert re.search(r"size: 1 of 3 scores differ, .* at most [\d.]+: .*chelsea\.png, [\d.-]+ then, [\d.-]+ now", told)
    assert "model:" not in told


def test_verify_names_another_model(scores, calibrated, folder, capsys):
    code, told = verified(capsys, scores, folder)
    assert code == 1 and re.search(r"model: \w{16} then, \w{16} now\n", told)
    assert "name: sure then, tiny now" in told and "size: 3 of 3 scores differ" in told and "file:" not in told


def test_another_version_is_named_and_the_same_scores_stay_the_same(scores, calibrated, capsys):
    text = scores.read_text()
    scores.write_text(re.sub(r"pillow=[\d.]+", "pillow=1.2.3", text))
    code, told = verified(capsys, scores, calibrated)
    assert code == 0 and re.search(r"though these differ: pillow: 1\.2\.3 then, [\d.]+ now", told)


def test_a_table_without_a_passport_or_of_two_models_is_refused_in_words(scores, calibrated, folder, capsys):
    two = scores.with_name("two.csv")
    command("score", scores.parent, "--model", folder, "--csv", two)
    pd.concat([pd.read_csv(scores), pd.read_csv(two)]).to_csv(two, index=False)
    assert command("verify", two) == 2
    assert re.search(r"holds scores of 2 makings \(.*tiny.*\): verify each", capsys.readouterr().err)
    pd.read_csv(scores)[["image", "score"]].to_csv(scores, index=False)
    for given in (scores, scores.with_name("absent.csv")):
        assert command("verify", given) == 2
        assert "expected is a table that `score` wrote" in capsys.readouterr().err
    assert command("cite", scores) == 2


def test_the_model_is_found_by_the_tables_own_word_or_asked_for(scores, capsys):
    assert command("verify", scores) == 2
    assert re.search(r"The table is by 'sure' \(\w{16}\): --model says where it is", capsys.readouterr().err)


def test_cite_prints_a_sentence_and_bibtex_of_program_method_and_data(scores, capsys):
    assert command("cite", scores) == 0
    told = capsys.readouterr().out
    sentence = " ".join(told.partition("\n\n")[0].split())
    assert "quality of 3 images" in sentence and "Intervals are 90 %" in sentence
    assert re.search(r"trained on BIQ2021 .* SHA-256 \w{16}…", sentence)
    entries = dict(re.findall(r"@\w+\{(\w+),\n(.*?)\n\}", told, re.S))
    assert entries.keys() == {"workbook", "smartiqa", "su2020hyperiqa", "biq2021", "lei2018conformal"}
    assert set(re.findall(r"\[(\w+)\]", told)) == entries.keys()
    assert "author = {Ahmed and Asif}" in entries["biq2021"] and "year = {2022}" in entries["biq2021"]


def test_every_citation_of_the_catalog_and_of_citation_cff_is_bibtex():
    for known in CATALOG.values():
        if not known.build:
            assert re.search(r"author = \{\w.*year = \{\d{4}\}", verify._bibtex("key", known.citation), re.S)
    cff = yaml.safe_load((paths.CHECKOUT / "CITATION.cff").read_text())
    for work in cff["references"]:
        assert any(work["title"] in citation for citation in verify.METHODS.values())
