"""From ratings to scores: several raters to one opinion a photograph, pairs to a scale, and how far raters agree.

A rating is the photograph's quality, plus the rater's bias, plus noise of that rater's inconsistency: the model of
ITU-T P.910 (2023) and P.913, clause 12.6 (Li et al., Electronic Imaging, 2020). Qualities and biases are weighted
least squares; the inconsistencies are iterated, each squared residual over what the fit leaves it of its variance, so
that two raters, or one with a few repeats, are not taken for perfect ones.

Shape suffixes: K ratings, J photographs, I raters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from iqa_lib import metrics
from iqa_lib.errors import DataError
from iqa_lib.rating.records import SCALES

PRIOR = 3  # ratings' worth of the panel's inconsistency in every rater's
ROUNDS = 200
LEAST_AGREEMENT = 0.3  # PLCC with the others' mean: a rater who is surely below it is left out
FEWEST_TO_JUDGE = 10  # ratings, by a rater, of photographs that others rated
HALVES = 20
LEAST_SPREAD = 0.05  # logits: of draws alone the scores stay equal
COARSEST = 25.0  # points between two ratings of a scale: that of five
SPREADS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # of the strengths of photographs that are compared, in logits


class Opinions(NamedTuple):
    """What a panel says."""

    images: pd.DataFrame  # image, score, low, high (95 %), se, ratings
    raters: pd.DataFrame  # rater, ratings, bias, inconsistency (points of 100), PLCC with the others, left out
    corrected: pd.Series  # rating less bias, of every rating used, by the index of the table
    free: float  # ratings beyond those that fix qualities and biases: what the noise is known from


def as_points(table: pd.DataFrame) -> pd.DataFrame:
    """The ratings that are no pairs on 0–100; a rater with two kinds counts as two, each with a bias."""
    table = table[table["kind"] != "pair"]
    kinds = table.groupby("rater")["kind"].transform("nunique")
    ends = np.array([SCALES[kind] for kind in table["kind"]]).reshape(-1, 2)
    value = 100 * (table["value"].astype(float) - ends[:, 0]) / (ends[:, 1] - ends[:, 0])
    return table.assign(value=value, rater=table["rater"].where(kinds < 2, table["rater"] + ", " + table["kind"]))


def opinions(points: pd.DataFrame) -> Opinions:
    """Scores of photographs and what is known of raters, from ``rater``, ``image`` and ``value`` (0–100).

    Raises:
        DataError: there are no ratings.
    """
    if points.empty:
        raise DataError("There are no ratings yet: rate some photographs first.")
    together = _plcc_with_others(points)
    left_out = _who_say_one_thing(points)
    while together["rater"].nunique() - len(left_out) > 2:
        surely = together[(together["at most"] < LEAST_AGREEMENT) & ~together["rater"].isin(left_out)]
        if surely.empty:
            break
        left_out.append(surely.sort_values("at most")["rater"].iloc[0])
        kept = _plcc_with_others(points[~points["rater"].isin(left_out)])
        together = pd.concat([kept, together[together["rater"].isin(left_out)]])
    used = points[~points["rater"].isin(left_out)]
    images, raters, corrected, free = _fit(used)
    together = together.assign(**{"left out": together["rater"].isin(left_out)}).drop(columns="at most")
    counted = points.groupby("rater").size().rename("ratings").reset_index()
    table = counted.merge(raters, on="rater", how="left").merge(together, on="rater", how="left")
    return Opinions(images, table, corrected, free)


def _who_say_one_thing(points: pd.DataFrame) -> list[str]:
    """Raters with one rating for everything, where others tell photographs apart."""
    by = points.groupby("rater")["value"].agg(["size", "nunique"])
    alike = by.index[(by["nunique"] == 1) & (by["size"] >= FEWEST_TO_JUDGE)]
    return [] if len(alike) == len(by) else sorted(alike)


def _fit(points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, float]:
    i_K, raters = pd.factorize(points["rater"], sort=True)
    j_K, images = pd.factorize(points["image"], sort=True)
    u_K = points["value"].to_numpy(float)
    variance_I = np.ones(len(raters))
    # Nobody is surer than the steps of the scale allow: who repeats a 4 may mean anything from 3.5 to 4.5.
    step = np.diff(np.unique(u_K)).min(initial=COARSEST)
    least = min(step, COARSEST) ** 2 / 12
    for _ in range(ROUNDS):
        quality_J, bias_I, of_quality_J, of_fit_K = _least_squares(u_K, i_K, j_K, 1 / variance_I)
        squares_K = (u_K - quality_J[j_K] - bias_I[i_K]) ** 2
        free_K = 1 - np.clip(of_fit_K / variance_I[i_K], 0, 1)  # of each rating, what the fit leaves of its variance
        free = free_K.sum()
        if free < 0.5:
            variance_I = np.full(len(raters), np.nan)  # one rating of each photograph says nothing of its noise
            break
        pooled = max(squares_K.sum() / free, least)
        sums_I, frees_I = np.bincount(i_K, squares_K), np.bincount(i_K, free_K)
        before, shrunk_I = variance_I, (sums_I + PRIOR * pooled) / (frees_I + PRIOR)
        variance_I = np.maximum(shrunk_I, max(pooled / 20, least))
        if np.allclose(before, variance_I, rtol=1e-6):
            break
    known_I = np.nan_to_num(variance_I, nan=1.0)
    quality_J, bias_I, of_quality_J, _ = _least_squares(u_K, i_K, j_K, 1 / known_I)
    se_J = np.sqrt(of_quality_J) * (1 if np.isfinite(variance_I).all() else np.nan)
    reach_J = stats.t.ppf(1 - metrics.ALPHA / 2, max(free, 1)) * se_J
    table = {"image": images, "score": quality_J, "low": quality_J - reach_J, "high": quality_J + reach_J, "se": se_J}
    of_raters = {"rater": raters, "bias": bias_I, "inconsistency": np.sqrt(variance_I)}
    corrected = pd.Series(u_K - bias_I[i_K], points.index)
    return pd.DataFrame({**table, "ratings": np.bincount(j_K)}), pd.DataFrame(of_raters), corrected, free


def _least_squares(u_K: np.ndarray, i_K: np.ndarray, j_K: np.ndarray, weight_I: np.ndarray) -> tuple[np.ndarray, ...]:
    """Qualities, biases (which sum to 0), the qualities' variance, that of the fit of each rating."""
    w_K = weight_I[i_K]
    weights_JI = np.zeros((j_K.max() + 1, len(weight_I)))
    np.add.at(weights_JI, (j_K, i_K), w_K)
    total_J, share_JI = weights_JI.sum(axis=1), weights_JI / weights_JI.sum(axis=1, keepdims=True)
    mean_J = np.bincount(j_K, w_K * u_K) / total_J
    information_II = np.diag(weights_JI.sum(axis=0)) - weights_JI.T @ share_JI
    known_I, axes_II = np.linalg.eigh(information_II)
    inverse_I = np.where(known_I > 1e-9 * w_K.sum(), 1 / np.where(known_I, known_I, 1), 0)  # their sum is not known: 0
    covariance_II = (axes_II * inverse_I) @ axes_II.T
    bias_I = covariance_II @ (np.bincount(i_K, w_K * u_K) - weights_JI.T @ mean_J)
    with_bias_JI = share_JI @ covariance_II
    of_quality_J = 1 / total_J + (with_bias_JI * share_JI).sum(axis=1)
    of_fit_K = of_quality_J[j_K] + np.diag(covariance_II)[i_K] - 2 * with_bias_JI[j_K, i_K]
    return mean_J - share_JI @ bias_I, bias_I, of_quality_J, of_fit_K


def _plcc_with_others(points: pd.DataFrame) -> pd.DataFrame:
    """Of each rater the PLCC with the mean of the others, and what it is at most (one-sided, 95 %)."""
    by = points.groupby(["image", "rater"])["value"].mean().unstack()
    rows = []
    for rater in by:
        both = pd.concat([by[rater], by.drop(columns=rater).mean(axis=1)], axis=1).dropna().to_numpy()
        found = metrics.plcc(*both.T) if len(both) else np.nan
        most = np.tanh(
            np.arctanh(np.clip(np.nan_to_num(found), -0.999, 0.999)) + 1.645 / np.sqrt(max(len(both) - 3, 1))
        )
        rows.append((rater, found, most if len(both) >= FEWEST_TO_JUDGE else 1.0))
    return pd.DataFrame(rows, columns=["rater", "PLCC with the others", "at most"])


# --- pairs --------------------------------------------------------------------------------------------------


def from_pairs(table: pd.DataFrame, mean: float = 50.0, deviation: float = 20.0) -> pd.DataFrame:
    """As `Opinions.images`, from comparisons (``image``, ``other``, ``value``: 1 where the other is better).

    Bradley and Terry's model (1952), with a normal prior whose width the comparisons say; of a draw each wins half.
    Pairs have no zero and no unit: the scores get this mean and standard deviation.
    """
    pairs = table[table["kind"] == "pair"]
    if pairs.empty:
        raise DataError("There are no comparisons yet: compare some photographs first.")
    codes, images = pd.factorize(np.concatenate([pairs["image"], pairs["other"]]), sort=True)
    left_K, right_K = codes.reshape(2, -1)
    theta_J, covariance_JJ = bradley_terry(left_K, right_K, pairs["value"].to_numpy(float), len(images))
    unit = deviation / max(theta_J.std(), LEAST_SPREAD)
    score_J, se_J = mean + unit * (theta_J - theta_J.mean()), unit * np.sqrt(np.diag(covariance_JJ))
    reach = stats.norm.ppf(1 - metrics.ALPHA / 2) * se_J
    columns = {"image": images, "score": score_J, "low": score_J - reach, "high": score_J + reach, "se": se_J}
    return pd.DataFrame({**columns, "ratings": np.bincount(codes)})


def bradley_terry(left_K: np.ndarray, right_K: np.ndarray, won_K: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
    """Strengths (J,), centred, and their covariance (J, J); ``won`` 1 where the right one is better.

    Averaged over `SPREADS` of the prior by their evidence, each by Laplace's approximation.
    """
    signs_KJ = np.zeros((len(won_K), number))
    np.add.at(signs_KJ, (np.arange(len(won_K)), right_K), 1)
    np.add.at(signs_KJ, (np.arange(len(won_K)), left_K), -1)
    evidence, strengths, covariances = [], [], []
    theta_J = np.zeros(number)
    for spread in SPREADS:
        for _ in range(50):
            logit_K = signs_KJ @ theta_J
            p_K = special.expit(logit_K)
            information_JJ = signs_KJ.T @ (signs_KJ * (p_K * (1 - p_K))[:, None]) + np.eye(number) / spread**2
            step_J = np.linalg.solve(information_JJ, signs_KJ.T @ (won_K - p_K) - theta_J / spread**2)
            theta_J = theta_J + step_J
            if np.abs(step_J).max() < 1e-6:
                break
        likelihood = (won_K * logit_K - np.logaddexp(0, logit_K)).sum() - (theta_J @ theta_J) / (2 * spread**2)
        _, logarithm = np.linalg.slogdet(information_JJ)
        evidence.append(likelihood - number * np.log(spread) - logarithm / 2)
        strengths.append(theta_J - theta_J.mean())
        covariances.append(np.linalg.inv(information_JJ))
    shares, strengths = special.softmax(evidence), np.array(strengths)
    mean_J, centre_JJ = shares @ strengths, np.eye(number) - 1 / number
    within_JJ = centre_JJ @ np.tensordot(shares, covariances, 1) @ centre_JJ
    return mean_J, within_JJ + (shares[:, None] * (strengths - mean_J)).T @ (strengths - mean_J)


# --- agreement ----------------------------------------------------------------------------------------------


def agreement(points: pd.DataFrame, seed: int = 0) -> dict[str, metrics.Interval]:
    """How far these ratings agree, as far as they say; each with its 95 % interval over photographs.

    ``one rater`` and ``the panel``: ICC(A,1) and ICC(C,k) from the model's variances (McGraw and Wong, 1996).
    ``halves of the panel``: SRCC of two random halves' means, by Spearman and Brown for whole panels.
    ``with oneself``: SRCC of first and second rating of repeated photographs.
    ``ceiling``: what the SRCC of a perfect model with these scores would be about, the root of ICC(C,k).
    """
    found, fitted = {}, opinions(points)
    images, biases = fitted.images, fitted.raters["bias"].dropna()
    if fitted.free >= FEWEST_TO_JUDGE and len(images) > 2:
        of_rater = np.nanmean(fitted.raters["inconsistency"] ** 2)
        of_bias = float(biases.var()) if len(biases) > 1 else 0.0

        def of(spread, noise):  # shares of variance, of resamples (…, J)
            return np.clip(1 - (noise**2).mean(axis=-1) / spread.var(axis=-1, ddof=1), 0, 1)

        def one(spread, noise):
            quality = np.clip(spread.var(axis=-1, ddof=1) - (noise**2).mean(axis=-1), 0, None)
            return quality / (quality + of_bias + of_rater)

        spread, noise = images["score"].to_numpy(), images["se"].to_numpy()
        shares = {"one rater": one, "the panel": of} if len(biases) > 1 else {}
        for name, share in {**shares, "ceiling": lambda s, n: np.sqrt(of(s, n))}.items():
            found[name] = metrics.bootstrap(share, spread, noise, groups=None)
    halves = _halves(points.loc[fitted.corrected.index].assign(value=fitted.corrected), seed)
    if halves is not None:
        found["halves of the panel"] = halves
    if (again := with_oneself(points)) is not None:
        found["with oneself"] = again
    return found


def with_oneself(points: pd.DataFrame) -> metrics.Interval | None:
    """SRCC of the first and the second rating that raters gave the same photograph; None where fewer than three."""
    order = points.groupby(["rater", "image"]).cumcount()
    by = points.assign(order=order).pivot(index=["rater", "image"], columns="order", values="value")
    twice = by[[0, 1]].dropna() if 1 in by else by.iloc[:0]
    if len(twice) < 3:
        return None
    return metrics.bootstrap(metrics.srcc, twice[0].to_numpy(), twice[1].to_numpy(), groups=None)


def _halves(corrected: pd.DataFrame, seed: int) -> metrics.Interval | None:
    by = corrected.groupby(["image", "rater"])["value"].mean().unstack().to_numpy()
    by = by[np.isfinite(by).sum(axis=1) > 1]
    if by.shape[1] < 2 or len(by) < 3:
        return None
    rng = np.random.default_rng(seed)
    # Of each photograph its own raters are dealt into two halves.
    drawn = np.where(np.isfinite(by), rng.random((HALVES, *by.shape)), np.nan)
    rank = drawn.argsort(axis=-1).argsort(axis=-1)
    first = np.isfinite(by) & (rank < (np.isfinite(by).sum(axis=1) // 2)[:, None])
    second = np.isfinite(by) & ~first
    filled = np.nan_to_num(by)
    means = [(filled * half).sum(axis=-1) / half.sum(axis=-1) for half in (first, second)]  # each (HALVES, J)

    def whole_panels(first, second):
        of_half = np.mean(metrics.srcc(first, second), axis=0)
        return 2 * of_half / (1 + of_half)

    return metrics.bootstrap(whole_panels, *means, groups=None, resamples=200)
