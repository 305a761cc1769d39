"""The audit of a run in the small world: stored cells, probes kept and not repeated, what is not run."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ismn_cli.core.checks import CHECKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.findings import Audit, Verdict, read_audit
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.runs import Run
from ismn_cli.core.store import Store
from ismn_cli.stages import audit as stage
from ismn_cli.stages.matrix import run_matrix


def matrix(store: Store, **changes: object) -> Run:
    fields = {
        "name": "small",
        "dataset": {"name": "cifar10", "limit": 24},
        "defence": ["none", "ddsa"],
        "knowledge": ["gray", "white"],
        "attack": {"method": ["fgsm", "pgd"], "eps": [0.1, 0.2]},
    }
    recipe = MatrixRecipe.model_validate(fields | changes)
    return run_matrix(recipe, store, None, "cpu", "run", lambda _: None).run


def audited(run: Run, store: Store, images: int = 12, defences: list[str] | None = None) -> Audit:
    return stage.audit_run(run, store, None, "cpu", defences, images, lambda _: None)


@pytest.fixture
def run(store: Store, trained) -> Run:
    base = trained().run.record.id
    trained("ddsa", classifier=base)
    return matrix(store)


def test_every_check_answers_for_every_system(run: Run, store: Store) -> None:
    found = audited(run, store)
    asked = {code for code in CHECKS if not code.startswith("MD")} - {"AT07"}
    for label in ("none", "ddsa"):
        mine = {f.code for f in found.findings if f.subject.split(", ")[0] == label}
        assert asked <= mine, f"{label}: {asked - mine}"
    assert all(f.says for f in found.findings)
    assert {f.code for f in found.findings} <= set(CHECKS)


def test_the_audit_is_kept_and_read_back(run: Run, store: Store) -> None:
    found = audited(run, store)
    assert read_audit(run.folder) == found
    assert found.cells == run.record.cells


def test_probes_are_made_once(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = audited(run, store)
    made = sorted((store.root / "findings").glob("*.json"))
    assert made
    monkeypatch.setattr(stage._Probed, "model", lambda *_: pytest.fail("probed again"))
    monkeypatch.setattr(stage._Probed, "attack", lambda *_: pytest.fail("attacked again"))
    assert audited(run, store) == first
    assert sorted((store.root / "findings").glob("*.json")) == made


def test_findings_that_cannot_be_read_are_made_again(run: Run, store: Store) -> None:
    first = audited(run, store)
    for path in (store.root / "findings").glob("*.json"):
        path.write_text(path.read_text()[: len(path.read_text()) // 2])
    assert audited(run, store) == first


def test_records_alone_run_nothing_and_never_replace_more(run: Run, store: Store) -> None:
    only = audited(run, store, images=0)
    verdicts = Counter(f.verdict for f in only.findings if f.code == "GM03")
    assert set(verdicts) == {Verdict.NOT_RUN}
    full = audited(run, store)
    assert audited(run, store, images=0) != full
    assert read_audit(run.folder) == full


def test_one_defence_alone(run: Run, store: Store) -> None:
    found = audited(run, store, defences=["ddsa"])
    subjects = {f.subject.split(", ")[0] for f in found.findings if f.code != "AT07"}
    assert subjects == {"ddsa"}
    assert read_audit(run.folder) is None or read_audit(run.folder) != found, "a part is no audit of the run"
    with pytest.raises(UsageError, match="ddsa"):
        audited(run, store, defences=["ddsaa"])


def test_weights_that_have_changed_are_told(run: Run, store: Store, trained) -> None:
    trained(seed=7)
    with pytest.raises(UsageError, match="no longer"):
        audited(run, store)
    assert audited(run, store, images=0).findings


def test_a_training_has_nothing_to_audit(store: Store, trained) -> None:
    with pytest.raises(UsageError, match="no cells"):
        audited(trained().run, store)


def test_a_damaged_audit_is_no_audit(run: Run, store: Store) -> None:
    audited(run, store)
    (run.folder / "audit.json").write_text("{")
    assert read_audit(run.folder) is None


def test_a_matrix_is_audited_when_it_is_done(run: Run) -> None:
    found = read_audit(run.folder)
    assert found is not None and found.cells == run.record.cells
    assert json.loads((run.folder / "audit.json").read_text())["schema_version"] == 1


def test_the_strongest_attack_on_the_system_itself_is_probed(run: Run, store: Store) -> None:
    found = audited(run, store)
    probed: set[str] = {f.subject for f in found.findings if f.code == "AT03"}
    assert probed == {"none, white pgd 0.1", "ddsa, white pgd 0.1"}

