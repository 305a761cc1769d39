"""LAD as it is, around the small world's classifier: trained, stored, found again, refused in words."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import small_world
import torch

from ismn_cli.core.errors import UsageError
from ismn_cli.core.store import Store
from ismn_cli.engine.judge import judge
from ismn_cli.stages.resolve import resolve
from ismn_models.shape import Shape

CONFIG: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 8,
    "per_class": 6,
    "generator_epochs": 1,
    "generator_batch_size": 32,
    "width": 16,
    "svm_images": 6,
    "svm_epochs": 1,
    "eps_max": 0.5,
}


def test_trained_stored_and_found_again(trained, store: Store) -> None:
    base = trained("classifier").run.record.id
    record = trained("lad", classifier=base, config=CONFIG).run.record
    assert list(record.figures) == ["generator", "boundary", "hardening", "test"]
    found = resolve("lad", "auto", store, small_world.KIND)
    assert record.id in found.origin and found.policy == "none"
    assert found.base.weights == resolve("none", base, store, small_world.KIND).base.weights
    exact = {name: value.clone() for name, value in found.pipeline.classifier.state_dict().items()}
    assert exact.keys() == found.pipeline.base.state_dict().keys()
    assert any(not torch.equal(value, exact[name]) for name, value in found.pipeline.base.state_dict().items())
    images = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    answers = judge(found.pipeline, images.split(5), seed=1)[0]
    assert list(answers.predicted) == found.pipeline.classifier(images).argmax(1).tolist()


@pytest.mark.parametrize("stage", [0, 2])
def test_the_memory_of_its_steps_is_known_without_taking_them(stage: int) -> None:
    from ismn_cli.engine.dry_run import train_a_step
    from ismn_cli.engine.memory import peak_bytes
    from ismn_models.lad.config import LadConfig
    from ismn_models.lad.system import build
    from ismn_models.lad.training import stages

    def peak(batch: int) -> int:
        def step() -> None:
            config = LadConfig(width=16)
            system = build(config, Shape(2, 3, 16), small_world.Net(2, 3, 6))
            train_a_step(stages(system, config)[stage], Shape(2, 3, 16), 100, batch, nullcontext)

        return peak_bytes(step)

    small, large = peak(20), peak(40)
    assert 20 * 3 * 16 * 16 * 4 < large - small < small


def test_too_few_images_are_an_error_to_act_on(trained) -> None:
    base = trained("classifier").run.record.id
    with pytest.raises(UsageError, match="two images at least of two classes") as caught:
        trained("lad", classifier=base, config=CONFIG, dataset={"name": "cifar10", "limit": 2})
    assert caught.value.hint == "Train on more images."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eps_init": 200.0}, "eps_init 200.0 is above eps_max 0.5"),
        ({"width": 4}, "width"),
        ({"momentum": 1.0}, "momentum"),
        ({"compact": True}, "did you mean 'compat'"),
    ],
)
def test_settings_are_checked_before_any_work(changes: dict[str, Any], words: str, trained) -> None:
    with pytest.raises(UsageError, match=words):
        trained("lad", config=CONFIG | changes)


def test_the_literal_public_code_is_a_setting() -> None:
    from ismn_cli.cli.train import train_recipe

    assert train_recipe(["config.compat=true"], system="lad").config == {"compat": True}
