"""Training that was killed anywhere and started again ends in the same weights as one that was left alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.engine.fit import Progress, fit
from ismn_models.images import Images
from ismn_models.pipeline import Defence, Pipeline
from ismn_models.training import Stage, flip_and_shift


class Killed(BaseException):
    """Stands for a signal: no `except Exception` on the way may stop it."""


class Toy(Stage):
    """Adam with momentum of its own, dropout, augmentation, and a helper net outside the system.

    Its noise is moved by the helper of the stage before: that is finished, and still needed.
    """

    batch_size = 7

    def __init__(self, name: str, net: nn.Module, epochs: int, before: Toy | None = None) -> None:
        self.name, self.net, self.epochs, self.before = name, net, epochs, before
        helper = nn.Linear(3, 3)
        self.modules = (helper,)
        parameters = [p for p in net.parameters() if p.requires_grad] + list(helper.parameters())
        self.optimisers = (torch.optim.Adam(parameters, lr=0.01),)
        self.seen: list[int] = []

    def begin_epoch(self, epoch: int, train: Images) -> None:
        self.noise = torch.randn(3)
        if self.before is not None:
            self.noise += self.before.modules[0].bias.detach()

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        self.seen += index.tolist()
        self.net.train()
        logits = self.modules[0](self.net(flip_and_shift(x, 1))) + self.noise
        loss = nn.functional.cross_entropy(logits, y)
        self.optimisers[0].zero_grad()
        loss.backward()
        self.optimisers[0].step()
        return {"loss": loss.item()}

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        return {"done": float(len(validation))}

    def kept(self) -> dict[str, Any]:
        return {"helper": self.modules[0].state_dict()}

    def load_kept(self, state: dict[str, Any]) -> None:
        self.modules[0].load_state_dict(state["helper"])


class Fixed(Defence):
    """A threshold, to see that buffers are kept too."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold.fill_(0.5)


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)
    )


def _system(epochs: int) -> tuple[Pipeline, list[Toy]]:
    torch.manual_seed(0)
    pipeline = Pipeline(_net(), Fixed(), _net())
    base = Toy("base", pipeline.base, epochs)
    return pipeline, [base, Toy("target", pipeline.classifier, 2, before=base)]


def _images(n: int) -> Images:
    generator = torch.Generator().manual_seed(n)
    pixels = torch.randint(0, 256, (n, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 3, (n,), generator=generator))


def _fit(checkpoint: Path, on_progress: Callable[[Progress], None] = lambda _: None) -> Pipeline:
    torch.manual_seed(torch.seed() % 1000)  # where the process comes from must not matter
    pipeline, stages = _system(3)
    fit(
        pipeline,
        stages,
        _images(30),
        _images(5),
        seed=1,
        checkpoint=checkpoint,
        precision=nullcontext,
        on_progress=on_progress,
    )
    return pipeline


def _weights(pipeline: Pipeline) -> dict[str, Tensor]:
    return dict(pipeline.state_dict())


def _assert_same(a: Pipeline, b: Pipeline) -> None:
    ours, theirs = _weights(a), _weights(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return _fit(tmp_path_factory.mktemp("fit") / "checkpoint.pt")


@pytest.mark.parametrize("kill_at", [3, 5, 6, 10, 11, 15, 16, 20, 21, 25])
def test_killed_and_continued(kill_at: int, undisturbed: Pipeline, tmp_path: Path) -> None:
    """Five steps an epoch, three epochs and two: both sides of every epoch's end, and between the stages."""
    steps = 0

    def kill(_: Progress) -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise Killed

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        _fit(checkpoint, kill)
    _assert_same(_fit(checkpoint), undisturbed)


def test_killed_twice(undisturbed: Pipeline, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    for stage, epoch in (("base", 1), ("base", 2), ("target", 1)):

        def kill(progress: Progress, stage: str = stage, epoch: int = epoch) -> None:
            if (progress.stage, progress.epoch, progress.step) == (stage, epoch, 3):
                raise Killed

        with pytest.raises(Killed):
            _fit(checkpoint, kill)
    _assert_same(_fit(checkpoint), undisturbed)


def test_epochs_before_the_checkpoint_are_not_run_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"

    def kill(progress: Progress) -> None:
        if (progress.stage, progress.epoch) == ("target", 1):
            raise Killed

    with pytest.raises(Killed):
        _fit(checkpoint, kill)
    seen: list[tuple[str, int]] = []
    _fit(checkpoint, lambda p: seen.append((p.stage, p.epoch)))
    assert set(seen) == {("target", 1)}
    seen.clear()
    _fit(checkpoint, lambda p: seen.append((p.stage, p.epoch)))
    assert seen == []


def test_an_epoch_sees_every_image_once(tmp_path: Path) -> None:
    pipeline, stages = _system(1)
    fit(
        pipeline,
        stages[:1],
        _images(30),
        _images(5),
        seed=1,
        checkpoint=tmp_path / "c.pt",
        precision=nullcontext,
    )
    assert sorted(stages[0].seen) == list(range(30))


def test_figures_are_those_of_the_last_epoch_and_of_finish(tmp_path: Path) -> None:
    pipeline, stages = _system(2)
    losses: list[tuple[int, float]] = []
    figures = fit(
        pipeline,
        stages[:1],
        _images(30),
        _images(5),
        seed=1,
        checkpoint=tmp_path / "c.pt",
        precision=nullcontext,
        on_progress=lambda p: losses.append((p.epoch, p.figures["loss"])),
    )
    assert figures == {"base": {"loss": losses[-1][1], "done": 5.0}}
    assert [epoch for epoch, _ in losses] == [0] * 5 + [1] * 5


def test_a_failed_write_leaves_the_last_checkpoint(
    undisturbed: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"

    def kill(progress: Progress) -> None:
        if progress.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        _fit(checkpoint, kill)
    before = checkpoint.read_bytes()

    def full(content: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        _fit(checkpoint)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert checkpoint.read_bytes() == before
    monkeypatch.undo()
    _assert_same(_fit(checkpoint), undisturbed)


def test_nothing_is_in_training_mode_while_a_stage_closes(tmp_path: Path) -> None:
    """A run continued there has been through no epoch; batch norm left in training mode would go on learning."""
    pipeline, (base, _) = _system(0)
    modes: list[bool] = []

    def finish(train: Images, validation: Images) -> dict[str, float]:
        modes.extend(module.training for module in pipeline.modules())
        return {}

    base.finish = finish  # type: ignore[method-assign]
    data = Images(torch.zeros(4, 3, 4, 4, dtype=torch.uint8), torch.arange(4) % 3)
    pipeline.train()
    fit(pipeline, [base], data, data, seed=0, checkpoint=tmp_path / "c.pt", precision=nullcontext)
    assert modes
    assert not any(modes)
