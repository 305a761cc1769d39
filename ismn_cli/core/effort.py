"""How dear an attack is before it is run: what it costs on an image that holds, by its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.specs import AttackSpec

PASSES: Mapping[str, int] = {
    "fgsm": 2,
    "rfgsm": 2,
    "ffgsm": 2,
    "bim": 20,
    "pgd": 20,
    "mifgsm": 20,
    "nifgsm": 20,
    "difgsm": 20,
    "tifgsm": 20,
    "pifgsm": 20,
    "pifgsmpp": 20,
    "upgd": 20,
    "jitter": 20,
    "pgdrs": 20,
    "pgdl2": 20,
    "pgdrsl2": 20,
    "tpgd": 21,
    "eotpgd": 40,
    "sinifgsm": 100,
    "vmifgsm": 120,
    "vnifgsm": 120,
    "uap": 101,
    "cw": 12,
    "apgd": 203,
    "pgd-ensemble": 567,
    "deepfool": 550,
    "fab": 1203,
    "spsa": 1280,
    "apgdt": 1828,
    "cw-search": 1802,
    "eaden": 2701,
    "square": 5003,
    "autoattack": 9774,
    "gn": 0,
    "uniform-noise": 0,
    "gaussian-noise": 0,
}
"""Passes forward and backward on one image of ten classes that holds throughout, with an attack's defaults; counted."""
PAST_DETECTOR = 6
"""How many times as many "pgd-ensemble" makes where it tries all its ways past a detector."""
UNKNOWN = 500
"""Of an attack that is not in the list: after the cheap ones, before the ensembles."""
REPEATS = ("steps", "restarts", "n_restarts", "n_queries", "nb_iter", "search_steps", "eot_iter", "max_iterations")
"""Parameters that multiply an attack's passes."""


def passes(spec: AttackSpec, guarded: bool = False) -> float:
    """Return about how many passes the attack makes on an image that holds, perhaps ``guarded`` by a detector."""
    entry = ATTACKS.get(spec.method)
    given = {name: spec.params.get(name) for name in REPEATS}
    usual = {name: entry.defaults.get(name) if entry else None for name in REPEATS}
    factor = math.prod(_ratio(given[name], usual[name]) for name in REPEATS)
    if guarded and spec.params.get("detector") == "all":
        factor *= PAST_DETECTOR
    return PASSES.get(spec.method, UNKNOWN) * factor


def price(spec: AttackSpec) -> float:
    """Return passes per sample that it can be expected to break: what is cheap by this is tried first."""
    entry = ATTACKS.get(spec.method)
    return passes(spec) / (entry.expects if entry and entry.expects else 0.5)


def _ratio(given: object, usual: object) -> float:
    if isinstance(given, int | float) and isinstance(usual, int | float) and usual:
        return given / usual
    return 1.0
