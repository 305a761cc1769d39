"""`ismn gate` from the command line: its exit codes on stored runs, and the files that it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from gate_cells import B, S, U, attacked_result, clean_result

from ismn_cli.core.findings import AUDIT, Audit, Finding, Verdict, write_audit
from ismn_cli.core.records import CellResult, Environment
from ismn_cli.core.runs import Run
from ismn_cli.core.specs import Subject
from ismn_cli.core.store import Store

pytestmark = pytest.mark.usefixtures("small")
ENVIRONMENT = Environment(ismn="0", commit=None, python="3", platform="test", packages={}, device="cpu", threads=1)
SIZES = (0.03, 0.1)


def system(name: str, held: int, lost: int = 0, n: int = 20) -> list[CellResult]:
    """Return the cells of a system that keeps the first ``held`` of ``n`` images; the next ``lost`` are unknown."""
    column = [S] * held + [U] * lost + [B] * (n - held - lost)
    where = {"defence": Subject(name=name, weights=f"{held:064d}")}
    attacked = [attacked_result([True] * n, column, "pgd", eps, **where) for eps in SIZES]
    return [clean_result([True] * n, **where), *attacked]


def put(store: Store, *results: CellResult, name: str = "made", mark: str = "a", status: str = "done") -> Run:
    """Store cells and a run that holds them; an unfinished one has recorded none, like one that was killed."""
    run = store.start_run("attack", name, {}, ENVIRONMENT, mark * 64)
    for result in results:
        store.put_cell(result)
    if status == "done":
        run.update(status="done", cells=tuple(result.cell.key() for result in results))
    elif status != "running":
        run.update(status=status)
    return run


@pytest.fixture
def half(store: Store) -> Run:
    return put(store, *system("ismn", 10))


@pytest.mark.parametrize(
    ("bar", "more", "code"),
    [
        ("robust_accuracy=0.5", (), 0),
        ("robust_accuracy=50%", (), 0),
        ("robust_accuracy=0.51", (), 1),
        ("robust_accuracy@white=0.5", (), 0),
        ("robust_accuracy=0.5", ("--confident",), 1),
        ("robust_accuracy=0.5", ("--audit",), 3),
        ("robust_accuracy=0.51", ("--audit",), 3),
        ("robust_accuracy=0.5", ("--min", "clean_accuracy=100%"), 0),
        ("robust_accuracy=0.5", ("--max", "success=0.5", "--eps", "0.1"), 0),
        ("robust_accuracy=0.5", ("--max", "success=0.49"), 1),
        ("robust_accuracy=0.5", ("--defence", "ismn"), 0),
        ("robust_accuracy=0.5", ("--defence", "ismm"), 2),
        ("robust_accuracy=0.5", ("--eps", "8/255"), 2),
        ("robust_accuracy=0.5", ("--eps", "8/0"), 2),
        ("robust_accuracy=0.5", ("--run", "made-aaaaaaab"), 2),
        ("robust_accuracy=0.5", ("--baseline", "latest"), 2),
        ("robust_accuracy=0.5", ("--max-drop", "0"), 2),
        ("robust_accuracy=0.5", ("--max-drop", "0", "--baseline", "latest"), 0),
        ("robust_accuracy@gray=0.5", (), 2),
        ("robust=0.5", (), 2),
    ],
)
@pytest.mark.usefixtures("half")
def test_exit_codes(ismn, bar: str, more: tuple[str, ...], code: int) -> None:
    ended = ismn("gate", "--min", bar, *more)
    assert ended.code == code, ended
    assert "Traceback" not in ended.err and ("hint:" in ended.err) == (code == 2)
    assert bool(ended.out) == (code != 2)
    if code in (0, 1, 3):
        assert {0: "gate passed", 1: "gate failed", 3: "no verdict"}[code] in ended.out


def test_without_anything_to_judge(ismn, store: Store) -> None:
    assert ismn("gate").code == 2
    ended = ismn("gate", "--min", "robust_accuracy=0.5")
    assert ended.code == 2 and "ismn run quickstart" in ended.err
    run = store.start_run("train", "trained", {}, ENVIRONMENT, "b" * 64)
    run.update(status="done")
    assert ismn("gate", "--min", "robust_accuracy=0.5").code == 2
    ended = ismn("gate", "--min", "robust_accuracy=0.5", "--run", run.record.id)
    assert ended.code == 2 and "measured no system" in ended.err


def test_a_training_after_the_attack_is_not_what_is_judged(ismn, store: Store, half: Run) -> None:
    store.start_run("train", "trained", {}, ENVIRONMENT, "b" * 64).update(status="done")
    ended = ismn("gate", "--min", "robust_accuracy=0.5")
    assert ended.code == 0 and half.record.id in ended.out


@pytest.mark.parametrize("status", ["running", "interrupted"])
@pytest.mark.parametrize("bar", ["0", "1"])
@pytest.mark.usefixtures("half")
def test_a_run_that_was_cut_is_not_passed_over_for_an_older_one(ismn, store: Store, status: str, bar: str) -> None:
    cut = put(store, *system("ismn", 20)[:2], name="cut", status=status)
    ended = ismn("gate", "--min", f"robust_accuracy={bar}", "--junit", str(store.root / "gate.xml"))
    assert ended.code == 3 and f"Run '{cut.record.id}' is not finished (its status is '{status}')" in ended.out
    assert ElementTree.parse(store.root / "gate.xml").getroot()[0].get("errors") == "1"
    assert ismn("gate", "--min", "robust_accuracy=0.5", "--run", "made-aaaaaaaa").code == 0


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
@pytest.mark.parametrize("bar", ["0", "1"])
def test_a_cell_that_is_lost_leaves_no_verdict(ismn, store: Store, half: Run, damage, bar: str) -> None:
    key = half.record.cells[-1]
    damage(store.root / "cells" / key[:2] / f"{key}.json")
    ended = ismn("gate", "--min", f"robust_accuracy={bar}", "--eps", "0.03")
    assert ended.code == 3 and "has lost 1 of its 3 cells" in ended.out


@pytest.mark.parametrize("bar", ["0.4", "0.9"])
def test_unknown_samples_leave_no_verdict(ismn, store: Store, bar: str) -> None:
    put(store, *system("ismn", 9, lost=2))
    ended = ismn("gate", "--min", f"robust_accuracy={bar}")
    assert ended.code == 3 and "an attack failed on 2 images" in ended.out
    assert ismn("gate", "--min", "clean_accuracy=0.4").code == 0


def the_audit(run: Run, failed: int, cells: int | None = None) -> Audit:
    keys = run.record.cells
    finding = Finding(code="AT07", verdict=Verdict.FAIL, subject="pgd", says="It is broken.", cells=keys[failed:])
    return Audit(run=run.record.id, cells=keys[:cells], findings=(finding,))


@pytest.mark.parametrize(
    ("failed", "cells", "plain", "required"), [(3, None, 0, 0), (2, None, 3, 3), (1, None, 3, 3), (3, 2, 0, 3)]
)
def test_what_the_audit_says_of_the_cells(
    ismn, half: Run, failed: int, cells: int | None, plain: int, required: int
) -> None:
    write_audit(half.folder, the_audit(half, failed, cells))
    told = ismn("gate", "--min", "robust_accuracy=0.5")
    assert told.code == plain and ("AT07 self-test, pgd: It is broken" in told.out) == (plain == 3)
    assert ismn("gate", "--min", "robust_accuracy=0.5", "--audit").code == required


@pytest.mark.parametrize("text", ["", "{", '{"run": "x"}', "\0", "[]"])
def test_an_audit_that_cannot_be_read_is_no_pass(ismn, half: Run, text: str) -> None:
    (half.folder / AUDIT).write_text(text)
    ended = ismn("gate", "--min", "robust_accuracy=0.5")
    assert ended.code == 3 and "cannot be read" in ended.out


def test_the_audit_of_another_run_is_no_pass(ismn, half: Run) -> None:
    write_audit(half.folder, the_audit(half, 3).model_copy(update={"run": "other"}))
    ended = ismn("gate", "--min", "robust_accuracy=0.5")
    assert ended.code == 3 and "is that of run 'other'" in ended.out


@pytest.mark.parametrize(("most", "code"), [("0.05", 1), ("0.1", 0), ("robust_accuracy=10%", 0), ("0.2", 0)])
def test_a_drop_against_a_baseline(ismn, store: Store, most: str, code: int) -> None:
    put(store, *system("ismn", 12), name="before")
    put(store, *system("ismn", 10), name="after")
    ended = ismn("gate", "--baseline", "before-aaaaaaaa", "--max-drop", most)
    assert ended.code == code and "2 images were lost and 0 gained" in ended.out and "p = 0.5" in ended.out
    assert ismn("gate", "--run", "before-aaaaaaaa", "--baseline", "after-aaaaaaaa", "--max-drop", "0").code == 0


def test_a_baseline_on_other_images_is_refused(ismn, store: Store) -> None:
    put(store, *system("ismn", 10, n=30), name="before")
    put(store, *system("ismn", 10), name="after")
    ended = ismn("gate", "--baseline", "before-aaaaaaaa", "--max-drop", "1")
    assert ended.code == 2 and "numbers of images differ (30 and 20). The first is the baseline's." in ended.err


def test_a_baseline_that_was_cut_leaves_no_verdict(ismn, store: Store) -> None:
    put(store, *system("ismn", 10), name="before", status="interrupted")
    put(store, *system("ismn", 10), name="after")
    assert ismn("gate", "--run", "after-aaaaaaaa", "--baseline", "before-aaaaaaaa", "--max-drop", "1").code == 3


def test_every_system_is_judged_unless_some_are_chosen(ismn, store: Store, tmp_path: Path) -> None:
    put(store, *system("none", 0), *system("a<b & \"c\" 'd' 🦊\nend", 15), *system("[bold]x[/bold]", 10))
    junit, summary = tmp_path / "new" / "gate.xml", tmp_path / "gate.md"
    asked = ("gate", "--min", "robust_accuracy=0.5", "--junit", str(junit), "--summary", str(summary))
    ended = ismn(*asked)
    assert ended.code == 1 and "[bold]x[/bold]" in ended.out
    suites = ElementTree.parse(junit).getroot()
    assert [(s.get("name"), s.get("tests"), s.get("failures")) for s in suites] == [
        ("none", "2", "2"),
        ("a<b & \"c\" 'd' 🦊\nend", "2", "0"),
        ("[bold]x[/bold]", "2", "0"),
    ]
    first = summary.read_text()
    assert ismn(*asked, "--defence", "[bold]x[/bold]").code == 0
    assert summary.read_text().startswith(first + "\n\n###") and first.count("❌") == 2
    assert len(ElementTree.parse(junit).getroot()) == 1


def test_a_summary_is_appended_to_what_is_there(ismn, half: Run, tmp_path: Path) -> None:
    summary = tmp_path / "gate.md"
    summary.write_text("# Build\nno line break")
    assert ismn("gate", "--min", "robust_accuracy=0.5", "--summary", str(summary)).code == 0
    assert summary.read_text().startswith("# Build\nno line break\n\n### ismn gate passed")
    assert half.record.id in summary.read_text()


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("option", ["--junit", "--summary"])
def test_a_file_that_cannot_be_written(ismn, tmp_path: Path, option: str) -> None:
    ended = ismn("gate", "--min", "robust_accuracy=0.5", option, str(tmp_path))
    assert ended.code == 2 and str(tmp_path) in ended.err


def test_from_an_attack_that_is_cut_to_the_verdict(ismn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ismn("train", "--system", "classifier", "--epochs", "1").code == 0
    attack = ("attack", "--dataset", "cifar10", "--method", "pgd", "--eps", "0.1", "--limit", "10")
    put_cell = Store.put_cell

    def cut(store: Store, result: CellResult) -> None:
        put_cell(store, result)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put_cell", cut)
        assert ismn(*attack).code == 130
    assert ismn("gate", "--min", "clean_accuracy=0").code == 3
    assert ismn(*attack).code == 0
    ended = ismn("gate", "--min", "clean_accuracy=0")
    assert ended.code == 0, ended.out


def test_the_gate_starts_without_torch(half: Run, store: Store) -> None:
    asked = ["gate", "--min", "robust_accuracy=0.5", "--store", str(store.root), "--junit", str(store.root / "g.xml")]
    script = (
        f"import sys; from ismn_cli.cli.app import exit_code; code = exit_code({asked});"
        "sys.exit(code or ('torch' in sys.modules) or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300).returncode == 0


def test_help_tells_the_exit_codes(ismn) -> None:
    told = " ".join(ismn("gate", "--help").out.split())
    assert all(words in told for words in ("0 every bar is cleared", "1 a bar is missed", "3 no verdict"))
