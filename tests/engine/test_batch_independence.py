"""What becomes of an image depends on nothing but the image: batch sizes and order change no bit (CPU)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.children import one_thread
from ismn_cli.engine.craft import craft_batch
from ismn_cli.engine.judge import judge
from ismn_cli.engine.passes import Guarded
from ismn_models.pipeline import Defence, Pipeline

N = 37
SHORT = {
    "autoattack": {"version": "custom", "attacks": "apgd-ce+apgd-t+fab-t+square"},
    "square": {"n_queries": 30},
    "apgd": {"steps": 12},
    "apgdt": {"steps": 6},
    "fab": {"steps": 6},
    "spsa": {"nb_iter": 2, "nb_sample": 8},
    "eaden": {"max_iterations": 20, "binary_search_steps": 2, "initial_const": 10.0, "lr": 0.1},
    "cw": {"steps": 8},
    "cw-search": {"steps": 8, "search_steps": 2},
    "pgd-ensemble": {"steps": 4},
}
ALONE = [name for name, entry in ATTACKS.items() if not entry.universal and name != "autoattack"]


@pytest.fixture(scope="module")
def victim() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 25, 5),
    ).eval()  # fmt: skip
    x = torch.rand(N, 3, 12, 12)
    return net, x, net(x).argmax(1)


def crafted(victim: tuple[nn.Module, Tensor, Tensor], method: str, norm: Norm, size: int, order: Tensor) -> Tensor:
    """Attack the images in ``order`` in batches of ``size``; return the results in the images' own order."""
    net, x, y = victim
    threat = ThreatModel(norm=norm, eps=0.02 if norm is Norm.LINF else 0.6)
    attack = make_attack(resolve_params(method, threat, SHORT.get(method, {})), 5)
    parts = [craft_batch(net, attack, x[rows], y[rows], threat, 7).adversarial for rows in order.split(size)]
    return torch.cat(parts)[order.argsort()]


@pytest.mark.parametrize("method", ALONE)
def test_no_bit_depends_on_the_batch_or_the_order(method: str, victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = victim
    norm = ATTACKS[method].norms[0]
    whole = crafted(victim, method, norm, N, torch.arange(N))
    assert not torch.equal(whole, x)
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    for size, order in ((16, torch.arange(N)), (9, shuffled)):
        again = crafted(victim, method, norm, size, order)
        assert torch.equal(net(whole).argmax(1) == y, net(again).argmax(1) == y)
        # A length in L2 is a sum over the image's pixels, which torch rounds by the number of images.
        assert norm is Norm.L2 or torch.equal(whole, again)


@pytest.mark.parametrize("method", ["apgd", "apgdt", "fab", "square", "pgd-ensemble"])
def test_nor_in_bf16(
    method: str, victim: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ismn_cli.engine.passes.CLOSE", 0.3)  # some are, some are not
    net, x, y = victim
    guarded = Guarded(net), x, y
    with one_thread():  # where there is nothing to fork for, too
        whole = crafted(guarded, method, Norm.LINF, N, torch.arange(N))
        assert not torch.equal(whole, x)
        shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(1))
        for size, order in ((1, torch.arange(N)), (9, shuffled)):
            assert torch.equal(whole, crafted(guarded, method, Norm.LINF, size, order))


def test_nor_do_the_reference_attacks(
    victim: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyautoattack.autopgd_base import APGDAttack
    from pyautoattack.square import SquareAttack

    for cls, name, few in ((APGDAttack, "n_iter", 8), (SquareAttack, "n_queries", 20)):
        init = cls.__init__

        def shorter(self: object, *args: object, _init=init, _name=name, _few=few, **kwargs: object) -> None:
            _init(self, *args, **{**kwargs, _name: _few})

        monkeypatch.setattr(cls, "__init__", shorter)
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    whole = crafted(victim, "autoattack", Norm.LINF, N, torch.arange(N))
    assert torch.equal(whole, crafted(victim, "autoattack", Norm.LINF, 20, shuffled))


def test_nor_does_the_verdict(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, _ = victim

    class Scored(Defence):
        policy = "reject"

        def score(self, x: Tensor, classify: object) -> Tensor:
            logits: Tensor = classify(x)  # type: ignore[operator]
            return logits.amax(1)

    system = Pipeline(net, Scored())
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    whole, _ = judge(system, [x])
    parts, _ = judge(system, x[order].split(5))
    assert tuple(parts.score[i] for i in order.argsort().tolist()) == whole.score
