"""Attacks of the user's own: read from their signature, called as they want to be, pinned by their code."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.params import find_attack, resolve_params
from ismn_cli.core import references
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import AttackSpec, Norm, ThreatModel
from ismn_cli.engine.craft import Crafted, craft_batch

LINF, L2 = ThreatModel(eps=0.1), ThreatModel(norm=Norm.L2, eps=0.5)
CODE = '''
import torch, torchattacks
from torch.nn.functional import cross_entropy


def pgd(model, x, y, eps, steps: int = 4, alpha: float = 1, random_start=True):
    """Madry's.

    More of it.
    """
    point = x.clone()
    if random_start:
        point = (point + torch.empty_like(point).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        point.requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(model(point), y), point)
        point = x + (point.detach() + alpha * slope.sign() - x).clamp(-eps, eps)
        point = point.clamp(0, 1).detach()
    return point


class Mine(torchattacks.PGD):
    """A class."""


class Ranged(torchattacks.APGD):
    norms = ("linf", "l2")


class Nearest(torchattacks.DeepFool):
    norms = "l2"


def said(model, x, y, eps, norm="linf", rate=0.5, kind="steps", window=(1, 2), table={"a": 1}, maybe=None,
         loss=cross_entropy, far=float("inf"), lowest=-3, fast=False, *, only=2, **others):
    seen.append(dict(norm=norm, rate=rate, kind=kind, window=window, table=table, maybe=maybe, lowest=lowest,
                     fast=fast, only=only))
    return x


seen = []


def square(model, x, y, eps):
    return x


square.norms = ["l2"]
square.gradient = False


class Call:
    def __call__(self, net, images, labels, epsilon):
        return images


ready = Call()
number = 3


class Other:
    def __init__(self, model, eps=0.1):
        pass


def short(model, x):
    return x


def needy(model, x, y, eps, steps):
    return x


def strange(model, x, y, eps):
    return x


strange.norms = ("l0",)


def keywords(model, x, y, *, eps):
    return x
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "helper"):  # of another test
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 5)).eval()


X = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 5


def crafted(net: nn.Module, method: str, threat: ThreatModel = LINF, **params: Any) -> Crafted:
    spec = resolve_params(method, threat, params)
    x = X.to(memory_format=torch.channels_last)
    return craft_batch(net, make_attack(spec, 5), x, Y, threat, 3)


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("reference", ["mine.py:pgd", "mine.py:Mine"])
def test_pgd_written_again_gives_the_pixels_of_torchattacks(
    net: nn.Module, reference: str, random_start: bool
) -> None:
    own = crafted(net, reference, steps=5, alpha=0.03, random_start=random_start)
    theirs = crafted(net, "pgd", steps=5, alpha=0.03, random_start=random_start)
    assert torch.equal(own.adversarial, theirs.adversarial)
    assert not own.failed.any() and own.notes == theirs.notes == ()
    assert (own.forwards, own.backwards) == (theirs.forwards, theirs.backwards)
    assert bool((own.adversarial != X).any())


@pytest.mark.parametrize(
    ("reference", "built_in", "threat"),
    [("mine.py:Ranged", "apgd", LINF), ("mine.py:Ranged", "apgd", L2), ("mine.py:Nearest", "deepfool", L2),
     ("torchattacks:MIFGSM", "mifgsm", LINF)],
)  # fmt: skip
def test_a_class_of_torchattacks_is_given_what_its_built_in_is(
    net: nn.Module, reference: str, built_in: str, threat: ThreatModel
) -> None:
    params = {name: value for name, value in resolve_params(built_in, threat, {}).params.items() if name != "loss"}
    own, theirs = crafted(net, reference, threat, **params), crafted(net, built_in, threat, **params)
    assert torch.equal(own.adversarial, theirs.adversarial)
    assert own.failed.tolist() == theirs.failed.tolist()
    assert own.notes == ()


def test_parameters_come_from_the_signature() -> None:
    entry = find_attack("mine.py:pgd")
    assert entry.defaults == {"steps": 4, "alpha": 1.0, "random_start": True}
    assert isinstance(entry.defaults["alpha"], float)
    assert (entry.norms, entry.gradient, entry.summary) == ((Norm.LINF,), True, "Madry's.")
    entry = find_attack("mine.py:square")
    assert (entry.norms, entry.gradient, entry.defaults) == ((Norm.L2,), False, {})
    entry = find_attack("mine.py:Mine")
    assert set(entry.defaults) == {"alpha", "steps", "random_start"} and not entry.minimum_norm
    assert find_attack("mine.py:Nearest").minimum_norm
    assert set(find_attack("mine.py:said").defaults) == {
        "rate", "kind", "window", "table", "maybe", "lowest", "fast", "only",
    }  # fmt: skip
    assert find_attack("mine.py:ready").defaults == {}


def test_values_reach_the_attack_in_the_type_of_their_default(net: nn.Module) -> None:
    given = {"rate": "eps/4", "kind": "other", "window": [3, 4], "maybe": [1], "lowest": -7, "fast": "yes", "only": 5}
    crafted(net, "mine.py:said", L2, **given)
    (first, *_) = references.load_attribute("mine.py:said").__globals__["seen"]
    assert first == {
        "norm": "l2", "rate": 0.125, "kind": "other", "window": (3, 4), "table": {"a": 1}, "maybe": [1], "lowest": -7,
        "fast": True, "only": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "params", "says"),
    [
        ("mine.py:pgd", {"step": 3}, "no parameter step; did you mean 'steps'"),
        ("mine.py:pgd", {"steps": 2.5}, "2.5 is not a whole number"),
        ("mine.py:pgd", {"steps": "many"}, "'many' is not a number"),
        ("mine.py:pgd", {"random_start": 3}, "not true or false"),
        ("mine.py:said", {"kind": 3}, "3 is not a text"),
        ("mine.py:said", {"window": 3}, "3 is not a list"),
        ("mine.py:said", {"loss": "dlr"}, "no parameter loss"),
        ("mine.py:said", {"norm": "l2"}, "no parameter norm"),
        ("mine.py:ready", {"steps": 3}, "none besides eps"),
        ("mine.py:square", {}, "not in linf"),
        ("mine.py:strange", {}, "norms = \\('l0',\\)"),
        ("mine.py:needy", {}, "steps has no default"),
        ("mine.py:short", {}, "takes \\(model, x\\)"),
        ("mine.py:keywords", {}, "takes \\(model, x, y, \\*, eps\\)"),
        ("mine.py:Other", {}, "a class \\(Other\\), not an attack"),
        ("mine.py:number", {}, "a int, not an attack"),
        ("mine.py:pgdd", {}, "no 'pgdd' in mine.py"),
        ("mine.py", {}, "does not say which attack"),
        ("other.py:pgd", {}, "no file other.py"),
        ("pgdd", {}, "no attack called 'pgdd'"),
    ],
)
def test_bad_input_is_refused_before_torch_is_needed(reference: str, params: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        resolve_params(reference, LINF, params)
    assert raised.value.hint


def test_resolving_what_is_resolved_changes_nothing() -> None:
    for reference, threat in (("mine.py:pgd", LINF), ("mine.py:said", L2), ("mine.py:Ranged", L2)):
        spec = resolve_params(reference, threat, {})
        assert resolve_params(spec.method, spec.threat, spec.params) == spec
        assert AttackSpec.model_validate_json(spec.model_dump_json()) == spec


def test_changed_code_is_another_attack(here: Path) -> None:
    (here / "helper.py").write_text("STEP = 1\n")
    (here / "mine.py").write_text(f"from helper import STEP\n{CODE}")
    first = resolve_params("mine.py:pgd", LINF, {})
    assert len(first.code) == 64
    (here / "helper.py").write_text("STEP = 2\n")
    second = resolve_params("mine.py:pgd", LINF, {})
    (here / "mine.py").write_text(f"from helper import STEP\n{CODE}\n# more\n")
    third = resolve_params("mine.py:pgd", LINF, {})
    assert len({spec.key() for spec in (first, second, third)}) == 3
    make_attack(third, 5)
    with pytest.raises(UsageError, match="has changed since"):
        make_attack(first, 5)


def test_keys_of_ismns_own_attacks_are_what_they_were() -> None:
    spec = resolve_params("pgd", LINF, {"steps": 10, "alpha": 0.01})
    assert set(spec.model_dump(mode="json")) == {"method", "threat", "params", "eot"}
    assert spec.key() == "b2e257806c58dddbac191c293e0d7ef4137c48f462ffba8fd3e77be3775d5d08"


def test_an_installed_attack_goes_by_its_name(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("my-pgd", "mine:pgd", "ismn.attacks")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == "ismn.attacks" else [])
    assert torch.equal(crafted(net, "my-pgd").adversarial, crafted(net, "mine.py:pgd").adversarial)
    with pytest.raises(UsageError, match="my-pdg") as raised:
        find_attack("my-pdg")
    assert "my-pgd" in raised.value.hint
    assert not set(ATTACKS) & {"my-pgd"}


BAD = {
    "leaves the ball": ("return x + 0.2", "left the threat model on"),
    "leaves the box": ("return x - 0.05", "left the threat model on"),
    "nan": ("return x * float('nan')", "values that are not finite for 20 samples"),
    "shape": ("return x[:, :1]", r"returned float32 \[8, 1, 4, 4\] for images \[8, 3, 4, 4\]"),
    "fewer": ("return x[1:]", "the attack returned"),
    "nothing": ("pass", "returned NoneType"),
    "pair": ("return x, y", "returned tuple"),
    "bytes": ("return (x * 255).byte()", "returned uint8"),
    "raises": ("raise KeyError('<b>')", "crashed on 20 samples: KeyError: '<b>'"),
    "exits": ("raise SystemExit(3)", "crashed on 20 samples: RuntimeError: it ends the program"),
    "deep": ("return attack(model, x, y, eps)", "RecursionError"),
    "writes x": ("return x.mul_(0.99)", "wrote into the images or labels that it was given on 20 samples"),
    "writes y": ("y.zero_(); return x", "wrote into the images or labels that it was given on 16 samples"),
    "weights": ("list(model.parameters())[0].data.add_(1); return x", "changed the model's weights"),
    "train": ("model.train(); return x", "left the model in training mode"),
    "threads": ("import torch; torch.set_num_threads(7); return x", "changed torch's number of threads"),
}


@pytest.mark.parametrize(("body", "says"), BAD.values(), ids=BAD)
def test_each_way_to_go_wrong_has_its_name(net: nn.Module, here: Path, body: str, says: str) -> None:
    (here / "bad.py").write_text(f"def attack(model, x, y, eps):\n    {body}\n")
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = crafted(net, "bad.py:attack")
    # Labels of 0 are as they were, and some images are bright enough to be darkened.
    expected = Y != 0 if "y.zero_" in body else X.flatten(1).amin(1) < 0.05 - 1e-4 if "x - " in body else Y >= 0
    assert torch.equal(found.failed, expected)
    assert torch.equal(found.adversarial[found.failed], X[found.failed])
    assert [note for note in found.notes if re.search(says, note)], found.notes
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_memory_that_is_used_again_does_not_reach_what_was_returned(net: nn.Module, here: Path) -> None:
    (here / "reused.py").write_text(
        "kept = []\n"
        "def attack(model, x, y, eps):\n"
        "    kept.append(x.clone()) if not kept else kept[0].copy_(x)\n"
        "    return kept[0]\n"
    )
    found = crafted(net, "reused.py:attack")
    assert torch.equal(found.adversarial, X) and not found.failed.any()


def test_a_seed_of_its_own_is_told_and_stays_its_own(net: nn.Module, here: Path) -> None:
    (here / "seeded.py").write_text("import torch\ndef attack(m, x, y, e):\n    torch.manual_seed(1)\n    return x\n")
    before = torch.get_rng_state()
    found = crafted(net, "seeded.py:attack")
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.failed.any()
    assert found.notes == ("the attack seeds torch's generator itself: its draws do not follow the run's seed",)
    assert crafted(net, "mine.py:Ranged").notes == ()  # torchattacks' own does, with the seed that it is given
