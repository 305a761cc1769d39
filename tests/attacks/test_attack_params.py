from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Norm, ThreatModel

THREAT = ThreatModel(eps=8 / 255)
METHODS = st.sampled_from(sorted(ATTACKS))


@given(method=METHODS, eps=st.just(0.0) | st.floats(1e-6, 1))
def test_resolving_pins_everything_and_is_idempotent(method: str, eps: float) -> None:
    threat = ThreatModel(norm=ATTACKS[method].norms[0], eps=eps)
    spec = resolve_params(method, threat, {})
    assert list(spec.params) == list(ATTACKS[method].defaults)
    assert resolve_params(method, threat, spec.params) == spec
    assert resolve_params(method, threat, spec.params).key() == spec.key()


@given(method=METHODS)
def test_defaults_come_in_the_type_of_the_catalogue(method: str) -> None:
    entry = ATTACKS[method]
    spec = resolve_params(method, ThreatModel(norm=entry.norms[0], eps=0.3), {})
    for name, default in entry.defaults.items():
        formula = isinstance(default, str) and name not in entry.choices
        assert type(spec.params[name]) is (float if formula else type(default)), name


@given(st.integers(1, 200), st.floats(0.001, 1))
def test_pgd_step_follows_eps_and_steps(steps: int, eps: float) -> None:
    params = resolve_params("pgd", ThreatModel(eps=eps), {"steps": steps}).params
    assert params == {"alpha": pytest.approx(2.5 * eps / steps), "steps": steps, "random_start": True}


@given(st.integers(1, 254), st.integers(1, 255))
def test_fractions_are_read(numerator: int, denominator: int) -> None:
    params = resolve_params("pgd", THREAT, {"alpha": f"{numerator}/{denominator}"}).params
    assert params["alpha"] == numerator / denominator


@pytest.mark.parametrize(
    ("written", "read"),
    [("eps", 0.2), ("eps/4", 0.05), ("0.5*eps", 0.1), ("2.5 * eps / steps", 0.1), ("1e-2", 0.01), (1, 1.0)],
)
def test_sizes_may_be_relative_to_eps(written: object, read: float) -> None:
    spec = resolve_params("pgd", ThreatModel(eps=0.2), {"alpha": written, "steps": 5})  # type: ignore[dict-item]
    assert spec.params["alpha"] == pytest.approx(read)


def test_the_command_lines_strings_become_their_types() -> None:
    params = resolve_params("pgd", THREAT, {"steps": "20", "random_start": "False", "alpha": "2/255"}).params
    assert params == {"alpha": 2 / 255, "steps": 20, "random_start": False}
    assert type(params["steps"]) is int


@pytest.mark.parametrize(
    ("method", "given_", "message"),
    [
        ("pgd", {"steps": 0}, "at least 1"),
        ("pgd", {"steps": -3}, "at least 1"),
        ("pgd", {"steps": 2.5}, "whole number"),
        ("pgd", {"steps": True}, "not a number"),
        ("pgd", {"steps": None}, "not a number"),
        ("pgd", {"steps": "ten"}, "not a number"),
        ("pgd", {"alpha": "nan"}, "not a number"),
        ("pgd", {"alpha": float("inf")}, "not a number"),
        ("pgd", {"alpha": "1/0"}, "not a number"),
        ("pgd", {"alpha": "eps/0"}, "not a number"),
        ("pgd", {"alpha": "eps/width"}, "not a number"),
        ("pgd", {"alpha": "__import__('os')"}, "not a number"),
        ("pgd", {"alpha": [1]}, "not a number"),
        ("pgd", {"alpha": -0.1}, "at least 0"),
        ("pgd", {"alpha": 0}, "step size of 0"),
        ("pgd", {"random_start": "maybe"}, "true or false"),
        ("pgd", {"random_start": 1}, "true or false"),
        ("pgd", {"step": 3}, "did you mean 'steps'"),
        ("fgsm", {"steps": 3}, "none besides eps"),
        ("apgd", {"loss": "l2"}, "ce, dlr"),
        ("apgd", {"seed": 3}, "no parameter seed"),
        ("difgsm", {"resize_rate": 1.0}, "at most 0.95"),
        ("eaden", {"max_iterations": 5}, "at least 10"),
    ],
)
def test_bad_parameters_are_refused(method: str, given_: dict[str, object], message: str) -> None:
    norm = ATTACKS[method].norms[0]
    with pytest.raises(UsageError, match=message) as caught:
        resolve_params(method, ThreatModel(norm=norm, eps=0.1), given_)  # type: ignore[arg-type]
    assert method in caught.value.message
    assert caught.value.hint


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_params("pgd", THREAT, {"step": 1, "alpha": "x", "random_start": 3})
    for name in ("step", "alpha", "random_start"):
        assert f"{name}" in caught.value.message


def test_unknown_attacks_norms_and_targets() -> None:
    with pytest.raises(UsageError, match="no attack called 'pdg'") as caught:
        resolve_params("pdg", THREAT, {})
    assert "'pgd'" in caught.value.hint
    with pytest.raises(UsageError, match="not in l2") as caught:
        resolve_params("pgd", ThreatModel(norm=Norm.L2, eps=0.5), {})
    assert "pgdl2" in caught.value.hint
    with pytest.raises(UsageError, match="Targeted"):
        resolve_params("pgd", ThreatModel(eps=0.5, targeted=True), {})
