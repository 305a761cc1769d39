"""The attacks by name: torchattacks' L-inf and L2 family and ismn's own, every parameter pinned. No torch here.

A default may be a size relative to the threat's eps, written as a person would write it on the command line:
"2.5*eps/steps". At eps 8/255 and 10 steps that is torchattacks' own default of 2/255.

Left out on purpose: torchattacks' AutoAttack (it runs 10 iterations where the reference runs 100, so its
figures are not AutoAttack figures; ``autoattack`` is the reference), the L0 and L1 attacks (no such norm
here), and the wrappers.
"""

from __future__ import annotations

import math

from pydantic import JsonValue

from ismn_cli.core.attack_entry import BOTH, L2, LINF, STEP, AttackEntry
from ismn_cli.core.own_attacks import OWN

__all__ = ["ATTACKS", "AttackEntry"]

_RESIZING: dict[str, JsonValue] = {"resize_rate": 0.9, "diversity_prob": 0.5, "random_start": False}
_RESIZING_LIMITS = {"resize_rate": (0.1, 0.95), "diversity_prob": (0.0, 1.0)}
_SMOOTHING: dict[str, JsonValue] = {
    "alpha": STEP,
    "steps": 10,
    "noise_type": "gaussian",
    "noise_sd": 0.5,
    "noise_batch_size": 5,
    "batch_max": 2048,
}
_NOISES = {"noise_type": ("gaussian", "uniform")}
_ADAPTIVE: dict[str, JsonValue] = {"steps": 100, "n_restarts": 1, "eot_iter": 1, "rho": 0.75}
_PATCHWISE: dict[str, JsonValue] = {"num_iter_set": 10, "amplification": 10.0}


def _pgd_like(name: str, cls: str, summary: str, expects: float = 0.9, **more: JsonValue) -> AttackEntry:
    """Return an L-inf attack that takes ``steps`` signed steps of ``alpha``."""
    params = {"alpha": STEP, "steps": 10, **more}
    return AttackEntry(name, f"torchattacks:{cls}", LINF, summary, params, expects=expects)


_ENTRIES = (
    AttackEntry(
        "fgsm",
        "torchattacks:FGSM",
        LINF,
        "one signed gradient step (Goodfellow 2015; Eq. 1 of the paper)",
        {},
        expects=0.6,
    ),
    AttackEntry(
        "rfgsm",
        "torchattacks:RFGSM",
        LINF,
        "RAND+FGSM: random signs, then one gradient step (Tramer 2018; Eq. 2 of the paper)",
        # Tramer steps eps - alpha after a start of alpha; torchattacks steps alpha: the same at eps/2 only.
        {"alpha": "eps/2", "steps": 1},
        expects=0.6,
    ),
    _pgd_like("bim", "BIM", "iterated FGSM (Kurakin 2017)"),
    _pgd_like("pgd", "PGD", "projected gradient descent (Madry 2018)", random_start=True),
    _pgd_like("mifgsm", "MIFGSM", "iterated FGSM with momentum (Dong 2018)", decay=1.0),
    _pgd_like("nifgsm", "NIFGSM", "Nesterov momentum (Lin 2020)", decay=1.0),
    _pgd_like("sinifgsm", "SINIFGSM", "Nesterov momentum over m darker copies (Lin 2020)", decay=1.0, m=5),
    _pgd_like("vmifgsm", "VMIFGSM", "momentum with variance tuning (Wang 2021)", decay=1.0, N=5, beta=1.5),
    _pgd_like("vnifgsm", "VNIFGSM", "Nesterov with variance tuning (Wang 2021)", decay=1.0, N=5, beta=1.5),
    AttackEntry(
        "difgsm",
        "torchattacks:DIFGSM",
        LINF,
        "momentum over randomly resized inputs (Xie 2019)",
        {"alpha": STEP, "steps": 10, "decay": 0.0, **_RESIZING},
        limits=_RESIZING_LIMITS,
        expects=0.9,
    ),
    AttackEntry(
        "tifgsm",
        "torchattacks:TIFGSM",
        LINF,
        "gradients smoothed over translations (Dong 2019)",
        {
            "alpha": STEP,
            "steps": 10,
            "decay": 0.0,
            "kernel_name": "gaussian",
            "len_kernel": 15,
            "nsig": 3,
            **_RESIZING,
        },
        channels=3,
        choices={"kernel_name": ("gaussian", "linear", "uniform")},
        limits=_RESIZING_LIMITS,
        expects=0.5,
    ),
    AttackEntry(
        "ffgsm",
        "torchattacks:FFGSM",
        LINF,
        "uniform random start, then one long step (Wong 2020)",
        {"alpha": "1.25*eps"},
        expects=0.6,
    ),
    AttackEntry(
        "pifgsm",
        "torchattacks:PIFGSM",
        LINF,
        "patch-wise: surplus steps flow to neighbouring pixels (Gao 2020)",
        _PATCHWISE,
        eps_parameter="max_epsilon",
        channels=3,
        unused=("momentum", "prob"),
        expects=0.9,
    ),
    AttackEntry(
        "pifgsmpp",
        "torchattacks:PIFGSMPP",
        LINF,
        "patch-wise++, with smoothed gradients (Gao 2020)",
        {**_PATCHWISE, "project_factor": 0.8},
        eps_parameter="max_epsilon",
        channels=3,
        unused=("momentum", "prob"),
        expects=0.8,
    ),
    _pgd_like("tpgd", "TPGD", "PGD on the KL divergence from the clean answer (TRADES; Zhang 2019)", 0.4),
    _pgd_like("eotpgd", "EOTPGD", "PGD averaging eot_iter gradients", eot_iter=2, random_start=True),
    AttackEntry(
        "upgd",
        "torchattacks:UPGD",
        LINF,
        "PGD with a choice of loss, momentum and averaging",
        {"alpha": STEP, "steps": 10, "random_start": False, "loss": "ce", "decay": 1.0, "eot_iter": 1},
        margin_from_zero=True,
        choices={"loss": ("ce", "dlr", "margin")},
        expects=0.9,
    ),
    _pgd_like(
        "jitter",
        "Jitter",
        "PGD on noisy scaled logits (Schwinn 2021)",
        0.8,
        scale=10.0,
        std=0.1,
        random_start=True,
    ),
    AttackEntry(
        "pgdrs",
        "torchattacks:PGDRS",
        LINF,
        "PGD against randomised smoothing (Salman 2019)",
        _SMOOTHING,
        choices=_NOISES,
        # Aimed at classifiers of noisy images: of 10 samples of an undefended one it broke 3, in L2 one.
        expects=0.15,
    ),
    AttackEntry(
        "apgd",
        "torchattacks:APGD",
        BOTH,
        "PGD that sets its own step size, 100 steps as in the reference (Croce 2020)",
        {**_ADAPTIVE, "loss": "ce"},
        choices={"loss": ("ce", "dlr")},
        heeds_answers=True,
        expects=0.9,
    ),
    AttackEntry(
        "apgdt",
        "torchattacks:APGDT",
        BOTH,
        "APGD towards every other class in turn (Croce 2020)",
        _ADAPTIVE,
        heeds_answers=True,
        expects=0.9,
    ),
    AttackEntry(
        "fab",
        "torchattacks:FAB",
        BOTH,
        "fast adaptive boundary, minimum norm, 100 steps as in the reference (Croce 2020)",
        {
            "steps": 100,
            "n_restarts": 1,
            "alpha_max": 0.1,
            "eta": 1.05,
            "beta": 0.9,
            "multi_targeted": False,
        },
        minimum_norm=True,
        limits={"alpha_max": (0.0, 1.0), "beta": (0.0, 1.0)},
        heeds_answers=True,
        expects=0.8,
    ),
    AttackEntry(
        "square",
        "torchattacks:Square",
        BOTH,
        "random search with squares, outputs only (Andriushchenko 2020)",
        {"n_queries": 5000, "n_restarts": 1, "p_init": 0.8, "loss": "margin", "resc_schedule": True},
        gradient=False,
        choices={"loss": ("ce", "margin")},
        limits={"p_init": (1e-4, 1.0)},
        heeds_answers=True,
        expects=0.7,
    ),
    AttackEntry(
        "spsa",
        "torchattacks:SPSA",
        LINF,
        "gradients estimated from outputs by random differences (Uesato 2018)",
        # torchattacks' single step of 0.01 cannot reach the edge of the ball. Its chunks of 64 copies of the
        # batch go forward at once: 4 keep that to a hundred images or so, and change no result but the noise.
        {"delta": 0.01, "lr": "2.5*eps/nb_iter", "nb_iter": 20, "nb_sample": 128, "max_batch_size": 4},
        gradient=False,
        expects=0.7,
    ),
    AttackEntry(
        "gn",
        "torchattacks:GN",
        BOTH,
        "Gaussian noise brought into the ball: a control, not an attacker",
        {"std": "0.5*eps"},
        gradient=False,
        eps_parameter=None,
    ),
    AttackEntry(
        "pgdl2",
        "torchattacks:PGDL2",
        L2,
        "projected gradient descent in L2 (Madry 2018)",
        {"alpha": STEP, "steps": 10, "random_start": True, "eps_for_division": 1e-10},
        expects=0.8,
    ),
    AttackEntry(
        "pgdrsl2",
        "torchattacks:PGDRSL2",
        L2,
        "PGD in L2 against randomised smoothing (Salman 2019)",
        {**_SMOOTHING, "eps_for_division": 1e-10},
        choices=_NOISES,
        expects=0.05,
    ),
    AttackEntry(
        "cw",
        "torchattacks:CW",
        L2,
        "minimum norm, no search over c; cannot move a pixel that is exactly 0 or 1 (Carlini 2017)",
        {"c": 1.0, "kappa": 0.0, "steps": 50, "lr": 0.01},
        eps_parameter=None,
        minimum_norm=True,
        margin_from_zero=True,
        heeds_answers=True,
        expects=0.5,
    ),
    AttackEntry(
        "deepfool",
        "torchattacks:DeepFool",
        L2,
        "minimum norm, towards the nearest linearised boundary (Moosavi-Dezfooli 2016)",
        {"steps": 50, "overshoot": 0.02},
        eps_parameter=None,
        minimum_norm=True,
        heeds_answers=True,
        expects=0.7,
    ),
    AttackEntry(
        "eaden",
        "torchattacks:EADEN",
        L2,
        "elastic net, minimum norm with some L1 (Chen 2018)",
        {
            "kappa": 0.0,
            "lr": 0.01,
            "binary_search_steps": 9,
            "max_iterations": 100,
            # By its default it stops when the sum of the losses does: an image would depend on those beside it.
            "abort_early": False,
            "initial_const": 0.001,
            "beta": 0.001,
        },
        eps_parameter=None,
        minimum_norm=True,
        margin_from_zero=True,
        # It divides by max_iterations // 10.
        limits={"max_iterations": (10, math.inf)},
        heeds_answers=True,
        expects=0.5,
    ),
)

ATTACKS: dict[str, AttackEntry] = {entry.name: entry for entry in (*_ENTRIES, *OWN)}
