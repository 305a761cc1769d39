"""The search in bf16 knows its side of the boundary in float32, and touches nothing of the system."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.specs import Norm, Search, ThreatModel
from ismn_cli.engine.children import one_thread
from ismn_cli.engine.craft import Crafted, craft_batch
from ismn_cli.engine.passes import CLOSE, Guarded, Plain, for_search, search_precision, sums_in_bf16
from ismn_models.pipeline import Defence, Pipeline


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()


def test_close_answers_are_those_of_the_net_and_the_others_are_near_them() -> None:
    plain = net()
    guarded, x = Guarded(plain), torch.rand(200, 3, 8, 8)
    with torch.no_grad():
        exact, found = plain(x), guarded(x)
    first, second = exact.topk(2).values.unbind(1)
    share = (first - second) / (first - exact.amin(1))
    close = share < CLOSE / 2  # clearly so: what bf16 takes for close is known to its own precision
    assert close.any() and not close.all()
    torch.testing.assert_close(found[close], exact[close], rtol=0, atol=1e-5)
    assert bool((found.argmax(1) == exact.argmax(1)).all())
    assert not torch.equal(found, exact)


def test_gradients_come_back_in_float32_through_both() -> None:
    guarded, x = Guarded(net()), torch.rand(64, 3, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(guarded(x).logsumexp(1).sum(), x)
    (exact,) = torch.autograd.grad(guarded.net(x).logsumexp(1).sum(), x)
    assert slope.dtype == torch.float32
    assert float(nn.functional.cosine_similarity(slope.flatten(), exact.flatten(), dim=0)) > 0.99


def test_close_answers_have_the_value_of_the_net_and_the_gradient_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded, x = Guarded(net()), torch.rand(20, 3, 8, 8, requires_grad=True)
    (rough,) = torch.autograd.grad(_light(guarded, x).logsumexp(1).sum(), x)
    monkeypatch.setattr("ismn_cli.engine.passes.CLOSE", 1.0)
    asked = count_images(guarded.net)
    with one_thread():
        found = guarded(x)
    (slope,) = torch.autograd.grad(found.logsumexp(1).sum(), x)
    assert asked == [15, 5]
    torch.testing.assert_close(found, guarded.net(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(slope, rough, rtol=0.02, atol=0.02 * float(rough.abs().max()))


def test_what_bf16_cannot_hold_is_the_nets_own() -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wide = x.flatten(1)[:, :3]
            return wide / torch.where(wide.abs() > 0.5, 1.0, 0.0) if x.dtype == torch.bfloat16 else wide

    x = torch.tensor([0.9, 0.1, 0.1, 0.0]).view(1, 1, 2, 2).requires_grad_()
    torch.testing.assert_close(Guarded(Large())(x), x.flatten(1)[:, :3])


def test_what_was_asked_last_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_cli.engine.passes.CLOSE", 1.0)
    guarded, x = Guarded(net()), torch.rand(9, 3, 8, 8)
    _light(guarded, x)  # a copy, made before anything is counted
    asked = count_images(guarded.net)
    with one_thread():
        with torch.no_grad():
            guarded(x)
        x[1:6] += 0.01  # in place, as attacks do
        first = guarded(x.requires_grad_())
        assert asked == [9, 5], "the images that moved"
        assert torch.equal(guarded(x), first) and len(asked) == 2
        torch.testing.assert_close(first, guarded.net(x), rtol=0, atol=1e-6)
        guarded(x[:4])
        guarded(x[4:])
        assert asked[3:] == [4, 5], "another batch"


def test_close_answers_have_the_bits_that_they_have_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_cli.engine.passes.CLOSE", 1.0)
    torch.manual_seed(0)
    guarded = Guarded(nn.Sequential(nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 10)).eval())
    x = torch.rand(24, 3, 32, 32)
    with one_thread(), torch.no_grad():
        whole = guarded(x)
        assert all(torch.equal(guarded(x[:n]), whole[:n]) for n in range(1, 25))


def test_what_sums_in_bf16_alone() -> None:
    bare, other = Pipeline(net(), Defence()), Pipeline(net(), Defence(), net())

    class Something(Defence):
        """Not known to be none."""

    for system in (bare, other):
        light = for_search(system, Search.BF16)
        assert sums_in_bf16(light) and all(map(sums_in_bf16, light.surrogates().values()))
        assert not sums_in_bf16(for_search(system, Search.FP32))
    defended = for_search(Pipeline(net(), Something()), Search.BF16)
    assert not any(map(sums_in_bf16, (defended, *defended.surrogates().values())))
    assert not sums_in_bf16(net()) and sums_in_bf16(Guarded(net()))


def test_a_net_that_draws_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismn_cli.engine.passes.CLOSE", 1.0)
    drawing = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4))
    guarded, x = Guarded(drawing), torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        answers = [guarded(x) for _ in range(3)]
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], answers[2])


def _light(guarded: Guarded, x: Tensor) -> Tensor:
    guarded(x[:1].detach())
    assert guarded.light is not None
    answer: Tensor = guarded.light(x.to(torch.bfloat16)).float()
    return answer


def count_images(model: nn.Module) -> list[int]:
    """Return a list that gets the number of images of each later call."""
    asked: list[int] = []
    model.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    return asked


def test_what_is_not_a_number_stays_so() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :4] * torch.nan

    assert bool(Guarded(Broken())(torch.rand(2, 3, 4, 4)).isnan().all())


def test_a_system_is_searched_on_guarded_classifiers_and_keeps_its_own_weights() -> None:
    plain = Pipeline(net(), Defence())
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    light = for_search(plain, Search.BF16)
    assert isinstance(light.base, Guarded) and light.classifier is light.base
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    exact = for_search(plain, Search.FP32)
    assert isinstance(exact.base, Plain) and exact.classifier is exact.base and exact.base.net is plain.base


def test_in_float32_a_search_is_answered_and_led_as_by_the_net_itself() -> None:
    bare, best = net(), torch.rand(8, 3, 8, 8, requires_grad=True)
    plain = Plain(bare)
    for model in (bare, plain):
        torch.testing.assert_close(model(best), bare(best))
        (slope,) = torch.autograd.grad(model(best).square().sum(), best)
        torch.testing.assert_close(slope, torch.autograd.grad(bare(best).square().sum(), best)[0])
    asked = count_images(bare)
    with torch.no_grad():
        for number in range(60):
            x = best.clone()
            x[:, :, number % 8, number % 7] = number % 2
            wanted = torch.cat([bare(row[None]) for row in x])
            del asked[-8:]
            given = plain(x)
            torch.testing.assert_close(given, wanted)
            x.zero_()  # in place, as attacks do
        torch.testing.assert_close(plain(best), bare(best))
    assert sum(asked) < 8 * 60, "it was asked about all of every image"


@pytest.mark.parametrize("hardened", [False, True])
def test_a_defence_keeps_float32(hardened: bool) -> None:
    class Something(Defence):
        policy = "reject"

    system = Pipeline(net(), Something(), net() if hardened else None)
    light = for_search(system, Search.BF16)
    assert isinstance(light.base, Guarded)
    assert light.classifier is system.classifier and light.defence is system.defence


def test_auto_is_bf16_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, precision in ((True, Search.BF16), (False, Search.FP32)):
        monkeypatch.setattr("ismn_cli.engine.passes.has_bf16", lambda device, has=has: has)
        assert search_precision(Search.AUTO, torch.device("cpu")) is precision
    assert search_precision(Search.FP32, torch.device("cpu")) is Search.FP32


class Brightness(nn.Module):
    """Answers 1 where an image's mean is 0.6 or more; in bf16, wrongly and far from close, from 0.505 on."""

    def forward(self, x: Tensor) -> Tensor:
        over = x.flatten(1).mean(1) - (0.505 if x.dtype == torch.bfloat16 else 0.6)
        others = (torch.full_like(over, -40.0 - number) for number in range(3))
        return torch.stack([torch.zeros_like(over), 100 * over, *others], dim=1)


LEVELS = torch.tensor([0.1, *torch.linspace(0.42, 0.59, 11).tolist()])
HEEDING = [name for name, entry in ATTACKS.items() if entry.heeds_answers]
STEADY = [name for name, entry in ATTACKS.items() if not entry.heeds_answers and not entry.universal]
SHORT = {
    "autoattack": {"version": "custom", "attacks": "apgd-ce+square"},
    "square": {"n_queries": 200},
    "spsa": {"nb_iter": 2, "nb_sample": 8},
    "eaden": {"max_iterations": 30, "binary_search_steps": 2, "initial_const": 1.0, "lr": 0.01},
    "pgd-ensemble": {"loss": "margin"},
}


def brightened(method: str, kind: type[nn.Module]) -> Crafted:
    entry = ATTACKS[method]
    threat = ThreatModel(norm=entry.norms[0], eps=0.2 if entry.norms[0] is Norm.LINF else 1.0)
    x = LEVELS[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    attack = make_attack(resolve_params(method, threat, SHORT.get(method, {})), 5)
    with one_thread():
        return craft_batch(kind(Brightness()), attack, x, torch.zeros(len(x), dtype=torch.int64), threat, 0)


def across(crafted: Crafted) -> list[bool]:
    wrong: Tensor = Brightness()(crafted.adversarial).argmax(1) == 1
    return wrong.tolist()


@pytest.mark.parametrize("method", HEEDING)
def test_where_bf16_alone_says_that_an_image_is_broken_float32_goes_on(method: str) -> None:
    found, exact = brightened(method, Guarded), brightened(method, Plain)
    assert across(found) == across(exact) and not across(exact)[0]
    assert sum(across(exact)) > 1


@pytest.mark.parametrize("method", STEADY)
def test_what_goes_on_anyway_is_asked_once(method: str) -> None:
    found, exact = brightened(method, Guarded), brightened(method, Plain)
    assert (found.forwards, found.backwards) == (exact.forwards, exact.backwards)


def test_a_classifier_that_raises_costs_its_images_alone() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not today")

    threat = ThreatModel(norm=Norm.LINF, eps=0.1)
    attack = make_attack(resolve_params("pgd-ensemble", threat, {}), 5)
    found = craft_batch(Guarded(Broken()), attack, torch.rand(3, 3, 8, 8), torch.zeros(3, dtype=torch.int64), threat, 0)
    assert found.failed.all() and found.notes == ("the attack crashed on 3 samples: RuntimeError: not today",)
