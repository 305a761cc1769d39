"""The perturbation detector on the log-DCT of a reformer's input-output difference (Akhtar, Liu and Mian 2018, PRN).

ISMN takes it over: "a perturbation classifier is individually trained to classify the transform of the input-output
difference" (Haque and Kang 2021, abstract).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.transforms import dct_matrix

GRID = 32
"""Side of the feature grid; larger images are averaged onto it in equal frequency cells."""
GRAY = (0.299, 0.587, 0.114)


class DctDetector(nn.Module):
    """A linear score over standardised features; linear so that an adaptive attacker can differentiate exactly."""

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

    def raw_features(self, x: Tensor, reformed: Tensor) -> Tensor:
        """Return log|DCT(gray(x - R(x)))| [N, features], not yet standardised."""
        difference = ((x - reformed).float() * self.gray).sum(1)
        spectrum = (self.dct @ difference @ self.dct.T).abs()
        if self.size > GRID:
            spectrum = nn.functional.adaptive_avg_pool2d(spectrum[:, None], GRID)[:, 0]
        return (spectrum.flatten(1) + 1e-6).log()

    def features(self, x: Tensor, reformed: Tensor) -> Tensor:
        """Return the standardised features [N, features]."""
        return self.standardised(self.raw_features(x, reformed))

    def standardised(self, raw: Tensor) -> Tensor:
        """Return raw features [N, features] in units of what clean images show."""
        return (raw - self.mean) / self.std

    def forward(self, x: Tensor, reformed: Tensor) -> Tensor:
        """Return the score [N]; higher is more suspicious."""
        score: Tensor = self.suspicion(self.features(x, reformed)).squeeze(1)
        return score

    def fit(self, raw: Tensor, attacked: Tensor) -> float:
        """Fit the standardisation and the linear SVM on raw features [N, features] and ``attacked`` bool [N].

        Returns the cross-validated accuracy.
        """
        self.mean.copy_(raw[~attacked].mean(0))
        self.std.copy_(raw[~attacked].std(0).clamp_min(1e-3))
        weights, bias, accuracy = fit_linear_svm(self.standardised(raw), attacked)
        set_linear(self.suspicion, weights, bias)
        return accuracy


def set_linear(layer: nn.Linear, weights: Tensor, bias: Tensor) -> None:
    """Give a layer of one output its ``weights`` [d] and ``bias`` []."""
    with torch.no_grad():
        layer.weight.copy_(weights[None])
        layer.bias.fill_(bias)


def upper_quantile(values: Tensor, q: float) -> Tensor:
    """Return the smallest float above the q-quantile: a score equal to it is still within the clean share."""
    ranked = values.sort().values
    rank = min(len(ranked) - 1, max(0, int(q * len(ranked)) - 1))
    return torch.nextafter(ranked[rank], ranked.new_tensor(float("inf")))


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
