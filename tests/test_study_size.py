"""The page on large studies shows what benchmarks/study_size.py prints, and that multiplies what is so."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import study_costs
from study_size import ASSUMED, ATTACKS, BATCH, DEFENCES, GPUS, IMAGES, RECORDED, Attack, Measured, Size, lines

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core import slurm
from ismn_cli.core.specs import ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.engine.pace import passes_of

ROOT = Path(__file__).parents[1]


def test_the_page_shows_what_is_printed() -> None:
    page = (ROOT / "docs/large-studies.md").read_text(encoding="utf-8")
    for table in "\n".join(lines(Size(RECORDED))).split("\n\n"):
        assert f"\n{table}\n\n" in page


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_passes_are_those_of_the_attacks(attack: Attack) -> None:
    name, _, steps = attack.name.partition(", ")
    params = {"steps": int(steps.split()[0])} if steps else {}
    threat = ThreatModel(norm="linf", eps=8 / 255)
    made = make_attack(resolve_params(name, threat, params), 1000)
    assert (attack.forwards, attack.backwards) == passes_of(made, threat, 3, 1000)


def test_what_can_be_counted_is_as_recorded() -> None:
    forward, both = study_costs._gflop()
    assert (forward, both) == pytest.approx((RECORDED.forward_gflop, RECORDED.both_gflop))


def test_bytes_are_still_about_what_was_measured(tmp_path: Path) -> None:
    results = study_costs.some_results(Store.open(tmp_path), limit=48)
    assert study_costs.record_bytes(results) == pytest.approx(RECORDED.record_bytes, rel=0.15)
    assert study_costs.result_bytes(results) == pytest.approx(RECORDED.result_bytes, rel=0.15)


def test_slurm_asks_by_these_figures() -> None:
    assert abs(slurm.RESULT - RECORDED.result_bytes) < 0.1 * slurm.RESULT
    seconds = (RECORDED.merge_us + RECORDED.report_us) / 1e6
    assert seconds < slurm.MERGE < 2 * seconds


def test_two_ways_to_the_same_time() -> None:
    """On cores of which each is as fast as a GPU, the cores' time is the GPUs'."""
    rate = 1000 * ASSUMED.tflops
    fast = replace(RECORDED, forward_cpu=RECORDED.forward_gflop / rate, both_cpu=RECORDED.both_gflop / rate)
    size = Size(fast)
    assert size.core_years() * 365 * 24 * 3600 == pytest.approx(size.computing() * GPUS)


def test_examples_counted_one_by_one() -> None:
    made = [attack for attack in ATTACKS for _ in range(1 if attack.shared else DEFENCES)]
    size = Size(RECORDED)
    assert size.jobs == len(made) and size.batches == len(range(0, IMAGES, BATCH))
    assert size.example_tb() * 1e12 == pytest.approx(sum(IMAGES * (3 * 224 * 224 * 4 + 61.4) for _ in made))


@pytest.mark.parametrize("name", [field.name for field in fields(Measured)])
def test_every_figure_counts(name: str) -> None:
    """One that were left out of the tables would not have to be measured."""
    other = replace(RECORDED, **{name: 7 * getattr(RECORDED, name)})
    assert list(lines(Size(other))) != list(lines(Size(RECORDED)))
