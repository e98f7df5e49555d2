"""What ratings teach: a taste is learnt, mean opinion is left alone, the numbers said of both hold."""

import numpy as np
import pytest
import torch
from PIL import Image
from ratings_by import photographs

from iqa_lib import metrics
from iqa_lib.__main__ import main
from iqa_lib.errors import DataError, ImageError
from iqa_lib.models.smart_iqa import SmartIQA
from iqa_lib.rating import learn, take_along
from iqa_lib.rating.session import EVERY, GAP, Session, Study

CHANNELS = 40


def simulated(seed, number=400, taste=0.0, noise=8.0):
    """What a model sees of photographs, and ratings that follow its score and, by so much, a direction of channels."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(number, CHANNELS)) @ rng.normal(size=(CHANNELS, CHANNELS)) * 0.3
    score = rng.normal(60, 15, number)
    liked = means @ np.random.default_rng(99).normal(size=CHANNELS)
    rating = score + taste * liked / liked.std() + noise * rng.normal(size=number)
    return learn.Seen([str(i) for i in range(number)], score, means), rating


def test_a_taste_is_learnt_and_without_one_the_order_stays():
    for taste, gains in ((15, True), (0, False)):
        seen, rating = simulated(0, taste=taste)
        weights = learn.fit(seen.design_NP[:150], (rating - seen.score_N)[:150])
        tuned = seen.score_N + seen.design_NP @ weights
        gain = metrics.srcc(tuned[150:], rating[150:]) - metrics.srcc(seen.score_N[150:], rating[150:])
        assert gain > 0.15 if gains else abs(gain) < 0.01


def test_offset_and_slope_of_a_raters_scale_are_learnt_from_few():
    seen, rating = simulated(1, noise=2)
    her_scale = 20 + 0.5 * rating
    weights = learn.fit(seen.design_NP[:20], (her_scale - seen.score_N)[:20])
    predicted = seen.score_N + seen.design_NP @ weights
    assert metrics.rmse(predicted[20:], her_scale[20:]) < 2.5 < 5 < metrics.rmse(seen.score_N, her_scale)


@pytest.mark.parametrize("taste", [0, 6])
def test_intervals_of_agreement_and_gain_hold_what_new_photographs_show(taste):
    held, gained = [], []
    for seed in range(20):
        seen, rating = simulated(seed, 1000, taste=taste)
        rated, new = np.arange(100), np.arange(100, 1000)
        found = learn.agreement(seen, rated, rating[rated], rated)
        tuned = seen.score_N + seen.design_NP @ learn.fit(seen.design_NP[rated], (rating - seen.score_N)[rated])
        real, default = (metrics.srcc(p[new], rating[new]) for p in (tuned, seen.score_N))
        held.append(found.tuned.low <= real <= found.tuned.high)
        gained.append(found.gain.low - 0.003 <= real - default <= found.gain.high + 0.003)
    assert np.mean(held) >= 0.8 and np.mean(gained) >= 0.75  # 95 % and, measured, 90 %: 20 raters


def test_near_copies_are_never_on_both_sides():
    seen, rating = simulated(2, 60, noise=30)
    doubled = learn.Seen(seen.names * 2, np.tile(seen.score_N, 2), np.tile(seen.means_NF, (2, 1)))
    rows, ratings, groups = np.arange(120), np.tile(rating, 2), np.tile(np.arange(60), 2)
    honest = metrics.srcc(learn.held_out(doubled, rows, ratings, groups), ratings)
    apart = metrics.srcc(learn.held_out(doubled, rows, ratings, rows), ratings)
    assert honest < apart - 0.02  # split apart, the copy in training gives its twin away


def test_only_what_was_drawn_at_random_is_tested_on():
    seen, rating = simulated(3, 100)
    tested = np.arange(100) < 40
    assert learn.agreement(seen, np.arange(100), rating, np.arange(100), tested).tested == 40


def test_the_least_sure_is_far_from_what_is_known_and_from_the_one_before():
    seen, _ = simulated(4, 200)
    seen.means_NF[150:] *= 4
    chosen = list(range(20))
    for _ in range(10):
        chosen.append(learn.least_sure(seen, chosen, [row for row in range(200) if row not in chosen]))
    assert sum(row >= 150 for row in chosen[20:]) >= 9 and len(set(chosen)) == 30


def test_the_curve_begins_at_the_default_rises_with_a_taste_and_its_forecast_is_near():
    seen, rating = simulated(5, 1000, taste=12)
    rows = np.arange(160)
    found = learn.curve(seen, rows, rating[rows], rows)
    assert found.ratings_M[0] == 0 and found.ratings_M[-1] <= 120
    assert found.srcc_M[0] == pytest.approx(metrics.srcc(seen.score_N[rows], rating[rows]), abs=1e-6)
    assert found.srcc_M[-1] > found.srcc_M[0] + 0.1
    real = [
        metrics.srcc((seen.score_N + seen.design_NP @ learn.fit(seen.design_NP[:n], (rating - seen.score_N)[:n]))[320:],
                     rating[320:])
        for n in (160, 320)
    ]  # fmt: skip
    more = found.gain(160, 320)
    assert more.low - 0.01 <= real[1] - real[0] <= more.high + 0.01 and more.value >= 0


def test_a_power_law_is_recovered_and_ends_at_the_ceiling():
    ratings = np.array([0, 10, 20, 40, 80, 160])
    limit, fall, exponent = learn.power_law(ratings, np.append(0.5, 0.8 - 0.9 * ratings[1:] ** -0.5))
    assert (limit, fall, exponent) == (pytest.approx(0.8), pytest.approx(0.9), 0.5)
    assert learn.power_law(ratings, np.append(0.5, 0.8 - 0.9 * ratings[1:] ** -0.5), ceiling=0.7)[0] <= 0.7
    assert learn.power_law(ratings, np.linspace(0.9, 0.8, 6))[1] == pytest.approx(0, abs=1e-9)  # it never falls


# --- the folder and the model ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("rated") / "my photos", 24)


@pytest.fixture(scope="module")
def rated(folder):
    """24 photographs, rated by one who likes the blurred ones; the cache of what the model sees is in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iqa_lib.paths.DATA", folder.parent / "data")
        study = Study(folder)
        session = Session(study, "Ann")
        while item := session.item():
            session.rate(item, 1 + int(item.images[0][:3]) % 5, seconds=1.5)
        study.look()
        yield study


def test_a_session_shows_each_once_and_some_again_in_an_order_of_her_own(rated):
    given = Session(rated, "Ann").given
    first = [line["image"] for line in given if not line["repeat"]]
    again = [place for place, line in enumerate(given) if line["repeat"]]
    assert sorted(first) == sorted(rated.files) and again == [EVERY - 1, 2 * EVERY - 1]
    for place in again:
        before = next(i for i, line in enumerate(given) if line["image"] == given[place]["image"])
        assert place - before >= GAP
    assert Session(rated, "Ben").order != Session(rated, "Ann").order == Session(rated, "Ann").order


def test_what_is_undone_comes_again_also_after_a_restart(folder, tmp_path):
    session = Session(Study(folder), "Undoer")
    first = session.item()
    session.rate(first, 2)
    second = session.item()
    session.rate(second, 3)
    assert session.undo()
    again = Session(Study(folder), "Undoer")  # the page is loaded again
    assert again.item().images == second.images and len(again.given) == 1
    assert not again.rate(second, 3)  # the press of a page that has not noticed
    assert again.rate(again.item(), 5) and again.item().images not in (first.images, second.images)


@pytest.mark.parametrize("kind", ["slider", "pair"])
def test_the_other_ways_of_rating_come_to_an_end(folder, kind, tmp_path):
    copy = photographs(tmp_path / "p", 6)
    session = Session(Study(copy), "Ann", kind)
    planned = session.planned
    while item := session.item():
        assert len(set(item.images)) == (2 if kind == "pair" else 1)
        session.rate(item, 1 if kind == "pair" else 77.5)
    assert len(session.given) in (planned, planned - 1)
    images, _ = session.study.images() if kind == "slider" else (None, None)
    assert images is None or (images["score"] == 77.5).all()


def test_active_choice_leaves_a_share_at_random_and_says_which(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("iqa_lib.paths.DATA", folder.parent / "data")
    monkeypatch.setattr(learn, "FEWEST", 6)
    study = Study(photographs(tmp_path / "p", 24))
    study.look()
    session = Session(study, "Ann", choice="active")
    while item := session.item():
        session.rate(item, 3)
    chosen = [line["chosen"] for line in session.given if not line["repeat"]]
    assert set(chosen[:6]) == {"random"} and chosen.count("active") >= 8 and chosen[6:].count("random") >= 2


def test_photographs_as_people_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr("iqa_lib.paths.DATA", tmp_path / "data")
    folder = photographs(tmp_path / "p", 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.effect_noise((640, 400), 50).convert("RGB").save(folder / "upright.jpg", exif=exif)
    Image.linear_gradient("L").resize((8000, 6000)).save(folder / "48 megapixels.jpg")
    (folder / "broken.jpg").write_bytes((folder / "000.jpg").read_bytes()[:500])
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.open(folder / "001.jpg")).save(folder / "telephone.heic")
    study = Study(folder)
    import io

    shown = {name: Image.open(io.BytesIO(study.picture(name, 1080))).size for name in study.files if name[0] != "b"}
    assert shown["upright.jpg"] == (400, 640) and study.size("upright.jpg") == [400, 640]
    assert shown["48 megapixels.jpg"] == (1440, 1080) and study.size("48 megapixels.jpg") == [8000, 6000]
    assert Image.open(io.BytesIO(study.detail("48 megapixels.jpg", 0.9, 0.9))).size == (1400, 900)
    assert "telephone.heic" in shown
    with pytest.raises(ImageError):
        study.picture("broken.jpg", 1080)
    session = Session(study, "Ann")
    while item := session.item():
        session.rate(item, 3)
    assert {line["image"] for line in session.given} == set(shown)  # skipped, with the reason in ``faults``
    assert "cannot be decoded" in study.faults["broken.jpg"]
    assert len(study.look().names) == 5


def test_too_few_ratings_are_said(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("iqa_lib.paths.DATA", folder.parent / "data")
    study = Study(photographs(tmp_path / "p", 3))
    session = Session(study, "Ann")
    session.rate(session.item(), 3)
    with pytest.raises(DataError, match="1 photographs are rated; a model can learn from 20 on"):
        study.lessons()


def test_ratings_all_alike_teach_nothing_and_it_says_so(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("iqa_lib.paths.DATA", folder.parent / "data")
    monkeypatch.setattr(learn, "FEWEST", 3)
    study = Study(photographs(tmp_path / "p", 4))
    session = Session(study, "Ann")
    while item := session.item():
        session.rate(item, 3)
    with pytest.raises(DataError, match="All 4 photographs are rated alike"):
        study.lessons()


def test_points_of_five_are_whole(folder, tmp_path):
    session = Session(Study(photographs(tmp_path / "p", 1)), "Ann")
    with pytest.raises(DataError, match="a whole number from 1 to 5"):
        session.rate(session.item(), 2.7)


@pytest.mark.slow
def test_a_file_of_ones_own_is_not_written_over(rated, tmp_path):
    labels = rated.folder / take_along.LABELS
    kept = labels.read_bytes() if labels.exists() else None
    labels.write_text("rater,image,rating,comment\nAnn,a.jpg,5,lovely\n")
    with pytest.raises(DataError, match="is there already and was not made here"):
        take_along.save(rated, take_along.report(rated))
    assert "lovely" in labels.read_text()
    labels.unlink()
    if kept is not None:
        labels.write_bytes(kept)


@pytest.mark.slow
def test_the_model_goes_along_in_one_folder(rated, monkeypatch, capsys):
    from iqa_lib.models.export import OnnxScorer
    from iqa_lib.scoring.score import load_scorer, score_all

    report = take_along.report(rated)
    folder = take_along.save(rated, report)
    seen, rows, rating, _, _ = report.lessons
    expected = seen.score_N + seen.design_NP @ learn.fit(seen.design_NP[rows], rating - seen.score_N[rows])
    scorer = load_scorer(folder)
    table = score_all(scorer, [rated.files[name] for name in seen.names], len(seen.names))
    assert np.abs(table["score"] - expected).max() < 0.01  # float32
    assert (table["high"] - table["low"]).std() < 1e-6 and table["low"].notna().all()
    assert SmartIQA.from_pretrained(folder).head.correction is not None
    crops = np.random.default_rng(0).integers(0, 256, (2, 3, 384, 384), dtype=np.uint8)
    with torch.inference_mode():
        ours = scorer.score_crops(torch.from_numpy(crops)).numpy()
    assert np.abs(OnnxScorer(folder / "model.onnx")(crops) - ours).max() < 1e-3
    assert report.lines[1] in (folder / "README.md").read_text()
    assert main(["score", str(rated.folder / "000.jpg"), "--model", str(folder)]) == 0
    assert main(["data", "check", str(rated.folder / "ratings.csv")]) in (0, 1)  # few images are no fault of the format
    assert "ratings.csv" not in capsys.readouterr().err
    settings, models = take_along.for_explorer(rated)
    assert settings.dataset.endswith("ratings.csv") and [m.label for m in models] == ["yours", "default"]
