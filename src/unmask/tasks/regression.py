"""Multinomial logistic regression on frozen features, solved to convergence.

The minimised value is the mean cross-entropy of the training images plus half the
penalty times the squared norm of the weights; biases are not penalised. It is convex:
no seed, order or learning rate matters, and its gradient says how near the minimum is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import minimize  # type: ignore[import-untyped]
from torch import Tensor

from unmask.tasks.features import LabelledFeatures

# images at once, in double precision
CHUNK = 16_384
# as the linear probe's BatchNorm
VARIANCE_EPS = 1e-6
# curvature pairs that L-BFGS keeps
MEMORY = 20


@dataclass(frozen=True)
class Stop:
    """When the solver stops.

    tolerance: of the gradient's largest component, at which it has converged.
    max_iterations: of one solution, converged or not.
    """

    tolerance: float
    max_iterations: int


@dataclass(frozen=True)
class Standardisation:
    """Centre each feature and divide by its standard deviation, in double precision."""

    mean_D: Float[Tensor, "D"]
    variance_D: Float[Tensor, "D"]

    @classmethod
    def of(cls, features_ND: Float[Tensor, "N D"]) -> "Standardisation":
        variance_D, mean_D = torch.var_mean(features_ND.double(), dim=0, correction=0)
        return cls(mean_D, variance_D)

    def __call__(self, features_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        scale_D = (self.variance_D + VARIANCE_EPS).rsqrt()
        return (features_ND.double() - self.mean_D) * scale_D


@dataclass(frozen=True)
class Head:
    """The linear head that minimises the penalised loss, on standardised features.

    gradient: its largest component there, absolute. iterations: of this solution alone.
    """

    weights_KD: Float[Tensor, "K D"]
    bias_K: Float[Tensor, "K"]
    penalty: float
    gradient: float
    iterations: int

    def logits(self, standard_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        return standard_ND @ self.weights_KD.T + self.bias_K


class Objective:
    """The penalised mean cross-entropy of a linear head, with its gradient.

    device: where the matrix products are computed. keep_alive: is called before each
    part of the images.
    """

    def __init__(
        self,
        bank: LabelledFeatures,
        standardise: Standardisation,
        num_classes: int,
        device: torch.device,
        keep_alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.bank = bank
        mean_D, variance_D = standardise.mean_D, standardise.variance_D
        self.standardise = Standardisation(mean_D.to(device), variance_D.to(device))
        self.num_classes = num_classes
        self.device = device
        self.keep_alive = keep_alive

    @property
    def shape(self) -> tuple[int, int]:
        """Return (classes, features + 1): the biases are the last column."""
        return self.num_classes, self.bank.features_ND.shape[1] + 1

    def _chunks(self) -> Iterator[tuple[Float[Tensor, "C E"], Int[Tensor, "C"]]]:
        """Yield standardised features beside a column of ones, and labels."""
        features, labels = (tensor.split(CHUNK) for tensor in self.bank)
        for features_CD, labels_C in zip(features, labels, strict=True):
            self.keep_alive()
            standard_CD = self.standardise(features_CD.to(self.device))
            # pad on the right of the last axis
            yield F.pad(standard_CD, (0, 1), value=1.0), labels_C.to(self.device)

    def __call__(
        self, head_KE: Float[Tensor, "K E"], penalty: float
    ) -> tuple[float, Float[Tensor, "K E"]]:
        """Return the value and its gradient at a head, biases in the last column."""
        count = len(self.bank.labels_N)
        head_KE = head_KE.to(self.device)
        weights_KE = F.pad(head_KE[:, :-1], (0, 1))
        value = 0.5 * penalty * float(weights_KE.square().sum())
        gradient_KE = penalty * weights_KE
        for features_CE, labels_C in self._chunks():
            logits_CK = features_CE @ head_KE.T
            loss = F.cross_entropy(logits_CK, labels_C, reduction="sum")
            value += float(loss) / count
            errors_CK = logits_CK.softmax(dim=1)
            errors_CK[torch.arange(len(labels_C)), labels_C] -= 1
            gradient_KE += errors_CK.T @ features_CE / count
        return value, gradient_KE.cpu()

    def minimise(self, penalty: float, stop: Stop, start: Head | None = None) -> Head:
        """Return the minimum, by L-BFGS from `start` or from zero."""
        head_KE = torch.zeros(self.shape, dtype=torch.double)
        if start:
            head_KE = torch.cat([start.weights_KD, start.bias_K[:, None]], dim=1)

        def evaluate(values: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient_KE = self(
                torch.from_numpy(values).view(self.shape), penalty
            )
            return value, gradient_KE.numpy().ravel()

        found = minimize(
            evaluate,
            head_KE.numpy().ravel(),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxcor": MEMORY,
                "gtol": stop.tolerance,
                # the gradient alone decides
                "ftol": 0.0,
                "maxiter": stop.max_iterations,
                "maxfun": 2 * stop.max_iterations,
            },
        )
        solved_KE = torch.from_numpy(found.x).view(self.shape)
        gradient = float(np.abs(found.jac).max())
        weights_KD, bias_K = solved_KE[:, :-1].clone(), solved_KE[:, -1].clone()
        return Head(weights_KD, bias_K, penalty, gradient, int(found.nit))


@dataclass(frozen=True)
class Search:
    """Which penalties to try, and on what share of the training images to choose."""

    penalties: Sequence[float]
    holdout: float


def choose_penalty(
    bank: LabelledFeatures,
    search: Search,
    num_classes: int,
    stop: Stop,
    device: torch.device,
    keep_alive: Callable[[], None] = lambda: None,
) -> float:
    """Return the penalty with the smallest cross-entropy on held-out training images.

    Penalties are tried from the largest down, each from the solution before, until the
    held-out loss rises: a smaller penalty fits the training images closer still. Raise
    ValueError where no image is held out, or every one.
    """
    if len(search.penalties) == 1:
        return search.penalties[0]
    is_held_N = hold_out(bank.labels_N, search.holdout)
    if is_held_N.all() or not is_held_N.any():
        raise ValueError(
            f"{int(is_held_N.sum())} of {len(is_held_N)} images are held out to choose"
            " a penalty; use more labels, or a single penalty"
        )
    rest = LabelledFeatures(*(tensor[~is_held_N] for tensor in bank))
    held = LabelledFeatures(*(tensor[is_held_N] for tensor in bank))
    standardise = Standardisation.of(rest.features_ND)
    objective = Objective(rest, standardise, num_classes, device, keep_alive)
    standard_ND = standardise(held.features_ND)
    best, smallest, head = 0.0, float("inf"), None
    for penalty in sorted(search.penalties, reverse=True):
        head = objective.minimise(penalty, stop, head)
        loss = float(F.cross_entropy(head.logits(standard_ND), held.labels_N))
        if loss >= smallest:
            break
        best, smallest = penalty, loss
    return best


def hold_out(labels_N: Int[Tensor, "N"], share: float) -> Tensor:
    """Return which images are held out: evenly spread over those of each class.

    Of a class with n images they are round(n * share), by their order alone.
    """
    is_held_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in labels_N.unique():
        places = (labels_N == label).nonzero()[:, 0]
        ranks = torch.arange(len(places), dtype=torch.double)
        # floor((i + 1/2) share) takes a new value at each that is held out
        steps = ((ranks + 1) * share + 0.5).floor() - (ranks * share + 0.5).floor()
        is_held_N[places[steps > 0]] = True
    return is_held_N
