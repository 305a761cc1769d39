"""What each knowledge level lets an attacker touch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.core.specs import AttackSpec, Knowledge, ThreatModel
from ismn_cli.engine.craft import craft_batch
from ismn_cli.engine.judge import judge
from ismn_cli.threats.views import BARE, SYSTEM, views
from ismn_cli.threats.worst_case import craft_through
from ismn_models.pipeline import Classify, Defence, Pipeline


class Watched(Defence):
    """A reformer and detector that counts how often it is asked."""

    def __init__(self, policy: str = "reform", differentiable: bool = True) -> None:
        super().__init__()
        self.policy, self.differentiable, self.asked = policy, differentiable, 0
        self.threshold.fill_(0.6)

    def reform(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return (x * 255).round() / 255 if not self.differentiable else 0.9 * x

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        self.asked += len(x)
        return x.flatten(1).mean(1)


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def system(defence: Defence, own: bool = False) -> Pipeline:
    return Pipeline(classifier(), defence, classifier(1) if own else None).eval()


def images() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.rand(8, 3, 4, 4), torch.randint(4, (8,))


def spec(method: str = "pgd") -> AttackSpec:
    return AttackSpec(method=method, threat=ThreatModel(eps=0.1))


@pytest.mark.parametrize("method", ["pgd", "fgsm", "apgd", "square", "pgd-ensemble", "uniform-noise"])
def test_at_level_gray_the_defence_is_never_touched(method: str) -> None:
    x, y = images()
    defence = Watched("reject")
    pipeline = system(defence, own=True)
    own_classifier: list[int] = []
    pipeline.classifier.register_forward_pre_hook(lambda *_: own_classifier.append(1))
    threat = spec(method).threat
    worst = craft_through(views(pipeline, Knowledge.GRAY), make_attack(spec(method), 4), x, y, threat, 0)
    assert not worst.crafted.failed.any()
    assert defence.asked == 0 and not own_classifier
    judge(pipeline, [worst.crafted.adversarial])
    assert defence.asked > 0 and own_classifier


def test_gray_examples_are_the_same_whatever_the_defence() -> None:
    x, y = images()
    made = [
        craft_through(views(system(defence), Knowledge.GRAY), make_attack(spec(), 4), x, y, spec().threat, 0)
        for defence in (Defence(), Watched("route"))
    ]
    assert torch.equal(made[0].crafted.adversarial, made[1].crafted.adversarial)


def test_black_shows_answers_and_no_gradient() -> None:
    x, y = images()
    defence = Watched()
    pipeline = system(defence)
    (outputs,) = views(pipeline, Knowledge.BLACK).values()
    assert torch.equal(outputs(x), pipeline(x))
    assert not outputs(x.requires_grad_()).requires_grad
    crafted = craft_batch(outputs, make_attack(spec("pgd"), 4), x.detach(), y, spec().threat, 0)
    assert crafted.failed.all() and "gradient" in crafted.notes[0]


def test_transfer_touches_the_attackers_own_systems_only() -> None:
    x, y = images()
    target, twin, copy = Watched(), Defence(), Watched()
    pipeline = system(target)
    sources = [Pipeline(classifier(3), twin).eval(), Pipeline(classifier(4), copy).eval()]
    (together,) = views(pipeline, Knowledge.BLACK, sources).values()
    worst = craft_through({"transfer": together}, make_attack(spec(), 4), x, y, spec().threat, 0)
    assert not worst.crafted.failed.any() and worst.crafted.backwards > 0
    assert target.asked == 0 and copy.asked > 0
    wanted = torch.stack([sources[0](x).log_softmax(1), sources[1](x).log_softmax(1)]).mean(0)
    assert torch.allclose(together(x), wanted)


def test_white_is_the_whole_system() -> None:
    pipeline = system(Watched("route"))
    assert views(pipeline, Knowledge.WHITE) == {SYSTEM: pipeline}


def test_adaptive_holds_every_route_and_the_bare_classifier() -> None:
    assert list(views(system(Watched("route")), Knowledge.ADAPTIVE)) == ["reformed", "clean-route", SYSTEM, BARE]
    assert list(views(system(Watched("reject")), Knowledge.ADAPTIVE)) == ["reformed", BARE]
    assert list(views(system(Watched(differentiable=False)), Knowledge.ADAPTIVE)) == ["bpda", BARE]
    assert list(views(system(Defence(), own=True), Knowledge.ADAPTIVE)) == ["reformed", BARE]
    assert list(views(system(Defence()), Knowledge.ADAPTIVE)) == ["reformed"]


def test_a_guard_stands_where_the_detector_decides() -> None:
    x, _ = images()
    for policy, guarded in (("reform", []), ("reject", ["reformed"]), ("route", ["clean-route"])):
        pipeline = system(Watched(policy))
        looks = {name: surrogate.look(x) for name, surrogate in pipeline.surrogates().items()}
        assert [name for name, reading in looks.items() if reading.margin is not None] == guarded
        for name in guarded:
            assert torch.equal(looks[name].margin >= 0, pipeline.decide(x).flagged)


def test_the_identity_goes_backward_where_the_reformer_has_no_gradient() -> None:
    x, _ = images()
    pipeline = system(Watched(differentiable=False))
    surrogate = pipeline.surrogates()["bpda"]
    assert torch.allclose(surrogate(x), pipeline(x), atol=1e-6)
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(surrogate(point).sum(), point)
    other = ((x * 255).round() / 255).requires_grad_()
    (wanted,) = torch.autograd.grad(pipeline.base(other).sum(), other)
    assert torch.allclose(gradient, wanted, atol=1e-6)


def test_looks_at_a_random_system_are_averaged() -> None:
    class Noisy(Defence):
        randomised = True

        def reform(self, x: Tensor) -> Tensor:
            return x + 0.3 * torch.randn_like(x)

    x, _ = images()
    pipeline = system(Noisy())

    def spread(model: nn.Module) -> float:
        return torch.stack([model(x).log_softmax(1) for _ in range(20)]).var(0).mean().item()

    for level in (Knowledge.WHITE, Knowledge.ADAPTIVE):
        once, often = (next(iter(views(pipeline, level, eot=eot).values())) for eot in (1, 25))
        assert spread(often) < spread(once) / 5
