"""The cells of torchattacks' attacks are torchattacks' own, and they break a net that nothing defends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack, resolve_params
from ismn_cli.core.specs import ThreatModel
from ismn_cli.core.store import Store
from ismn_cli.data import mini
from ismn_cli.engine.ball import project
from ismn_cli.engine.craft import Crafted, craft_batch
from ismn_cli.engine.draws import Common
from ismn_cli.engine.groups import SIZE
from ismn_cli.engine.rng import seed_everything
from ismn_cli.stages.resolve import resolve

THEIRS = {"fgsm": torchattacks.FGSM, "bim": torchattacks.BIM, "pgd": torchattacks.PGD}
BREAKS_ALL = {"pgd": (40, {}), "bim": (10, {}), "mifgsm": (10, {}), "apgd": (10, {"steps": 20})}
"""On how many images, with which parameters. eotpgd, upgd, vmifgsm, pifgsm, apgdt and fab break all as well, and
only take longer. The exceptions, of those that differentiate: fgsm, rfgsm and ffgsm take a single step; nifgsm,
sinifgsm, vnifgsm, difgsm, tifgsm and pifgsmpp look ahead, resize, smooth or damp their gradients so that the
examples carry over to other nets; jitter draws noise onto the outputs; tpgd never sees the label; pgdrs attacks a
net that adds noise of standard deviation 0.5."""


def craft(method: str, net: nn.Module, x: Tensor, y: Tensor, eps: float, classes: int, **params) -> Crafted:
    threat = ThreatModel(eps=eps)
    return craft_batch(net, make_attack(resolve_params(method, threat, params), classes), x, y, threat, seed=11)


def alone(attack: torchattacks.attack.Attack, x: Tensor, y: Tensor) -> Tensor:
    """Attack one image x [1, ...] by itself, beside copies of it that make up a group, on one draw for all of them."""
    seed_everything(11)
    torch.randint(2**31 - 1, ())  # the adapter's draw, for attacks that seed themselves
    with Common():
        return attack(x.repeat(SIZE, 1, 1, 1), y.repeat(SIZE))[:1]


@pytest.mark.parametrize("eps", [2 / 255, 8 / 255, 0.3])
@pytest.mark.parametrize("method", THEIRS)
def test_equals_torchattacks_called_directly(method: str, eps: float, victim) -> None:
    crafted = craft(method, victim.net, victim.x, victim.y, eps, 5)
    steps = {} if method == "fgsm" else {"steps": 10, "alpha": 2.5 * eps / 10}
    attack = THEIRS[method](victim.net, eps=eps, **steps)
    each = zip(victim.x.split(1), victim.y.split(1), strict=True)
    direct = torch.cat([alone(attack, x, y) for x, y in each])
    assert torch.equal(crafted.adversarial, project(direct, victim.x, ThreatModel(eps=eps)))
    assert not torch.equal(crafted.adversarial, victim.x)


def test_fgsm_equals_five_lines(victim) -> None:
    x = victim.x.clone().requires_grad_()
    nn.functional.cross_entropy(victim.net(x), victim.y).backward()
    expected = (x + 8 / 255 * x.grad.sign()).clamp(0, 1).detach()
    victim.net.zero_grad(set_to_none=True)
    crafted = craft("fgsm", victim.net, victim.x, victim.y, 8 / 255, 5)
    assert torch.equal(crafted.adversarial, expected)


@pytest.fixture(scope="module")
def undefended(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Tensor, Tensor]:
    """The released classifier, and 40 images of cifar10-mini that it gets right."""
    store: Path = tmp_path_factory.mktemp("store")
    net = resolve("none", "released", Store(store), mini.load("test").kind).pipeline.base
    images = mini.load("test").select(60, seed=0)
    x, y = next(iter(images.batches(60)))
    with torch.no_grad():
        right = net(x).argmax(1) == y
    return net, x[right][:40], y[right][:40]


@pytest.mark.parametrize("method", BREAKS_ALL)
def test_iterated_gradients_leave_nothing_of_an_undefended_net(method: str, undefended) -> None:
    net, x, y = undefended
    count, params = BREAKS_ALL[method]
    crafted = craft(method, net, x[:count], y[:count], 8 / 255, 10, **params)
    assert len(crafted.adversarial) == count
    assert crafted.linf.max() <= 8 / 255 + 1e-6
    with torch.no_grad():
        assert int((net(crafted.adversarial).argmax(1) == y[:count]).sum()) == 0
