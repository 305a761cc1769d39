"""ismn's own attacks by name, every parameter pinned. No torch here."""

from __future__ import annotations

import math

from ismn_cli.core.attack_entry import BOTH, L2, LINF, AttackEntry

OWN: tuple[AttackEntry, ...] = (
    AttackEntry(
        "autoattack",
        "ismn_cli.attacks.reference:Reference",
        BOTH,
        "the reference ensemble of four attacks, parameter-free (Croce 2020)",
        {"version": "standard", "attacks": "none"},
        eps_parameter=None,
        choices={
            "version": ("standard", "plus", "rand", "custom"),
            "attacks": ("none", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"),
        },
        several=("attacks",),
        only_with={"attacks": ("version", "custom")},
        own=True,
        heeds_answers=True,
        expects=0.95,
    ),
    AttackEntry(
        "pgd-ensemble",
        "ismn_cli.attacks.ascent:PgdEnsemble",
        BOTH,
        "PGD by several losses and past detectors, each on what the others left (Madry 2018; Bryniarski 2021)",
        {
            "loss": "all",
            "detector": "all",
            "steps": 40,
            "alpha": "eps/4",
            "restarts": 1,
            "targets": 3,
            "random_start": True,
            "confidence": 0.0,
        },
        eps_parameter=None,
        choices={
            "loss": ("all", "ce", "scaled-ce", "margin", "targeted-margin", "dlr"),
            "detector": ("all", "selective", "orthogonal", "logit", "penalty", "ignore"),
        },
        own=True,
        heeds_answers=True,
        expects=0.95,
    ),
    AttackEntry(
        "cw-search",
        "ismn_cli.attacks.carlini_wagner:CarliniWagner",
        L2,
        "minimum norm, with a search over c for each sample, past detectors too (Carlini 2017)",
        {"steps": 150, "search_steps": 6, "lr": 0.03, "confidence": 0.001, "minimise": True},
        eps_parameter=None,
        minimum_norm=True,
        own=True,
        heeds_answers=True,
        expects=0.85,
    ),
    AttackEntry(
        "uap",
        "ismn_cli.attacks.universal:Universal",
        BOTH,
        "universal: one perturbation for all images of a batch (Moosavi-Dezfooli 2017; Shafahi 2018)",
        {"steps": 50, "alpha": "eps/5", "softness": 0.1},
        eps_parameter=None,
        universal=True,
        limits={"softness": (1e-3, math.inf)},
        own=True,
        expects=0.4,
    ),
    AttackEntry(
        "uniform-noise",
        "ismn_cli.attacks.noise:UniformNoise",
        LINF,
        "uniform noise in the ball, or its corners: a control, not an attacker",
        {"draws": 1, "corners": False},
        gradient=False,
        eps_parameter=None,
        own=True,
    ),
    AttackEntry(
        "gaussian-noise",
        "ismn_cli.attacks.noise:GaussianNoise",
        BOTH,
        "Gaussian noise of the ball's size: a control, not an attacker",
        {"draws": 1},
        gradient=False,
        eps_parameter=None,
        own=True,
    ),
)
