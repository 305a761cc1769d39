"""The attacks that ISMN trains on, crafted on the base classifier: the paper's transfer to the base network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.crafting import fgsm, pgd, rfgsm
from ismn_models.ismn.config import IsmnConfig
from ismn_models.parallel import drawn, only

KINDS = ("clean", "fgsm", "rfgsm", "pgd")


def attack_mixture(base: nn.Module, x: Tensor, y: Tensor, config: IsmnConfig) -> tuple[Tensor, Tensor]:
    """Return attacked images, same shape, and their eps [N]: a quarter each clean, Eq. 1, Eq. 2 and PGD.

    Each image draws its kind and its eps on its own. Eq. 2 is read as RAND+FGSM (Tramer et al. 2018) with
    alpha = eps / 2: its printed form lacks the sign.
    """
    labels = y
    if config.train_label == "predicted":
        with torch.no_grad():
            labels = base(x).argmax(1)
    kind = drawn(lambda n: torch.randint(len(KINDS), (n,), device=x.device), len(x))
    levels = torch.tensor(config.eps, device=x.device)
    eps = levels[drawn(lambda n: torch.randint(len(levels), (n,), device=x.device), len(x))] * (kind > 0)
    attacked = x.clone()
    for number in range(1, len(KINDS)):
        with only(kind == number) as chosen:
            if chosen.total:
                images, away_from, sizes = (t[chosen.at] for t in (x, labels, eps))
                chosen.put(attacked, _attack(KINDS[number], base, images, away_from, sizes, config))
    return attacked, eps


def _attack(kind: str, base: nn.Module, x: Tensor, y: Tensor, eps: Tensor, config: IsmnConfig) -> Tensor:
    if kind == "fgsm":
        return fgsm(base, x, y, eps)
    if kind == "rfgsm":
        return rfgsm(base, x, y, eps, eps / 2)
    return pgd(base, x, y, eps, config.pgd_steps, 2.5 * eps / config.pgd_steps)
