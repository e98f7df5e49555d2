"""Agreement between predicted and human scores, with intervals. Arrays (N,) in, plain numbers out."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats


def srcc(predicted: np.ndarray, score: np.ndarray) -> float:
    """Spearman's rank correlation, −1 to 1; nan where one side is constant."""
    return _defined(stats.spearmanr, predicted, score)


def plcc(predicted: np.ndarray, score: np.ndarray) -> float:
    """Pearson's linear correlation of the raw predictions, −1 to 1; nan where one side is constant."""
    return _defined(stats.pearsonr, predicted, score)


def krcc(predicted: np.ndarray, score: np.ndarray) -> float:
    """Kendall's τ-b, −1 to 1; nan where one side is constant."""
    return _defined(stats.kendalltau, predicted, score)


def rmse(predicted: np.ndarray, score: np.ndarray) -> float:
    """Root mean squared error in points of the 0–100 scale."""
    return float(np.sqrt(np.mean((np.asarray(predicted) - np.asarray(score)) ** 2)))


def _defined(correlation, predicted: np.ndarray, score: np.ndarray) -> float:
    if len(predicted) < 3 or np.ptp(predicted) == 0 or np.ptp(score) == 0:
        return float("nan")
    return float(correlation(predicted, score).statistic)


def logistic(x: np.ndarray, top: float, bottom: float, middle: float, width: float) -> np.ndarray:
    """The 4-parameter logistic of VQEG (2000): from ``bottom`` to ``top`` around ``middle``."""
    return bottom + (top - bottom) / (1 + np.exp(-(x - middle) / np.abs(width)))


def fit_logistic(predicted: np.ndarray, score: np.ndarray) -> tuple[float, ...] | None:
    """Parameters of `logistic` that map predictions to scores; None where the fit does not converge."""
    start = (np.max(score), np.min(score), np.mean(predicted), np.std(predicted) or 1.0)
    try:
        with np.errstate(over="ignore"):
            parameters, _ = optimize.curve_fit(logistic, predicted, score, p0=start, maxfev=10_000)
    except RuntimeError:
        return None
    return tuple(float(p) for p in parameters)


class Interval(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(statistic, *samples: np.ndarray, resamples: int = 1000, seed: int = 0) -> Interval:
    """A statistic of paired samples with its 95 % percentile interval over resampled images.

    Where a resample leaves the statistic undefined (predictions nearly constant), so is the interval: nan.
    """
    value = statistic(*samples)
    if not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=False,
            method="percentile",
            n_resamples=resamples,
            rng=np.random.default_rng(seed),
        )
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high))


def report(
    predicted: np.ndarray, score: np.ndarray, logistic_from: tuple[float, ...] | None, resamples: int = 1000
) -> dict[str, Interval]:
    """SRCC, PLCC (raw and after the given logistic), KRCC and RMSE, each with its interval.

    Args:
        logistic_from: parameters of `fit_logistic`, fitted on other images than these (validation).
    """
    predicted, score = np.asarray(predicted, float), np.asarray(score, float)
    numbers = {
        name: bootstrap(f, predicted, score, resamples=resamples)
        for name, f in {"SRCC": srcc, "PLCC": plcc, "KRCC": krcc, "RMSE": rmse}.items()
    }
    if logistic_from is not None:
        mapped = logistic(predicted, *logistic_from)
        numbers["PLCC after logistic (fitted on validation)"] = bootstrap(
            plcc, mapped, score, resamples=resamples
        )
        numbers["RMSE after logistic (fitted on validation)"] = bootstrap(
            rmse, mapped, score, resamples=resamples
        )
    return numbers
