"""The field's numbers and their edges, and intervals that are right as often as they say."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated import by_reference, limit_and_truth, normal, share, spearman_of

from iqa_lib import metrics
from iqa_lib.errors import DataError

# ------------------------------------------------------------------------------------------------ statistics


def test_known_values():
    truth = np.array([1.0, 2, 3, 4, 5])
    assert metrics.srcc(truth**3, truth) == pytest.approx(1)
    assert metrics.plcc(-2 * truth + 7, truth) == pytest.approx(-1)
    assert metrics.krcc(np.array([1.0, 2, 3, 5, 4]), truth) == pytest.approx(0.8)
    assert metrics.rmse(truth + 3, truth) == pytest.approx(3)


def test_correlations_of_tied_values_are_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, size=(2, 200)).astype(float)
    assert metrics.srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert metrics.plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert metrics.krcc(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("metric", [metrics.srcc, metrics.plcc, metrics.krcc, metrics.rmse])
def test_rows_are_reduced_one_by_one(metric):
    rng = np.random.default_rng(0)
    predicted, score = rng.normal(size=(4, 3, 30)).round(1), rng.normal(size=30)
    one_by_one = [[metric(row, score) for row in rows] for rows in predicted]
    np.testing.assert_allclose(metric(predicted, score), one_by_one, rtol=1e-12)


@pytest.mark.parametrize("metric", [metrics.srcc, metrics.plcc, metrics.krcc])
def test_a_constant_side_two_images_or_a_nan_is_undefined_not_zero(metric):
    assert math.isnan(metric(np.ones(5), np.arange(5.0)))
    assert math.isnan(metric(np.arange(5.0), np.full(5, 0.1)))
    assert math.isnan(metric(np.arange(2.0), np.arange(2.0)))
    assert math.isnan(metric(np.array([1, 2, 3, np.nan]), np.arange(4.0)))


@pytest.mark.filterwarnings("error")
def test_one_constant_row_leaves_the_others_defined():
    rows = np.array([[1.0, 2, 3, 4], [5, 5, 5, 5]])
    for metric in (metrics.srcc, metrics.plcc, metrics.krcc):
        np.testing.assert_allclose(metric(rows, np.arange(4.0)), [1, np.nan])


def test_a_million_tied_predictions_are_ranked():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 50, size=10**6)
    assert metrics.srcc(score * 2.0, score) == pytest.approx(1)
    assert metrics.srcc(score + rng.normal(0, 1e-3, size=10**6), score) < 1


# --------------------------------------------------------------------------------------------------- mapping


def test_the_logistic_is_found_again():
    x = np.linspace(-3, 3, 200)
    parameters = metrics.fit_logistic(x, metrics.logistic(x, 90, 10, 0.5, 0.7))
    np.testing.assert_allclose(metrics.logistic(x, *parameters), metrics.logistic(x, 90, 10, 0.5, 0.7), atol=0.01)


@pytest.mark.filterwarnings("error")
def test_a_nearly_straight_relation_is_mapped_nearly_straight():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(20, 80, size=400)
    parameters = metrics.fit_logistic(predicted, predicted + rng.normal(0, 8, size=400))
    inner = np.linspace(25, 75, 20)
    np.testing.assert_allclose(metrics.logistic(inner, *parameters), inner, atol=4)


RISING = np.linspace(0, 100, 12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("predicted", "score"),
    [
        pytest.param(RISING[:4], RISING[:4], id="four images"),
        pytest.param(np.full(12, 3.0), RISING, id="constant predictions"),
        pytest.param(RISING, np.full(12, 50.0), id="constant scores"),
        pytest.param(np.where(RISING == 0, np.nan, RISING), RISING, id="a nan"),
        pytest.param(RISING, metrics.logistic(-RISING, 90, 10, -50, 12), id="a falling relation"),
        pytest.param(RISING, np.where(RISING < 50, 20.0, 80), id="a step"),
        pytest.param(RISING, np.tile([30.0, 70, 70, 30], 3), id="no relation"),
    ],
)
def test_images_that_determine_no_rising_curve_give_none(predicted, score):
    assert metrics.fit_logistic(predicted, score) is None


def test_noise_is_seldom_mapped():
    rng = np.random.default_rng(0)
    fits = [metrics.fit_logistic(*rng.uniform(0, 100, size=(2, 10))) for _ in range(200)]
    assert sum(fit is not None for fit in fits) <= 10


# ------------------------------------------------------------------------------------------------- intervals


def test_an_undefined_number_has_an_undefined_interval():
    assert all(math.isnan(v) for v in metrics.bootstrap(metrics.srcc, np.ones(9), np.arange(9.0), groups=None))


def test_images_of_one_reference_have_a_value_but_no_interval():
    value, low, high = metrics.bootstrap(metrics.srcc, np.arange(9.0), np.arange(9.0), groups=["a"] * 9)
    assert value == pytest.approx(1)
    assert math.isnan(low) and math.isnan(high)


def test_the_interval_is_the_same_every_time():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50))
    assert metrics.bootstrap(metrics.plcc, x, y, groups=None) == metrics.bootstrap(metrics.plcc, x, y, groups=None)


def test_the_interval_does_not_depend_on_how_many_resamples_fit_in_memory(monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(2, 60))
    groups = np.repeat(np.arange(12), [1, 9] * 6)
    whole = [metrics.bootstrap(metrics.srcc, x, y, groups=g, resamples=100) for g in (None, groups)]
    monkeypatch.setattr(metrics, "_BLOCK", 700)
    assert [metrics.bootstrap(metrics.srcc, x, y, groups=g, resamples=100) for g in (None, groups)] == whole


def test_whole_references_are_drawn():
    groups = np.array(["a", "b", "a", "c", "b", "a"])
    codes, _ = metrics._units(groups, groups)
    for block in metrics._draws([groups], codes, 50, 0):
        for rows in block:
            drawn = pd.Series(groups[rows]).value_counts() / pd.Series(groups).value_counts()
            assert drawn.fillna(0).mod(1).eq(0).all() and drawn.sum() == 3


def test_no_interval_is_made_without_saying_what_is_resampled():
    with pytest.raises(TypeError, match="groups"):
        metrics.bootstrap(metrics.srcc, np.arange(9.0), np.arange(9.0))


def test_references_are_resampled_where_images_share_them():
    assert metrics.groups_of(["a", "b", "c"]) is None
    assert list(metrics.groups_of(["a", "b", "a"])) == ["a", "b", "a"]


def test_wrong_lengths_missing_references_and_unfit_statistics_are_refused():
    x = np.arange(9.0)
    with pytest.raises(DataError, match="9, 8 images"):
        metrics.bootstrap(metrics.srcc, x, x[:8], groups=None)
    with pytest.raises(DataError, match="same images"):
        metrics.bootstrap(metrics.srcc, x, x, groups=["a", "b"])
    with pytest.raises(DataError, match="Image 4"):
        metrics.bootstrap(metrics.srcc, x, x, groups=["a", "b", "a", "b", None, "a", "b", "a", "b"])
    with pytest.raises(TypeError, match="last axis"):
        metrics.bootstrap(lambda a, b: np.mean(a - b), x, x, groups=None)


def test_the_report_has_every_metric_with_its_interval():
    rng = np.random.default_rng(0)
    score = pd.Series(rng.uniform(0, 100, size=80))
    predicted = score + rng.normal(0, 10, size=80)
    numbers = metrics.report(predicted, score, metrics.fit_logistic(predicted, score), groups=None, resamples=100)
    assert list(numbers)[:4] == ["SRCC", "PLCC", "KRCC", "RMSE"] and len(numbers) == 6
    assert all(low < value < high for value, low, high in numbers.values())
    by_reference = metrics.report(predicted, score, None, resamples=100, groups=np.arange(80) // 20)
    assert by_reference["SRCC"].value == numbers["SRCC"].value
    assert by_reference["SRCC"] != numbers["SRCC"]


# ------------------------------------------------------------------------------------- as often as they say


def rated(rng, images):
    """Predictions and whole-numbered scores on a bounded, skewed 0–100 scale, errors smallest at its ends."""
    latent = rng.normal(0.5, 1, size=images)
    predicted = 100 * stats.norm.cdf(latent + rng.normal(0, 0.5, size=images))
    return predicted, (100 * stats.norm.cdf(latent)).round()


@pytest.mark.parametrize(
    ("statistic", "repeats"),
    [
        (metrics.plcc, 1000),
        pytest.param(metrics.srcc, 500, marks=pytest.mark.slow),
        pytest.param(metrics.rmse, 1000, marks=pytest.mark.slow),
    ],
)
def test_intervals_of_95_percent_hold_the_truth_about_that_often(statistic, repeats):
    true, rng = statistic(*rated(np.random.default_rng(0), 2_000_000)), np.random.default_rng(1)

    def held():
        _, low, high = metrics.bootstrap(statistic, *rated(rng, 200), groups=None, resamples=300)
        return low <= true <= high

    assert 0.93 <= share(held() for _ in range(repeats)) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statistic", "images", "references"), [(metrics.srcc, 160, 20), (metrics.plcc, 160, 20), (metrics.plcc, 90, 6)]
)
def test_intervals_over_references_hold_the_truth_about_that_often(statistic, images, references):
    r, rng, groups = 0.85, np.random.default_rng(0), by_reference(images, references)
    true = spearman_of(r) if statistic is metrics.srcc else r

    def held(groups):
        score, error = normal(rng, images, references, rows=(2,))
        predicted = r * score + np.sqrt(1 - r**2) * error
        _, low, high = metrics.bootstrap(statistic, predicted, score, resamples=200, groups=groups)
        return low <= true <= high

    assert 0.93 <= share(held(groups) for _ in range(500)) <= 0.97
    # Images of one reference are not independent: to resample them one by one promises too much.
    assert share(held(None) for _ in range(200)) < 0.93


# ----------------------------------------------------------------------------------------------- label noise


@pytest.fixture(scope="module")
def panel():
    """120 raters whose independent errors are as large as the images' spread, on a fine scale of 33 levels."""
    rng = np.random.default_rng(0)
    quality = stats.norm.ppf((np.arange(1000)[:, None] + 0.5) / 1000)
    votes = (quality + rng.normal(size=(1000, 120))) * 3 + 16
    levels = np.clip(votes.round(), 0, 32).astype(int)
    return np.apply_along_axis(np.bincount, 1, levels, minlength=33)


def test_the_ceiling_of_raters_with_independent_errors_is_the_known_one(panel):
    ceiling = metrics.label_noise_ceiling(panel)
    assert ceiling.split_half == pytest.approx(spearman_of(60 / 61), abs=0.003)
    assert ceiling.panel_agreement == pytest.approx(spearman_of(120 / 121), abs=0.003)


@pytest.mark.parametrize("k", [1, 4, 20])
def test_k_raters_with_independent_errors_reach_the_known_srcc(panel, k):
    expected = spearman_of(1 / np.sqrt((1 + 1 / k) * (1 + 1 / (120 - k))))
    assert metrics.srcc_of_k_raters(panel, k) == pytest.approx(expected, abs=0.015)


def test_an_srcc_is_worth_the_raters_that_reach_it(panel):
    """Of other raters than the panel's, whose mean is compared with that of the whole panel."""
    for k in (1, 7, 30, 200):
        reached = spearman_of(1 / np.sqrt((1 + 1 / k) * (1 + 1 / 120)))
        assert metrics.equivalent_raters(reached, panel) == pytest.approx(k, rel=0.1)
    edges = [metrics.equivalent_raters(srcc, panel, repeats=1) for srcc in (-0.5, 0.999, float("nan"))]
    np.testing.assert_array_equal(edges, [0, np.inf, np.nan])


@pytest.mark.parametrize("raters", [5, 9, 20])
def test_a_small_panel_does_not_flatter_a_model(raters):
    """The mean of k others agrees with a panel of any size as so many raters do."""
    rng = np.random.default_rng(raters)
    quality = rng.normal(3, 0.9, size=3000)
    votes = np.clip((quality[:, None] + rng.normal(0, 0.9, size=(3000, raters + 4))).round(), 1, 5).astype(int)
    panel = np.stack([(votes[:, :raters] == level).sum(axis=1) for level in range(1, 6)], axis=1)
    reached = metrics.srcc(votes[:, raters:].mean(axis=1), votes[:, :raters].mean(axis=1))
    assert metrics.equivalent_raters(reached, panel) == pytest.approx(4, rel=0.2)


def test_a_panel_that_agrees_on_nothing_or_on_all_measures_no_model():
    rng = np.random.default_rng(0)
    noise = [rng.multinomial(20, [0.2] * 5, size=3) for _ in range(20)]
    found = np.array([metrics.equivalent_raters(0.5, panel, repeats=5) for panel in noise])
    assert np.isnan(found).any() and not (found < 0).any()
    unanimous = np.eye(5, dtype=int) * 9
    assert metrics.equivalent_raters(0.9, unanimous) == 0 and metrics.equivalent_raters(1.0, unanimous) == np.inf


def test_votes_are_drawn_without_replacement():
    counts, k = np.array([[3, 0, 2, 1], [0, 4, 0, 1]]), np.array([4, 2])
    drawn = metrics._draw_votes(counts, k, 4000, np.random.default_rng(0))
    assert (drawn.sum(axis=-1) == k).all() and (drawn <= counts).all() and (drawn >= 0).all()
    share_of_each = k[:, None] / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(drawn.mean(axis=0), counts * share_of_each, atol=0.05)
    variance = counts * share_of_each * (1 - share_of_each) * (1 - (counts - 1) / (counts.sum(axis=1) - 1)[:, None])
    np.testing.assert_allclose(drawn.var(axis=0), np.where(counts > 0, variance, 0), atol=0.05)


@pytest.mark.parametrize("raters", [9, 20, 100])
def test_a_model_that_knows_the_truth_agrees_with_a_panel_as_the_limit_says(raters):
    limit, truth = limit_and_truth(raters)
    assert limit == pytest.approx(truth, abs=0.01)


def test_unanimous_raters_who_cannot_tell_images_apart_have_no_ceiling():
    assert math.isnan(metrics.label_noise_ceiling(np.tile([0, 9, 0], (20, 1))).split_half)


def test_shares_and_too_few_votes_are_refused():
    with pytest.raises(DataError, match="multiply published shares"):
        metrics.label_noise_ceiling(np.array([[0.2, 0.8], [0.5, 0.5]]))
    with pytest.raises(DataError, match=r"Image 1 .* has 3 votes; 5 are needed"):
        metrics.srcc_of_k_raters(np.array([[9, 9], [1, 2]]), k=4)
    with pytest.raises(DataError, match="k = 0"):
        metrics.srcc_of_k_raters(np.array([[9, 9], [1, 2]]), k=0)


@pytest.fixture(scope="module")
def koniq_votes(shared_data):
    labels = shared_data / "labels" / "koniq10k_distributions_sets.csv"
    if not labels.is_file():
        pytest.skip(f"KonIQ-10k's label file is not here: {labels.name}, in labels/ of the shared data")
    table = pd.read_csv(labels).query("set == 'test'")
    assert len(table) == 2015
    return (table[["c1", "c2", "c3", "c4", "c5"]].to_numpy() * table[["c_total"]].to_numpy()).round()


def test_the_ceiling_of_koniq_is_the_reference_one(koniq_votes):
    ceiling = metrics.label_noise_ceiling(koniq_votes)
    assert ceiling.split_half == pytest.approx(0.971, abs=0.003)
    assert ceiling.panel_agreement == pytest.approx(0.985, abs=0.003)


@pytest.mark.parametrize(("k", "reached"), [(1, 0.65), (4, 0.85), (9, 0.92), (13, 0.937), (20, 0.955)])
def test_k_raters_of_koniq_reach_the_reference_srcc(koniq_votes, k, reached):
    assert metrics.srcc_of_k_raters(koniq_votes, k) == pytest.approx(reached, abs=0.003)
    assert metrics.equivalent_raters(reached, koniq_votes) == pytest.approx(
        k, rel=0.2
    )  # votes on five levels are not normal
