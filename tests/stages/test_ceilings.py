"""Ceilings in the store: computed once, told apart by images, norm and size, and made again where damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_world

from ismn_cli.audit import ceiling as computing
from ismn_cli.core.ceilings import Ceiling, ceiling_key
from ismn_cli.core.specs import AttackSpec, Cell, Knowledge, Norm, Subject, ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.stages.ceilings import ensure_ceilings

IMAGES = small_world.load("test")
SIZES = [0.05, 0.2, 0.3]


def direct(eps: float, norm: Norm = Norm.LINF) -> float:
    pixels, labels = IMAGES.pixels.numpy(), IMAGES.labels.numpy()
    return computing.ceilings(pixels, labels, norm, [eps])[0].possible


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Record the sizes that are computed."""
    asked: list[list[float]] = []
    real = computing.ceilings

    def recorded(images, labels, norm, eps_list, on_progress=None):
        asked.append(list(eps_list))
        return real(images, labels, norm, eps_list, on_progress)

    monkeypatch.setattr(computing, "ceilings", recorded)
    return asked


def test_each_size_is_computed_once_and_found_again(store: Store, made: list[list[float]]) -> None:
    first = ensure_ceilings(store, IMAGES, Norm.LINF, SIZES[:2])
    again = ensure_ceilings(Store.open(store.root), IMAGES, Norm.LINF, SIZES)
    assert made == [SIZES[:2], SIZES[2:]]
    assert list(again) == SIZES and {eps: again[eps] for eps in SIZES[:2]} == first
    assert {eps: top.possible for eps, top in again.items()} == {eps: direct(eps) for eps in SIZES}
    assert again[0.3].value < 1 and again[0.3].value == again[0.3].possible / len(IMAGES)


def test_other_images_and_norms_have_their_own(store: Store, made: list[list[float]]) -> None:
    whole = ensure_ceilings(store, IMAGES, Norm.LINF, [0.3])[0.3]
    half = ensure_ceilings(store, IMAGES.take(slice(30)), Norm.LINF, [0.3])[0.3]
    flat = ensure_ceilings(store, IMAGES, Norm.L2, [0.3])[0.3]
    assert len(made) == 3 and len({top.place() for top in (whole, half, flat)}) == 3
    assert half.samples.count == 30 and flat.possible == direct(0.3, Norm.L2) == 60


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: text.replace('"possible"', '"probable"'),
        lambda text: text.replace('"eps": 0.3', '"eps": 0.31'),
        lambda text: text.replace('"possible": ', '"possible": 9'),
    ],
)
def test_a_damaged_one_is_set_aside_and_made_again(store: Store, made: list[list[float]], damage) -> None:
    top = ensure_ceilings(store, IMAGES, Norm.LINF, [0.3])[0.3]
    (path,) = (store.root / "ceilings").iterdir()
    text = path.read_text()
    path.write_text(damage(text))
    assert path.read_text() != text
    assert store.ceiling(top.samples, Norm.LINF, 0.3) is None
    assert ensure_ceilings(store, IMAGES, Norm.LINF, [0.3]) == {0.3: top} and len(made) == 2
    assert len([*(store.root / "corrupt").iterdir()]) == 1


def test_cells_find_the_ceilings_of_their_own_images_norm_and_size(store: Store) -> None:
    tops = ensure_ceilings(store, IMAGES, Norm.LINF, SIZES)

    def cell(eps: float | None, norm: Norm = Norm.LINF, images: object = IMAGES) -> Cell:
        attack = None if eps is None else AttackSpec(method="pgd", threat=ThreatModel(norm=norm, eps=eps))
        subject, level = Subject(name="none"), Knowledge.CLEAN if attack is None else Knowledge.GRAY
        return Cell(
            classifier=subject, defence=subject, samples=images.samples(), knowledge=level, attack=attack,
            seed=0, batch_size=8,
        )  # fmt: skip

    others = [cell(None), cell(0.1), cell(0.2, Norm.L2), cell(0.2, images=IMAGES.take(slice(9)))]
    assert store.ceilings_of(others) == ()
    assert store.ceilings_of([*others, cell(0.3), cell(0.2), cell(0.3)]) == (tops[0.3], tops[0.2])


def test_what_is_impossible_cannot_be_stored() -> None:
    samples = IMAGES.samples()
    for figures in ({"possible": 60.5}, {"possible": -0.5}, {"conflicting": 61}, {"possible": np.nan}):
        with pytest.raises(ValueError):
            Ceiling(**({"samples": samples, "norm": "linf", "eps": 0.1, "conflicting": 0, "possible": 60} | figures))
    keys = {ceiling_key(samples, norm, eps) for norm in Norm for eps in (0.1, 0.2)}
    assert len(keys) == 4


def test_no_torch_is_needed_to_read_one(store: Store, tmp_path: Path) -> None:
    import subprocess
    import sys

    ensure_ceilings(store, IMAGES, Norm.LINF, [0.3])
    code = (
        "import sys; from pathlib import Path; from ismn_cli.core.ceilings import Ceiling; "
        "from ismn_cli.core.store import Store; import ismn_cli.audit.ceiling, ismn_cli.reporting.ceiling_table; "
        f"tops = [Ceiling.model_validate_json(p.read_bytes()) for p in Path({str(store.root)!r}).glob('ceilings/*')]; "
        f"assert Store.open(Path({str(store.root)!r})).ceiling(tops[0].samples, 'linf', 0.3) == tops[0]; "
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
