"""The field's four numbers, their edges, and intervals that cover what they claim."""

import math

import numpy as np
import pytest
from scipy import stats

from iqa_lib import metrics


def test_known_values():
    truth = np.array([1.0, 2, 3, 4, 5])
    assert metrics.srcc(truth**3, truth) == pytest.approx(1)
    assert metrics.plcc(-2 * truth + 7, truth) == pytest.approx(-1)
    assert metrics.krcc(np.array([1.0, 2, 3, 5, 4]), truth) == pytest.approx(0.8)
    assert metrics.rmse(truth + 3, truth) == pytest.approx(3)


@pytest.mark.parametrize("metric", [metrics.srcc, metrics.plcc, metrics.krcc])
def test_a_constant_side_or_two_images_is_undefined_not_zero(metric):
    assert math.isnan(metric(np.ones(5), np.arange(5.0)))
    assert math.isnan(metric(np.arange(2.0), np.arange(2.0)))


def test_an_undefined_number_has_an_undefined_interval():
    assert all(math.isnan(v) for v in metrics.bootstrap(metrics.srcc, np.ones(9), np.arange(9.0)))


def test_the_logistic_is_found_again():
    x = np.linspace(-3, 3, 200)
    parameters = metrics.fit_logistic(x, metrics.logistic(x, 90, 10, 0.5, 0.7))
    np.testing.assert_allclose(
        metrics.logistic(x, *parameters), metrics.logistic(x, 90, 10, 0.5, 0.7), atol=0.01
    )


def test_the_interval_is_the_same_every_time():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50))
    assert metrics.bootstrap(metrics.plcc, x, y) == metrics.bootstrap(metrics.plcc, x, y)


def test_intervals_of_95_percent_hold_the_true_correlation_about_that_often():
    rng, true, hits, repeats = np.random.default_rng(1), 0.8, 0, 200
    for _ in range(repeats):
        x, y = rng.multivariate_normal([0, 0], [[1, true], [true, 1]], size=120).T
        interval = metrics.bootstrap(metrics.plcc, x, y, resamples=300)
        hits += interval.low <= true <= interval.high
    assert stats.binomtest(hits, repeats, 0.94).pvalue > 0.01, (
        f"{hits / repeats:.3f} of the intervals hold it"
    )
