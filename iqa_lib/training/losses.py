"""Losses on a batch: predictions (B,) and labels (B,), both on 0–100; each returns a scalar.

L1 and L2 judge each image alone. The others look at pairs or at the whole batch and leave the offset of the
predictions free (`plcc` and `srcc` the scale too), so RMSE says something only after the logistic mapping of `metrics`.

Half-precision input is computed in float32. Loss and gradient are finite for every batch of finite numbers. Beyond L1
and L2, one image alone has gradient zero; so have, where a correlation is undefined, constant labels and constant
predictions under `plcc` and `srcc`. Under `pairwise_rank` and `pairwise_fidelity` equal labels pull predictions close.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def _checked(loss: Loss) -> Loss:
    """In float32 at least, and only on two vectors of one length: (B, 1) against (B,) would broadcast in silence."""

    @functools.wraps(loss)
    def on_vectors(predicted: Tensor, label: Tensor, **options) -> Tensor:
        if predicted.ndim != 1 or predicted.shape != label.shape:
            raise ValueError(
                f"A loss takes predictions and labels of one shape (B,); "
                f"these are {tuple(predicted.shape)} and {tuple(label.shape)}."
            )
        predicted, label = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (predicted, label))
        return loss(predicted, label, **options)

    return on_vectors


@_checked
def l1(predicted: Tensor, label: Tensor) -> Tensor:
    """Mean |p − t|, in points; what SMART-IQA and HyperIQA train with."""
    return F.l1_loss(predicted, label)


@_checked
def l2(predicted: Tensor, label: Tensor) -> Tensor:
    """Mean (p − t)², in squared points."""
    return F.mse_loss(predicted, label)


@_checked
def plcc(predicted: Tensor, label: Tensor) -> Tensor:
    """1 − Pearson's correlation of the batch, 0 to 2; 1 where one side is constant.

    The paper calls it "SRCC loss", but no rank enters it: for that, see `srcc`.
    """
    return 1 - _standardised(predicted) @ _standardised(label) / len(label)


@_checked
def srcc(predicted: Tensor, label: Tensor, temperature: float = 0.1) -> Tensor:
    """1 − Pearson's correlation of soft ranks of the predictions with the ranks of the labels, 0 to 2.

    Soft rank of p_i: Σ_j sigmoid((p_i − p_j) / (temperature · s)), after Qin, Liu & Li (2010), "A general
    approximation framework for direct optimization of information retrieval measures", Information Retrieval 13.
    As `temperature` goes to 0 the loss goes to 1 − SRCC, ties averaged, and its gradient vanishes.
    s is the standard deviation of the batch's predictions, so units do not matter. It takes part in the gradient:
    held fixed, the gradient would also stretch or shrink all predictions, which changes no rank.
    """
    soft_rank = torch.sigmoid(_pairs(_standardised(predicted)) / temperature).sum(1)
    rank = torch.sign(_pairs(label)).sum(1)  # up to the scale and offset that Pearson ignores
    return 1 - _standardised(soft_rank) @ _standardised(rank) / len(label)


@_checked
def pairwise_rank(predicted: Tensor, label: Tensor) -> Tensor:
    """Mean over pairs of max(0, |p_i − p_j| − sign(p_i − p_j)(t_i − t_j)), in points; the paper's hinge.

    It asks for the right order and for differences no larger than the labels'. Equal predictions also give 0, so
    a model that collapses to a constant is a minimum too.
    """
    p, t = _distinct(_pairs(predicted)), _distinct(_pairs(label))
    return _mean(F.relu(p.abs() - torch.sign(p) * t))


@_checked
def pairwise_fidelity(predicted: Tensor, label: Tensor, sigma: float = 0.1) -> Tensor:
    """Mean over ordered pairs of 1 − √(P g) − √((1 − P)(1 − g)), 0 to 1.

    g is 1 where t_i ≥ t_j, else 0. P = Φ((p_i − p_j) / (√2 σ)) is Thurstone's probability (case V) that image i
    is the better one, with Φ(x) ≈ 1 / (1 + e^(−1.702 x)). Tsai et al. (2007), "FRank: a ranking method with fidelity
    loss"; Zhang et al. (2021), "Uncertainty-aware blind image quality assessment in the laboratory and wild" (UNIQUE).

    `sigma` is in points, and the reference's 0.1 is a thousandth of the scale: almost a count of wrongly ordered
    pairs. The gradient reaches pairs about a point apart and vanishes beyond, whichever way they are ordered.
    """
    p, t = _distinct(_pairs(predicted)), _distinct(_pairs(label))
    logit = 1.702 * p / (math.sqrt(2) * sigma)
    log_probability = F.logsigmoid(torch.where(t >= 0, logit, -logit))
    return _mean(1 - torch.exp(log_probability / 2))  # √ would have an infinite slope at probability 0


@_checked
def margin_ranking(predicted: Tensor, label: Tensor, margin: float = 0.1) -> Tensor:
    """Mean over pairs of max(0, m − sign(t_i − t_j)(p_i − p_j)), in points; the paper's optional added term.

    Every pair that is not in the labels' order by `margin` points costs; a pair of equal labels costs a constant.
    """
    p, t = _distinct(_pairs(predicted)), _distinct(_pairs(label))
    return _mean(F.relu(margin - torch.sign(t) * p))


@_checked
def spoilt_order(mild: Tensor, harsh: Tensor, margin: float = 3.0) -> Tensor:
    """Mean of max(0, m − (mild − harsh)), in points: of two spoilt copies of a crop the harsher loses `margin` points.

    Liu et al. (2017), "RankIQA: learning from rankings for no-reference image quality assessment".
    """
    return F.relu(margin - (mild - harsh)).mean()


LOSSES: dict[str, Loss] = {
    "l1": l1,
    "l2": l2,
    "plcc": plcc,
    "srcc": srcc,
    "pairwise_rank": pairwise_rank,
    "pairwise_fidelity": pairwise_fidelity,
}


def combined(name: str, ranking_weight: float = 0.0) -> Loss:
    """The loss `name` of `LOSSES`, plus α · `margin_ranking` where α = `ranking_weight` is above 0."""
    loss = LOSSES[name]
    if not ranking_weight > 0:
        return loss
    return lambda predicted, label: loss(predicted, label) + ranking_weight * margin_ranking(predicted, label)


def _standardised(x: Tensor) -> Tensor:
    """Mean 0, population variance 1; where x is constant: zeros, which pass no gradient on."""
    centred = x - x.mean()
    spread = torch.linalg.vector_norm(centred) / math.sqrt(len(x))
    # Rounding may leave a constant with a spread, and too small a spread is 0 in float32.
    constant = (x.amax() == x.amin()) | (spread == 0)
    return torch.where(constant, 0.0, centred / torch.where(constant, 1.0, spread))


def _pairs(x: Tensor) -> Tensor:
    """All differences x_i − x_j, (B, B)."""
    return x[:, None] - x[None, :]


def _distinct(pairs: Tensor) -> Tensor:
    """The entries with i ≠ j, (B(B−1),). Both orders of a pair, so that no result depends on the order of the batch."""
    # Without its first entry, rows that are one longer end with the diagonal: a mask would make a GPU's caller wait.
    return pairs.flatten()[1:].view(len(pairs) - 1, len(pairs) + 1)[:, :-1].flatten()


def _mean(x: Tensor) -> Tensor:
    """The mean, 0 for no entries: a batch of one image has no pairs."""
    return x.sum() / max(len(x), 1)
