"""Each loss against its formula written out, its minimum, its gradient and its degenerate batches."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from iqa_lib.training import losses
from iqa_lib.training.losses import LOSSES, combined, margin_ranking

BATCH_LOSSES = sorted(set(LOSSES) - {"l1", "l2"})


def batch(seed: int = 0, size: int = 12, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels on 0–100; some labels equal, some predictions within a point of each other."""
    rng = np.random.default_rng(seed)
    label = rng.uniform(0, 100, size)
    predicted = np.clip(label + rng.normal(0, 25, size), 0, 100)
    if ties:
        label[:2], predicted[2:5] = 40.0, [60.0, 60.2, 59.9]
    return predicted, label


def value(loss, predicted, label, **options) -> float:
    tensors = (torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (predicted, label))
    return loss(*tensors, **options).item()


def gradient(loss, predicted: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    predicted = predicted.clone().requires_grad_()
    loss(predicted, label).backward()
    return predicted.grad


def average_over_pairs(term, predicted, label) -> float:
    pairs = itertools.permutations(range(len(label)), 2)
    return np.mean([term(predicted[i] - predicted[j], label[i] - label[j]) for i, j in pairs])


def soft_srcc(predicted, label, temperature=0.1) -> float:
    scale = temperature * np.std(predicted)
    soft = [sum(expit((p - q) / scale) for q in predicted) for p in predicted]
    return stats.pearsonr(soft, stats.rankdata(label)).statistic


def fidelity(p: float, t: float, sigma: float = 0.1) -> float:
    probability, target = expit(1.702 * p / math.hypot(sigma, sigma)), float(t >= 0)
    return 1 - math.sqrt(probability * target) - math.sqrt((1 - probability) * (1 - target))


FORMULAS = {
    "l1": lambda p, t: np.mean(np.abs(p - t)),
    "l2": lambda p, t: np.mean((p - t) ** 2),
    "plcc": lambda p, t: 1 - stats.pearsonr(p, t).statistic,
    "srcc": lambda p, t: 1 - soft_srcc(p, t),
    "pairwise_rank": lambda p, t: average_over_pairs(lambda dp, dt: max(0, abs(dp) - np.sign(dp) * dt), p, t),
    "pairwise_fidelity": lambda p, t: average_over_pairs(fidelity, p, t),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ties", [True, False], ids=["ties", "no ties"])
def test_the_value_is_that_of_the_formula(name, ties):
    predicted, label = batch(ties=ties)
    assert value(LOSSES[name], predicted, label) == pytest.approx(FORMULAS[name](predicted, label), rel=1e-9)


@pytest.mark.parametrize("margin", [0.1, 5.0])
def test_the_margin_term_is_that_of_the_formula(margin):
    predicted, label = batch()
    expected = average_over_pairs(lambda p, t: max(0, margin - np.sign(t) * p), predicted, label)
    assert value(margin_ranking, predicted, label, margin=margin) == pytest.approx(expected, rel=1e-9)


def test_values_worked_out_by_hand():
    """Pairs (1,2) and (1,3) in the right order, (2,3) in the wrong one by 4 points; labels 10 apart."""
    predicted, label = [0.0, 34.0, 30.0], [0.0, 10.0, 20.0]
    assert value(losses.pairwise_rank, predicted, label) == pytest.approx((24 + 10 + 14) / 3)
    assert value(margin_ranking, predicted, label) == pytest.approx(4.1 / 3)
    assert value(losses.pairwise_fidelity, predicted, label) == pytest.approx(1 / 3)  # σ is far below 4 points
    assert value(losses.srcc, predicted, label, temperature=1e-3) == pytest.approx(1 - 0.5)


def test_the_logistic_of_the_fidelity_loss_stands_for_the_normal_distribution():
    """A pair whose order is right by d points costs 1 − √Φ(d / √2 σ)."""
    for apart in np.linspace(-5, 5, 41):
        exact = 1 - math.sqrt(stats.norm.cdf(apart / (math.sqrt(2) * 2)))
        assert value(losses.pairwise_fidelity, [apart, 0], [1, 0], sigma=2) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("name", LOSSES)
def test_no_other_order_is_better_than_the_labels_own(name):
    label = batch(ties=False)[1]
    best = value(LOSSES[name], label, label)
    rng = np.random.default_rng(1)
    assert best == pytest.approx(0, abs=0.01)
    assert all(value(LOSSES[name], rng.permutation(label), label) > best + 0.05 for _ in range(50))


def test_equal_labels_ask_for_equal_predictions_whichever_image_comes_first():
    loss = losses.pairwise_fidelity
    at_rest = value(loss, [50, 50], [30, 30])
    assert value(loss, [50, 50.1], [30, 30]) == pytest.approx(value(loss, [50.1, 50], [30, 30]))
    assert value(loss, [50, 50.1], [30, 30]) > at_rest == pytest.approx(1 - math.sqrt(0.5))


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_batch_does_not_matter(name):
    predicted, label = batch()
    order = np.random.default_rng(2).permutation(len(label))
    assert value(LOSSES[name], predicted[order], label[order]) == pytest.approx(value(LOSSES[name], predicted, label))


@pytest.mark.parametrize("name", ["plcc", "srcc"])
def test_scale_and_offset_do_not_matter_but_sign_does(name):
    predicted, label = batch()
    loss = value(LOSSES[name], predicted, label)
    assert value(LOSSES[name], 0.01 * predicted + 300, label) == pytest.approx(loss)
    assert value(LOSSES[name], -predicted, label) == pytest.approx(2 - loss)


@pytest.mark.parametrize("bend", [np.sqrt, np.square, lambda x: 1 / (1 + np.exp(-(x - 50) / 15))])
def test_a_bent_scale_costs_pearson_but_hardly_the_rank_loss(bend):
    label = np.random.default_rng(3).uniform(1, 99, 64)
    rank, pearson = (value(loss, bend(label), label) for loss in (losses.srcc, losses.plcc))
    assert rank < 0.01 and rank < pearson


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [True, False], ids=["ties", "no ties"])
def test_the_rank_loss_goes_to_one_minus_spearman(seed, ties):
    predicted, label = batch(seed, 32, ties)
    true = 1 - stats.spearmanr(predicted, label).statistic
    errors = [abs(value(losses.srcc, predicted, label, temperature=t) - true) for t in (1, 0.1, 1e-5)]
    assert errors[0] < 0.15 and errors[1] < 0.02 and errors[2] < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_slope_of_the_value(name):
    predicted, label = (torch.from_numpy(x) for x in batch())
    predicted[2:5] = torch.tensor([60.0, 60.2, 59.9])  # no equal predictions: |p_i − p_j| has a kink there
    assert torch.autograd.gradcheck(lambda p: LOSSES[name](p, label), predicted.requires_grad_(), eps=1e-5)


@pytest.mark.parametrize("name", ["plcc", "srcc"])
def test_the_gradient_pushes_neither_scale_nor_offset(name):
    predicted, label = (torch.from_numpy(x) for x in batch())
    slope = gradient(LOSSES[name], predicted, label)
    assert slope.norm() > 1e-4
    assert abs(slope.sum()) < 1e-12 and abs(slope @ predicted) < 1e-10


@pytest.mark.parametrize("name", [*LOSSES, *(f"{name} + margin" for name in LOSSES)])
@pytest.mark.parametrize("seed", range(3))
def test_descent_raises_the_srcc(name, seed):
    """Adam on the predictions themselves, from noise about two points wide, as an untrained head gives."""
    rng = np.random.default_rng(seed)
    label = torch.from_numpy(rng.uniform(0, 100, 32)).float()
    predicted = torch.from_numpy(50 + rng.normal(0, 0.5, 32)).float().requires_grad_()
    loss = combined(name.removesuffix(" + margin"), ranking_weight=float(name.endswith("margin")))
    optimizer = torch.optim.Adam([predicted], lr=0.05)

    def srcc() -> float:
        return stats.spearmanr(predicted.detach(), label).statistic

    before = srcc()
    for _ in range(60):
        optimizer.zero_grad()
        loss(predicted, label).backward()
        optimizer.step()
    assert abs(before) < 0.5 and srcc() > before + 0.5


def test_fidelity_at_the_reference_sigma_cannot_mend_a_pair_ten_points_apart():
    """Its limit on the 0–100 scale; a σ that suits the scale has a gradient there."""
    predicted, label = torch.tensor([60.0, 40.0]), torch.tensor([30.0, 70.0])
    assert gradient(losses.pairwise_fidelity, predicted, label).abs().max() < 1e-12
    wide = gradient(lambda p, t: losses.pairwise_fidelity(p, t, sigma=10.0), predicted, label)
    assert wide[0] > 1e-3 and wide[1] < -1e-3


def test_a_constant_model_is_a_minimum_of_the_papers_hinge_but_not_with_the_margin_term():
    predicted, label = np.full(4, 50.0), np.arange(4.0)
    assert value(losses.pairwise_rank, predicted, label) == 0
    assert value(combined("pairwise_rank", 2.0), predicted, label) == pytest.approx(2 * 0.1)


LABEL = [10.0, 20, 20, 70, 90]
DEGENERATE = {
    "one image": ([3.0], [50.0]),
    "constant labels": ([1.0, 2, 3, 50, 99], [40.1] * 5),
    "constant predictions": ([0.1] * 5, LABEL),
    "all constant": ([0.1] * 5, [40.1] * 5),
}


@pytest.mark.parametrize("name", [*LOSSES, "margin"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_a_batch_without_order_gives_a_finite_loss_and_gradient(name, case):
    predicted, label = (torch.tensor(x) for x in DEGENERATE[case])
    loss = margin_ranking if name == "margin" else LOSSES[name]
    slope = gradient(loss, predicted, label)
    assert torch.isfinite(loss(predicted, label)) and torch.isfinite(slope).all()
    if name in ("plcc", "srcc"):
        assert loss(predicted, label) == 1 and (slope == 0).all()
    if name in ("pairwise_rank", "pairwise_fidelity", "margin") and case == "one image":
        assert loss(predicted, label) == 0 and (slope == 0).all()
    if case == "constant labels":
        assert bool((slope == 0).all()) == (name in ("plcc", "srcc", "margin"))
        if name.startswith("pairwise"):
            assert slope[0] <= 0 <= slope[-1] and slope.abs().max() > 0  # lowest up, highest down


@pytest.mark.parametrize("name", [*LOSSES, "margin"])
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e-4, 1e4, 1e15])
def test_the_gradient_is_finite_for_predictions_of_any_size(name, scale):
    loss = margin_ranking if name == "margin" else LOSSES[name]
    predicted = torch.tensor([0.3, -0.7, 0.0, 1.0, 1.0]) * scale
    assert torch.isfinite(loss(predicted, torch.tensor(LABEL)))
    assert torch.isfinite(gradient(loss, predicted, torch.tensor(LABEL))).all()


@pytest.mark.parametrize("name", [*LOSSES, "margin"])
def test_predictions_that_are_no_numbers_are_not_hidden(name):
    loss = margin_ranking if name == "margin" else LOSSES[name]
    predicted = torch.tensor([1.0, math.nan, 3, 4, 5])
    assert torch.isnan(loss(predicted, torch.tensor(LABEL)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*LOSSES, "margin"])
def test_half_precision_is_computed_in_float32(name, dtype):
    loss = margin_ranking if name == "margin" else LOSSES[name]
    predicted, label = (torch.from_numpy(x).to(dtype) for x in batch(size=32))
    result = loss(predicted, label)
    assert result.dtype == torch.float32
    assert result == loss(predicted.float(), label.float())
    assert torch.isfinite(gradient(loss, predicted, label)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_column_against_a_row_is_refused(name):
    with pytest.raises(ValueError, match=r"one shape \(B,\).*\(5, 1\) and \(5,\)"):
        LOSSES[name](torch.ones(5, 1), torch.ones(5))


@pytest.mark.parametrize("name", LOSSES)
def test_the_ranking_term_is_added_with_its_weight_and_left_out_at_zero(name):
    predicted, label = batch()
    plain = value(LOSSES[name], predicted, label)
    assert combined(name) is combined(name, 0.0) is LOSSES[name]
    assert value(combined(name, 0.3), predicted, label) == pytest.approx(
        plain + 0.3 * value(margin_ranking, predicted, label)
    )


@pytest.mark.parametrize("images", [1, 2, 7])
def test_pairs_without_the_diagonal_are_those_that_a_mask_selects(images):
    pairs = torch.rand(images, images, requires_grad=True)
    expected = pairs[~torch.eye(images, dtype=torch.bool)]
    weights = torch.arange(1.0, len(expected) + 1)
    found = losses._distinct(pairs)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(each @ weights, pairs)[0] for each in (found, expected)))
