"""Every system that is trained, around a residual net: nothing counts on Table 1's layers."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small_systems import CLASSES, images

from ismn_cli.core.catalogue import TRAINABLE, load
from ismn_cli.engine.fit import fit
from ismn_models.classifiers.resnet import wide_resnet
from ismn_models.shape import Shape

SIZE = 16
SHORT: dict[str, dict[str, Any]] = {
    "ismn": {"pgd_steps": 2, "at_steps": 2, "gan_start": 0, "detector_images": 16},
    "prn": {"maps": 8, "perturbations": 6, "seeds": 3, "universal_passes": 1},
    "lad": {"width": 16, "svm_epochs": 2},
    "hgd": {"maps": 4},
}


@pytest.mark.parametrize("name", [name for name in TRAINABLE if name != "classifier"])
def test_trains_and_answers_around_a_residual_net(name: str, tmp_path: Path) -> None:
    entry, shape = TRAINABLE[name], Shape(CLASSES, 3, SIZE)
    torch.manual_seed(0)
    base = wide_resnet(CLASSES, 3, depth=10, widen=1).eval()
    settings = load(str(entry.config))(**SHORT.get(name, {}))
    settings = settings.resolved(shape) if hasattr(settings, "resolved") else settings
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    pipeline = load(entry.build)(settings, shape, base=base)
    stages = [stage for stage in load(str(entry.stages))(pipeline, settings) if stage.name != "base"]
    for stage in stages:
        stage.epochs = min(stage.epochs, 1)
    figures = fit(
        pipeline,
        stages,
        images(12, side=SIZE),
        images(9, seed=1, side=SIZE),
        seed=1,
        checkpoint=tmp_path / "checkpoint.pt",
        precision=nullcontext,
        on_progress=lambda _: None,
    )
    assert set(figures) == {stage.name for stage in stages}
    assert pipeline.base is base
    assert all(torch.equal(before[key], tensor) for key, tensor in base.state_dict().items())
    decision = pipeline.eval().decide(images(6, seed=2, side=SIZE).floats())
    assert decision.logits.shape == (6, CLASSES)
    assert bool(decision.logits.isfinite().all())
    again = copy.deepcopy(pipeline)
    again.load_state_dict(pipeline.state_dict())
    assert set(pipeline.surrogates()) == set(again.surrogates())
