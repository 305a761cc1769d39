"""`ismn audit` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ismn_cli.core.store import Store

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def attacked(ismn) -> str:
    """A run with a trained classifier under FGSM and PGD."""
    assert ismn("train", "--dataset", "cifar10", "--system", "classifier").code == 0
    ended = ismn("attack", "--method", "fgsm,pgd", "--eps", "8/255", "--dataset", "cifar10")
    assert ended.code == 0, ended.err
    return next(line.split()[-1] for line in ended.err.splitlines() if line.startswith("run:")).split("/")[-1]


def test_a_matrix_ends_with_the_verdict_of_its_audit(ismn, attacked: str) -> None:
    again = ismn("attack", "--method", "fgsm,pgd", "--eps", "8/255", "--dataset", "cifar10")
    assert "audit:" in again.err and "ismn audit" in again.err


def test_json_tells_every_finding_and_the_code_follows_the_verdict(ismn, attacked: str) -> None:
    ended = ismn("audit", "--run", attacked, "--format", "json", "--limit", "12")
    content = json.loads(ended.out)
    assert ended.code == (1 if content["verdict"] == "fail" else 0)
    assert {"GM01", "GM03", "AT01", "AT03", "EV04", "CL01"} <= {f["code"] for f in content["findings"]}
    assert all(f["says"] and f["asks"] for f in content["findings"])


def test_chosen_checks_only(ismn, attacked: str) -> None:
    ended = ismn("audit", "--records", "--check", "gm01,zero-gradient", "--format", "json")
    assert {f["code"] for f in json.loads(ended.out)["findings"]} == {"GM01", "GM03"}


def test_a_page_for_people(ismn, attacked: str, tmp_path: Path) -> None:
    page = tmp_path / "audit.md"
    ended = ismn("audit", "--records", "--format", "markdown", "-o", str(page))
    assert ended.out == ""
    assert page.read_text().startswith(f"### Audit of {attacked}".replace("_", "\\_")[:12])
    shown = ismn("audit", "--records")
    assert "GM01" in shown.out and "not run" in shown.out.lower()


def test_the_newest_run_with_attacks_is_meant(ismn, attacked: str) -> None:
    assert ismn("train", "--dataset", "cifar10", "--system", "classifier", "--seed", "4").code == 0
    assert f"run {attacked}" in ismn("audit", "--records").err


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--run", "nothing"], "run"),
        (["--check", "GM99"], "GM9"),
        (["--defence", "ism", "--records"], "ism"),
        (["--format", "html"], "html"),
        (["--records", "--limit", "5"], "--limit"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_bad_input_is_told_before_any_work(ismn, attacked: str, arguments: list[str], told: str) -> None:
    ended = ismn("audit", *arguments)
    assert ended.code == 2, ended.err
    assert told in ended.err
    assert ended.out == ""


def test_without_runs_it_says_what_to_type(ismn) -> None:
    ended = ismn("audit")
    assert ended.code == 2
    assert "ismn run quickstart" in ended.err


def test_a_failure_is_exit_code_1(ismn, attacked: str, store: Store) -> None:
    from ismn_cli.core.findings import Finding, Verdict

    ismn("audit", "--limit", "12")
    places = sorted((store.root / "findings").glob("*.json"))
    bad = Finding(code="GM03", verdict=Verdict.FAIL, subject="none", says="There is no gradient.")
    for place in places:
        store.put_findings(place.stem, [bad])
    ended = ismn("audit", "--limit", "12")
    assert ended.code == 1
    assert "There is no gradient." in ended.out and "BPDA" in ended.out
