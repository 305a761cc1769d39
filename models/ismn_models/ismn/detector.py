"""The perturbation detector P and the level head Q, on the log-DCT of the input-output difference (PRN's feature).

"A perturbation classifier is individually trained to classify the transform of the input-output difference" (seed,
abstract); the wording and the DCT are PRN's (Akhtar, Liu and Mian 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.transforms import dct_matrix

GRID = 32
"""Side of the feature grid; larger images are averaged onto it in equal frequency cells."""
GRAY = (0.299, 0.587, 0.114)


class Detector(nn.Module):
    """Linear P and Q over standardised features; linear so that an adaptive attacker can differentiate exactly."""

    mean: Tensor
    std: Tensor
    dct: Tensor
    gray: Tensor

    def __init__(self, size: int = 32, channels: int = 3) -> None:
        super().__init__()
        features = min(size, GRID) ** 2
        self.size = size
        self.register_buffer("dct", dct_matrix(size), persistent=False)
        weights = GRAY if channels == 3 else (1 / channels,) * channels
        self.register_buffer("gray", torch.tensor(weights).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.suspicion = nn.Linear(features, 1)
        self.level = nn.Linear(features, 1)

    def raw_features(self, x: Tensor, regenerated: Tensor) -> Tensor:
        """Return log|DCT(gray(x - R(x)))| [N, features], not yet standardised."""
        difference = ((x - regenerated).float() * self.gray).sum(1)
        spectrum = (self.dct @ difference @ self.dct.T).abs()
        if self.size > GRID:
            spectrum = nn.functional.adaptive_avg_pool2d(spectrum[:, None], GRID)[:, 0]
        return (spectrum.flatten(1) + 1e-6).log()

    def features(self, x: Tensor, regenerated: Tensor) -> Tensor:
        """Return the standardised features [N, features]."""
        return (self.raw_features(x, regenerated) - self.mean) / self.std

    def forward(self, x: Tensor, regenerated: Tensor) -> Tensor:
        """Return P's score [N]; higher is more suspicious."""
        score: Tensor = self.suspicion(self.features(x, regenerated)).squeeze(1)
        return score

    def estimate_level(self, x: Tensor, regenerated: Tensor) -> Tensor:
        """Return Q's estimate of eps [N], in [0, 0.5]. Diagnostic only: it chooses no threshold."""
        level: Tensor = self.level(self.features(x, regenerated)).squeeze(1)
        return level.clamp(0, 0.5)


PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def fit_linear_svm(features: Tensor, attacked: Tensor, folds: int = 5) -> tuple[Tensor, Tensor, float]:
    """Fit a linear SVM with squared hinge loss; the penalty is chosen by cross-validation.

    ``features`` [N, d], ``attacked`` bool [N]. Returns weights [d], bias [] and the cross-validated accuracy.
    """
    fold = torch.randperm(len(features), device=features.device) % folds
    scores = [_cross_validate(features, attacked, fold, folds, penalty) for penalty in PENALTIES]
    best = max(range(len(PENALTIES)), key=scores.__getitem__)
    weights, bias = _svm(features, attacked, PENALTIES[best])
    return weights, bias, scores[best]


def _cross_validate(features: Tensor, attacked: Tensor, fold: Tensor, folds: int, penalty: float) -> float:
    right = 0
    for k in range(folds):
        weights, bias = _svm(features[fold != k], attacked[fold != k], penalty)
        predicted = features[fold == k] @ weights + bias > 0
        right += int((predicted == attacked[fold == k]).sum())
    return right / len(features)


def _svm(features: Tensor, attacked: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Minimise penalty * ||w||^2 + mean max(0, 1 - sign * (w x + b))^2: smooth and convex, so L-BFGS."""
    sign = attacked.float() * 2 - 1
    weights = features.new_zeros(features.shape[1], requires_grad=True)
    bias = features.new_zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        margin = 1 - sign * (features @ weights + bias)
        value = penalty * weights.square().sum() + margin.clamp_min(0).square().mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach(), bias.detach()


def fit_ridge(features: Tensor, target: Tensor, penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return weights [d] and bias [] of ridge regression, in closed form."""
    centre, offset = features.mean(0), target.mean()
    centred = (features - centre).double()
    gram = centred.T @ centred + penalty * torch.eye(features.shape[1], device=features.device).double()
    weights = torch.linalg.solve(gram, centred.T @ (target - offset).double()).to(features.dtype)
    return weights, offset - centre @ weights
