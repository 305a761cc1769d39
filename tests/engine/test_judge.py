from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.core.errors import UsageError
from ismn_cli.core.records import Answers
from ismn_cli.engine import groups
from ismn_cli.engine.judge import NO_ANSWER, judge
from ismn_models.pipeline import Classify, Decision, Defence, Pipeline


class Brightness(nn.Module):
    """Class k for mean brightness in [k/4, (k+1)/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        centres = torch.tensor([0.125, 0.375, 0.625, 0.875])
        return self.dropout(-((x.mean((1, 2, 3)) * self.weight)[:, None] - centres).abs())


class Contrast(Defence):
    """Flags images that are not flat."""

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        return x.flatten(1).std(1)


def _images(n: int = 23) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    levels = torch.rand(n, 1, 1, 1, generator=generator)
    noise = torch.randn(n, 1, 4, 4, generator=generator) * 0.1
    noise[::2] = 0
    return (levels + noise).clamp(0, 1)


@pytest.mark.parametrize("policy", ["pass", "reject", "route"])
@pytest.mark.parametrize("size", [1, 5, 23])
def test_the_columns_are_the_decisions_in_order(policy: str, size: int) -> None:
    x, defence = _images(), Contrast()
    defence.policy = policy
    defence.threshold.fill_(0.02)
    pipeline = Pipeline(Brightness(), defence).eval()
    answers, seconds = judge(pipeline, x.split(size))
    assert seconds > 0
    for i in range(len(x)):
        with torch.no_grad():
            one = pipeline.decide(x[i : i + 1])
        assert answers.predicted[i] == int(one.logits.argmax(1))
        assert answers.flagged[i] == bool(one.flagged)
        assert answers.rejected[i] == bool(one.rejected)
        assert answers.score[i] == pytest.approx(float(one.score), abs=1e-6)
        assert answers.loops[i] == int(one.loops)
    assert Answers.model_validate_json(answers.model_dump_json()) == answers


def test_types_survive_strict_records() -> None:
    answers, _ = judge(Pipeline(Brightness(), Defence()), [_images(3)])
    assert [type(getattr(answers, name)[0]) for name in Answers.model_fields] == [int, bool, bool, float, int]


def test_full_precision_eval_mode_and_no_gradients() -> None:
    seen: list[tuple[torch.dtype, bool, bool]] = []

    class Spy(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            product = x.flatten(1) @ torch.ones(x[0].numel(), 2)
            seen.append((product.dtype, self.training, torch.is_grad_enabled()))
            return super().forward(x)

    pipeline = Pipeline(Spy(), Defence()).train()
    pipeline.defence.eval()
    with torch.autocast("cpu", torch.bfloat16):
        judge(pipeline, [_images(2)])
    assert seen == [(torch.float32, False, False)]
    assert pipeline.training
    assert pipeline.base.training
    assert not pipeline.defence.training


def test_an_answer_that_is_not_a_number_is_never_right() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.eye(3)[: len(x)].clone()
            logits[1, 2] = torch.nan
            return logits

    class Infinite(Defence):
        def score(self, x: Tensor, classify: Classify) -> Tensor:
            return torch.tensor([torch.inf, torch.nan, 0.5])

    answers, _ = judge(Pipeline(Broken(), Infinite()), [torch.zeros(3, 1, 2, 2)])
    assert answers.predicted == (0, NO_ANSWER, 2)
    assert Answers.model_validate_json(answers.model_dump_json()) == answers


def test_a_random_system_can_be_judged_again() -> None:
    class Noisy(Defence):
        def reform(self, x: Tensor) -> Tensor:
            return (x + 0.3 * torch.randn_like(x)).clamp(0, 1)

        def decide(self, x: Tensor, classify: Classify) -> Decision:
            decision = super().decide(x, classify)
            return decision._replace(score=decision.logits[:, 0])

    pipeline, x = Pipeline(Brightness(), Noisy()), _images(8)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, _ = judge(pipeline, [x], seed=3)
    assert torch.equal(torch.rand(1), expected)
    assert judge(pipeline, [x], seed=3)[0] == first
    assert judge(pipeline, [x], seed=4)[0] != first


def test_nothing_to_judge() -> None:
    for batches in ([], [torch.zeros(0, 1, 2, 2)]):
        answers, seconds = judge(Pipeline(Brightness(), Defence()), batches)
        assert answers.predicted == ()
        assert seconds == 0


def test_time_spent_on_making_batches_is_not_the_systems() -> None:
    def slow() -> Tensor:
        time.sleep(0.3)
        return _images(1)

    _, seconds = judge(Pipeline(Brightness(), Defence()), (slow() for _ in range(1)))
    assert seconds < 0.3


def test_what_does_not_fit_into_memory_is_halved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    class Short(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            tried.append(len(x))
            if len(x) > 11:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    pipeline, x = Pipeline(Short(), Defence()).eval(), _images(32)
    alone, _ = judge(pipeline, [x])
    monkeypatch.setattr(groups, "group_size", len)  # as on a GPU
    for tries in ([32, 16, 8, 8, 8, 8], [8, 8, 8, 8]):
        tried.clear()
        assert judge(pipeline, [x])[0] == alone
        assert tried == tries


def test_running_out_of_memory_is_no_answer() -> None:
    class Short(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UsageError, match="Memory ran out while judging 8 images at once"):
        judge(Pipeline(Short(), Defence()), [_images(32)])
