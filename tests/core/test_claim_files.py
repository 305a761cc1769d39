"""Files of claims: those of ismn hold what the paper prints, and everything that is wrong with one is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.claim_files import choose_readings, claims_names, load_claims
from ismn_cli.core.claims import Claims, at_level
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipe_files import recipe_names
from ismn_cli.core.specs import ThreatModel

# As printed: attacking level, no defence, proposed model, MagNet, DDSA.
TABLE_3 = """
0.2	0.482	0.936	0.792	0.895
0.3	0.374	0.894	0.688	0.853
0.4	0.268	0.871	0.564	0.816
"""
# As printed: attack, level, no defence, CelebANet, proposed model.
TABLE_4 = """
fgsm	0.3	0.624	0.912	0.927
pgd	0.3	0.597	0.923	0.936
"""
GOOD: dict[str, Any] = {
    "name": "mine", "summary": "mine", "cite": "me", "states": "so", "dataset": "cifar10",
    "claims": [{"system": "none", "figures": {0.2: 0.5}}, {"system": "ismn", "figures": {0.2: 0.9}}],
    "readings": [{"name": "linf", "means": "eps", "attacks": ["fgsm", {"name": "many", "method": "pgd"}]}],
}  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str | None = None, **changes: Any) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(GOOD | changes) if text is None else text, encoding="utf-8")
        return str(path)

    return write


def refused(place: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_claims(place)
    return f"{caught.value.message} {caught.value.hint}"


def figures(name: str) -> set[tuple[str, str | None, float, float]]:
    return {(c.system, c.attack, c.level, c.figure) for c in load_claims(name).each()}


def test_table_3_is_as_printed() -> None:
    expected = set()
    for line in TABLE_3.strip().splitlines():
        level, *row = map(float, line.split())
        expected |= {(name, None, level, f) for name, f in zip(("none", "ismn", "magnet", "ddsa"), row, strict=True)}
    assert figures("table3") == expected and len(expected) == 12
    printed = {row.system: row.printed for row in load_claims("table3").claims}
    assert printed == {
        "none": "No defence (Proposed model)", "ismn": "Proposed model", "magnet": "MagNet [12]", "ddsa": "DDSA [15]",
    }  # fmt: skip


def test_table_4_is_as_printed() -> None:
    expected = set()
    for line in TABLE_4.strip().splitlines():
        attack, level, *row = line.split()
        names = zip(("none", "lad", "ismn"), row, strict=True)
        expected |= {(name, attack, float(level), float(f)) for name, f in names}
    assert figures("table4") == expected and len(expected) == 6


def test_the_readings_of_table_3_and_what_they_make_of_a_level() -> None:
    readings = {reading.name: reading for reading in load_claims("table3").readings}
    assert set(readings) == {"linf", "linf-tanh", "gaussian", "l2"}
    assert [readings["linf"].eps_at(level) for level in (0.2, 0.3, 0.4)] == [0.2, 0.3, 0.4]
    assert [readings["linf-tanh"].eps_at(level) for level in (0.2, 0.3, 0.4)] == [0.1, 0.15, 0.2]
    assert [attack.label for attack in readings["linf"].attacks] == ["fgsm", "rfgsm", "pgd"]
    noise = readings["gaussian"]
    assert not noise.worst_case and noise.eps_at(0.3) == 1.0 and noise.attacks[0].params_at(0.3) == {"std": 0.3}
    assert readings["l2"].norm == "l2" and readings["l2"].eps_at(0.3) == 0.3
    assert all(reading.evidence_for and reading.evidence_against for reading in readings.values())


@pytest.mark.parametrize("name", ["table3", "table4"])
def test_every_attack_of_every_reading_can_be_made(name: str) -> None:
    claims = load_claims(name)
    for reading in claims.readings:
        for claim in claims.each():
            for attack in reading.attacks:
                threat = ThreatModel(norm=reading.norm, eps=reading.eps_at(claim.level))
                spec = resolve_params(attack.method, threat, attack.params_at(claim.level))
                assert spec.threat.eps <= 1


def test_claims_are_no_recipes_and_recipes_no_claims() -> None:
    named = dict(claims_names())
    assert {"table3", "table4"} <= set(named) and all(named.values())
    assert not set(named) & {name for name, _ in recipe_names()}
    assert "ismn run" in refused("recipes/table3-cifar10.yaml" if Path("recipes").is_dir() else _recipe())


def _recipe() -> str:
    return str(Path(__file__).parents[2] / "recipes" / "table3-cifar10.yaml")


def test_names_that_do_not_exist(written: Any) -> None:
    assert "Did you mean 'table3'?" in refused("tabel3")
    assert "table3" in refused("nothing.yaml")
    with pytest.raises(UsageError, match="no reading of mine called 'linff'") as caught:
        choose_readings(load_claims(written()), ["linff"])
    assert "Did you mean 'linf'?" in caught.value.hint
    with pytest.raises(UsageError):
        choose_readings(load_claims(written()), [])
    assert [r.name for r in choose_readings(load_claims("table3"), ["l2", "linf", "l2"])] == ["l2", "linf"]


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\x00", "name: x\nname: y", "&a [*a]"])
def test_files_that_are_no_claims(written: Any, text: str) -> None:
    assert "mine.yaml" in refused(written(text))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": "cifar01"}, "did you mean 'cifar10'?"),
        ({"claims": []}, "claims: "),
        ({"readings": []}, "readings: "),
        ({"claims": [{"system": "ismm", "figures": {0.2: 0.5}}]}, "did you mean 'ismn'?"),
        ({"claims": [{"system": "none", "figures": {0.2: 48.2}}]}, "write 0.482"),
        ({"claims": [{"system": "none", "figures": {0.2: True}}]}, "is not a number"),
        ({"claims": [{"system": "none", "figures": {0.2: "high"}}]}, "is not a number"),
        ({"claims": [{"system": "none", "figures": {0.2: float("nan")}}]}, "is not a number"),
        ({"claims": [{"system": "none", "figures": {-0.2: 0.5}}]}, "greater than 0"),
        ({"claims": [{"system": "none", "figures": {}}]}, "figures"),
        ({"claims": [{"system": "none", "figures": {2.0: 0.5}}]}, "at level 2: eps 2.0 is outside [0, 1]"),
        ({"claims": [GOOD["claims"][0], GOOD["claims"][0]]}, "none at 0.2 is given twice"),
        ({"claims": [{"system": "none", "attack": "pgd", "figures": {0.2: 0.5}}]}, "known are fgsm, many"),
        ({"readings": [GOOD["readings"][0]] * 2}, "linf is given twice"),
        ({"readings": [{"name": "a b", "means": "", "attacks": ["pgd"]}]}, "'a b' should be"),
        ({"readings": [{"name": "a", "means": "", "attacks": ["pdg"]}]}, "did you mean 'pgd'?"),
        ({"readings": [{"name": "a", "means": "", "norm": "l2", "attacks": ["fgsm"]}]}, "in linf, not in l2"),
        ({"readings": [{"name": "a", "means": "", "attacks": ["pgd", {"method": "pgd"}]}]}, "pgd is given twice"),
        ({"readings": [{"name": "a", "means": "", "eps": "level/0", "attacks": ["pgd"]}]}, "is not a number"),
        ({"readings": [{"name": "a", "means": "", "epss": 1, "attacks": ["pgd"]}]}, "did you mean 'eps'?"),
        ({"knowledge": "clean"}, "write gray, black, white or adaptive"),
        ({"knowledge": "grey"}, "knowledge"),
        ({"metrics": ["acuracy"]}, "metrics"),
        ({"images": 0}, "images"),
        ({"quoted": {"reading": "l2", "attack": "pgd", "words": ""}}, "no reading 'l2'"),
        ({"quoted": {"reading": "linf", "attack": "pgd", "words": ""}}, "has no attack 'pgd'"),
        ({"name": "../mine"}, "'../mine' should be"),
    ],
)
def test_what_is_wrong_is_named(written: Any, changes: dict[str, Any], says: str) -> None:
    assert says in refused(written(**changes))


def test_all_problems_come_at_once(written: Any) -> None:
    claims = [{"system": "ismm", "figures": {3: 0.5}}, {"system": "none", "attack": "x", "figures": {0.1: 0.5}}]
    message = refused(written(dataset="cifar01", claims=claims))
    assert "has 4 problems" in message
    assert all(part in message for part in ("cifar01", "'ismm'", "level 3", "called 'x'"))


def test_names_are_not_looked_up_where_nothing_is_tested(written: Any) -> None:
    claims = load_claims(written(dataset="imagenet", not_tested="there is no ImageNet here"))
    assert claims.dataset == "imagenet"


@given(st.floats(1e-6, 1e3), st.floats(0.01, 100))
def test_sizes_in_terms_of_the_level(level: float, number: float) -> None:
    assert at_level("level", level) == level
    assert at_level(f"level/{number:.4f}", level) == pytest.approx(level / float(f"{number:.4f}"))
    assert at_level(f"{number:.4f} * level", level) == pytest.approx(level * float(f"{number:.4f}"))
    for other in ("eps", "levels", "level/0", "2level", number, None, True):
        assert at_level(other, level) == other


def test_one_attack_needs_no_list(written: Any) -> None:
    (reading,) = load_claims(written(readings=[{"name": "a", "means": "", "attacks": "pgd"}])).readings
    assert [attack.label for attack in reading.attacks] == ["pgd"]


def test_a_file_comes_back_as_it_was_written(written: Any) -> None:
    claims = load_claims(written())
    assert Claims.model_validate(claims.model_dump()) == claims
