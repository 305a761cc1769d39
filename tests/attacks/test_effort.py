"""The list of passes against a count, and what the order of attacks on survivors may not change."""

from __future__ import annotations

import pytest

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.effort import PASSES, REPEATS, passes, price
from ismn_cli.core.specs import AttackSpec, ThreatModel
from ismn_cli.engine.pace import passes_of

DEAR = 3000
"""Passes above which an attack is counted with a tenth of them."""


def spec(method: str, **params: float) -> AttackSpec:
    return resolve_params(method, ThreatModel(norm=ATTACKS[method].norms[0], eps=8 / 255), params)


def test_every_attack_is_in_the_list() -> None:
    assert set(PASSES) == set(ATTACKS)


@pytest.mark.parametrize("method", [name for name in ATTACKS if PASSES[name] < DEAR])
def test_the_list_is_what_is_counted(method: str) -> None:
    found = spec(method)
    forwards, backwards = passes_of(make_attack(found, 10), found.threat, 3, 10)
    # What is firm at 16 pixels a side may let a search end a little sooner or later than elsewhere.
    assert forwards + backwards == pytest.approx(PASSES[method], rel=0.25, abs=1)


@pytest.mark.parametrize("method", [name for name in ATTACKS if set(REPEATS) & set(ATTACKS[name].defaults)])
def test_passes_grow_with_what_repeats_them(method: str) -> None:
    usual = spec(method)
    for name in set(REPEATS) & set(ATTACKS[method].defaults):
        value = ATTACKS[method].defaults[name]
        assert isinstance(value, int)
        assert passes(spec(method, **{name: 3 * value})) == pytest.approx(3 * passes(usual)), name


def test_cheap_attacks_come_before_dear_ones_that_break_no_more() -> None:
    order = sorted((spec(m) for m in ("autoattack", "square", "pgd-ensemble", "pgd", "fgsm")), key=price)
    assert [each.method for each in order] == ["fgsm", "pgd", "pgd-ensemble", "square", "autoattack"]


@pytest.mark.parametrize("method", ["pgd-ensemble", "deepfool", "autoattack"])
def test_what_falls_is_cheaper_where_an_attack_stops(method: str) -> None:
    found = spec(method)
    attack = make_attack(found, 10)
    falls = passes_of(attack, found.threat, 3, 10, falls=True)
    assert 1 <= sum(falls) < PASSES[method] / 3
