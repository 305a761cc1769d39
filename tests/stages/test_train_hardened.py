"""Systems as they are, around the small world's classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_world
import torch

from ismn_cli.core.catalogue import SYSTEMS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import TrainRecipe
from ismn_cli.core.store import Store
from ismn_cli.engine.fit import Progress
from ismn_cli.engine.judge import judge
from ismn_cli.stages.release import release
from ismn_cli.stages.resolve import resolve
from ismn_cli.stages.train import train

CONFIGS: dict[str, dict[str, Any]] = {
    "at": {"method": "fast", "epochs": 2, "batch_size": 32, "start": "base"},
    "distillation": {"teacher_epochs": 1, "student_epochs": 2, "batch_size": 32, "temperature": 20},
    "trades": {"steps": 2, "epochs": 2, "batch_size": 32, "start": "base"},
    "hgd": {"maps": 2, "epochs": 2, "batch_size": 32, "refresh": 2},
    "magnet-diverse": {"pack": 2, "alone_epochs": 1, "epochs": 2, "batch_size": 32, "error_drop_rate": 0.1},
}
STAGES = {
    "at": ["adversarial"],
    "distillation": ["teacher", "student"],
    "trades": ["TRADES"],
    "hgd": ["guided denoising"],
    "magnet-diverse": ["alone", "together"],
}
EPOCHS = {"distillation": 3, "magnet-diverse": 3}
"""In all, where they are not two."""
systems = pytest.mark.parametrize("system", CONFIGS)


@systems
def test_trained_stored_and_found_again(system: str, trained, store: Store) -> None:
    base = trained("classifier").run.record.id
    record = trained(system, classifier=base, config=CONFIGS[system]).run.record
    assert record.status == "done"
    assert list(record.figures) == [*STAGES[system], "test"]
    found = resolve(system, "auto", store, small_world.KIND)
    assert record.id in found.origin
    assert found.pipeline.defence.randomised == (system == "magnet-diverse")
    assert (found.pipeline.classifier is found.pipeline.base) == (system in ("magnet-diverse", "hgd"))
    bare = resolve("none", base, store, small_world.KIND)
    assert found.base.weights == bare.base.weights
    images = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first, again = (judge(found.pipeline, images.split(7), seed=2)[0] for _ in range(2))
    assert first == again
    assert ("false-positive rate" in record.figures["test"]) == (SYSTEMS[system].policy == "reject")


@systems
def test_interrupted_in_every_epoch_and_continued(system: str, trained, tmp_path: Path) -> None:
    """The base is trained in the same run, so a second classifier starts from weights that are not there yet."""
    config = {"classifier": "fresh", "config": CONFIGS[system]}
    whole = trained(system, **config).run.record
    other = Store.open(tmp_path / "other")
    recipe = TrainRecipe.model_validate({"name": f"train-{system}", "system": system} | config)
    stopped: set[tuple[str, int]] = set()

    def stop(progress: Progress) -> None:
        place = (progress.stage, progress.epoch)
        if progress.step == 2 and progress.stage in STAGES[system] and place not in stopped:
            stopped.add(place)
            raise KeyboardInterrupt

    for _ in range(EPOCHS.get(system, 2)):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, other, None, "cpu", stop)
    continued = train(recipe, other, None, "cpu", stop).run.record
    assert {stage for stage, _ in stopped} == set(STAGES[system])
    assert continued.weights == whole.weights
    assert continued.figures == whole.figures


def test_released_beside_the_classifier(trained, store: Store, released: Path) -> None:
    runs = {"classifier": trained("classifier").run.record.id}
    for system, config in CONFIGS.items():
        runs[system] = trained(system, classifier=runs["classifier"], config=config).run.record.id
    entries = release(runs, released, store, None)
    assert set(entries) == set(runs)
    for system in CONFIGS:
        found = resolve(system, "released", store, small_world.KIND)
        assert found.origin == "the released weights"
        exact = resolve(system, runs[system], store, small_world.KIND).pipeline.state_dict()
        for name, tensor in found.pipeline.state_dict().items():
            torch.testing.assert_close(tensor, exact[name], atol=1e-4, rtol=1e-3)


def test_settings_are_checked_before_any_work(trained) -> None:
    with pytest.raises(UsageError, match="fast takes one step"):
        trained("at", config={"method": "fast", "steps": 7})
    with pytest.raises(UsageError, match="pack"):
        trained("magnet-diverse", config={"pack": 0})
    with pytest.raises(UsageError, match=r"temprature.*did you mean 'temperature'"):
        trained("distillation", config={"temprature": 20})


def test_eps_is_read_as_a_fraction() -> None:
    from ismn_cli.cli.train import train_recipe

    recipe = train_recipe(["config.eps=4/255", "config.start=base"], system="at")
    assert recipe.config == {"eps": 4 / 255, "start": "base"}
