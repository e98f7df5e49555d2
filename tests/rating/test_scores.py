"""From ratings to scores: right on average, with intervals that hold the truth as often as they say."""

import numpy as np
import pandas as pd
import pytest
from ratings_by import panel

from iqa_lib.errors import DataError
from iqa_lib.metrics import srcc
from iqa_lib.rating import scores


@pytest.mark.parametrize(
    "how",
    [{"raters": 8}, {"raters": 8, "share": 0.5}, {"raters": 3}, {"raters": 2}, {"raters": 5, "five_points": True}],
    ids=str,
)
def test_intervals_hold_the_truth_in_95_percent(how):
    held = []
    for seed in range(12):
        quality, _, table = panel(np.random.default_rng(seed), **how)
        images = scores.opinions(table).images.set_index("image")
        truth = np.array([quality[int(name[:3])] for name in images.index])
        held.append(np.mean((truth >= images["low"]) & (truth <= images["high"])))
    assert 0.915 < np.mean(held) < 0.975  # 12 × 60 photographs


def test_biases_are_taken_off_and_inconsistent_raters_count_less():
    errors, plain, agree = [], [], []
    for seed in range(10):
        quality, bias, table = panel(np.random.default_rng(seed), raters=6, share=0.6)
        found = scores.opinions(table)
        names = found.images["image"].str[:3].astype(int)
        errors.append(np.mean((found.images["score"] - quality[names]) ** 2))
        plain.append(np.mean((table.groupby("image")["value"].mean().to_numpy() - quality[names]) ** 2))
        agree.append(np.corrcoef(found.raters["bias"], bias)[0, 1])
    assert np.mean(agree) > 0.85 and np.mean(errors) < 0.9 * np.mean(plain)


def test_one_rater_without_repeats_has_scores_but_no_intervals_and_with_repeats_both():
    _, _, table = panel(np.random.default_rng(0), raters=1)
    assert scores.opinions(table).images["se"].isna().all()
    again = table.head(15).assign(value=table["value"].head(15) + np.random.default_rng(1).normal(0, 10, 15))
    both = pd.concat([table, again], ignore_index=True)
    found = scores.opinions(both)
    mean = both.groupby("image")["value"].mean().to_numpy()
    assert np.allclose(found.images["score"], mean) and found.raters["bias"].item() == 0
    assert found.images["se"].notna().all()
    assert found.images["se"].iloc[0] < found.images["se"].iloc[-1]  # the mean of two, and one
    assert 4 < found.raters["inconsistency"].iloc[0] < 14  # √(10² / 2)


@pytest.mark.parametrize("number", [20, 45, 61, 66])
def test_a_lone_raters_scores_are_her_ratings_whatever_their_number(number):
    rng = np.random.default_rng(number)
    table = pd.DataFrame({"rater": "A", "image": [f"{i % (number - 5)}" for i in range(number)]})
    table["value"] = 25.0 * rng.integers(0, 5, number)
    found = scores.opinions(table).images.set_index("image")
    assert np.allclose(found["score"], table.groupby("image")["value"].mean().loc[found.index])
    assert (found["se"] < 60).all()


def test_raters_without_a_photograph_in_common_are_each_taken_at_their_word():
    table = pd.DataFrame({"rater": list("AAABBB"), "image": list("abaded"), "value": [10, 20, 12, 90, 80, 88.0]})
    images = scores.opinions(table).images.set_index("image")
    assert images["score"].tolist() == pytest.approx([11, 20, 89, 80]) and (images["se"] < 10).all()


def test_who_answers_at_random_is_left_out_and_who_is_merely_noisy_is_not():
    left_out = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        _, _, table = panel(rng, photographs=120, raters=6, inconsistency=15)
        table.loc[table["rater"] == "r5", "value"] = rng.uniform(0, 100, (table["rater"] == "r5").sum())
        raters = scores.opinions(table).raters.set_index("rater")
        left_out += [rater for rater in raters.index if raters["left out"][rater]]
    assert left_out.count("r5") >= 8 and len(left_out) - left_out.count("r5") <= 1


def test_with_two_raters_nobody_can_say_which_is_wrong():
    _, _, table = panel(np.random.default_rng(0), raters=2)
    table.loc[table["rater"] == "r1", "value"] *= -1
    assert not scores.opinions(table).raters["left out"].any()


def test_the_icc_is_that_of_mcgraw_and_wong_on_complete_tables():
    quality, _, table = panel(np.random.default_rng(3), photographs=300, raters=6)
    by = table.pivot(index="image", columns="rater", values="value").to_numpy()
    n, k = by.shape
    rows = k * by.mean(axis=1).var(ddof=1)
    columns = n * by.mean(axis=0).var(ddof=1)
    rest = ((by - by.mean(1)[:, None] - by.mean(0) + by.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    found = scores.agreement(table)
    icc = (rows - rest) / (rows + (k - 1) * rest + k / n * (columns - rest))
    assert found["one rater"].value == pytest.approx(icc, abs=0.02)
    # of the weighted mean: more reliable than the plain one's (rows − rest) / rows, and what the truth says
    real = np.corrcoef(quality, scores.opinions(table).images["score"])[0, 1] ** 2
    assert (rows - rest) / rows < found["the panel"].value == pytest.approx(real, abs=0.02)


def test_the_ceiling_is_what_a_perfect_model_reaches():
    found, reached = [], []
    for seed in range(8):
        quality, _, table = panel(np.random.default_rng(seed), raters=4, photographs=150)
        images = scores.opinions(table).images
        found.append(scores.agreement(table)["ceiling"].value)
        reached.append(np.corrcoef(quality, images["score"])[0, 1])
    assert np.mean(found) == pytest.approx(np.mean(reached), abs=0.02)


def test_halves_of_the_panel_and_repeats_agree_as_they_were_made():
    rng = np.random.default_rng(0)
    _, _, table = panel(rng, raters=6, photographs=120)
    found = scores.agreement(pd.concat([table, table.head(30)], ignore_index=True))
    assert found["with oneself"].value == pytest.approx(1)
    assert 0.6 < found["halves of the panel"].value < 0.98
    assert found["halves of the panel"].low < found["halves of the panel"].value


@pytest.mark.parametrize(("number", "pairs", "spread"), [(30, 300, 1.3), (60, 120, 0.7), (20, 60, 1.3)])
def test_pairs_give_back_the_scale_that_they_were_drawn_from(number, pairs, spread):
    held, order = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = rng.normal(0, spread, number)
        truth -= truth.mean()
        left = rng.integers(0, number, pairs)
        right = (left + rng.integers(1, number, pairs)) % number
        won = (rng.random(pairs) < 1 / (1 + np.exp(truth[left] - truth[right]))).astype(float)
        found, covariance = scores.bradley_terry(left, right, won, number)
        held.append(np.mean(np.abs(found - truth) < 1.96 * np.sqrt(np.diag(covariance))))
        order.append(srcc(found, truth))
    assert 0.88 < np.mean(held) < 0.99  # the spread is estimated, too: somewhat below 95 % where pairs are few
    assert np.mean(order) > 0.4


def test_an_even_match_is_a_draw_and_a_transitive_order_is_found():
    table = pd.DataFrame({"kind": "pair", "image": list("abab"), "other": list("bcbc"), "value": [1.0] * 4})
    images = scores.from_pairs(table, 60, 10).set_index("image")["score"]
    assert images["a"] < images["b"] < images["c"] and images.mean() == pytest.approx(60)
    images = scores.from_pairs(table.assign(value=0.5)).set_index("image")["score"]
    assert np.ptp(images) < 1e-6


def test_two_kinds_of_rating_come_to_one_scale():
    table = pd.DataFrame({"rater": "A", "kind": ["acr", "slider", "pair"], "image": list("abc"), "value": [5, 30, 1]})
    points = scores.as_points(table)
    assert points["value"].tolist() == [100, 30] and points["rater"].tolist() == ["A, acr", "A, slider"]


def test_without_ratings_it_says_what_to_do():
    with pytest.raises(DataError, match="rate some photographs first"):
        scores.opinions(pd.DataFrame(columns=["rater", "image", "value"]))


def table_of(*ratings):
    return pd.DataFrame(ratings, columns=["rater", "image", "value"])


@pytest.mark.parametrize("raters", [1, 4])
def test_nobody_is_surer_than_the_steps_of_the_scale(raters):
    """Raters who agree with one another, and with themselves, to the point."""
    ratings = [(f"r{r}", f"{j}", 25.0 * (j % 5)) for r in range(raters) for j in range(30)]
    ratings += [("r0", f"{j}", 25.0 * (j % 5)) for j in range(5)]
    images = scores.opinions(table_of(*ratings)).images
    assert (images["se"] > 0.9 * 25 / np.sqrt(12) / np.sqrt(raters + 1)).all()


def test_who_rates_everything_alike_is_left_out_where_others_tell_photographs_apart():
    honest = [("r", f"{j}", 25.0 * (j % 5)) for j in range(30)]
    alike = [(name, f"{j}", 50.0) for name in ("c1", "c2") for j in range(30)]
    found = scores.opinions(table_of(*honest, *alike))
    assert found.raters.set_index("rater")["left out"].to_dict() == {"c1": True, "c2": True, "r": False}
    assert found.images["score"].max() == 100 and found.images["score"].min() == 0
    assert not scores.opinions(table_of(*alike)).raters["left out"].any(), "somebody must remain"


def test_draws_alone_leave_all_equal_with_intervals_on_the_scale():
    draws = pd.DataFrame({"kind": "pair", "image": list("abc"), "other": list("bca"), "value": 0.5})
    images = scores.from_pairs(draws)
    assert np.ptp(images["score"]) < 1e-6 and images["se"].between(1, 1000).all()
