from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from ismn_cli.attacks.adapter import make_attack
from ismn_cli.attacks.ascent import ORDER, Settings
from ismn_cli.attacks.evasion import EVASIONS, closeness, succeeded, units_of
from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.errors import UsageError
from ismn_cli.core.specs import Norm, ThreatModel
from ismn_cli.engine.averaged import Averaged
from ismn_cli.engine.ball import distances
from ismn_cli.engine.counting import Counted
from ismn_cli.engine.craft import Attack, Proposed, craft_batch
from ismn_models.pipeline import Reading, Surrogate

EPS = 0.1
BEYOND = 1e9
"""A confidence that nothing reaches: no sample leaves."""
PIXELS = 48


def ensemble(classes: int = 5, norm: Norm = Norm.LINF, eps: float = EPS, **params: object) -> Attack:
    return make_attack(resolve_params("pgd-ensemble", ThreatModel(norm=norm, eps=eps), params), classes)


def attack(model: nn.Module, x: Tensor, y: Tensor, seed: int = 0, **options: object) -> Proposed:
    torch.manual_seed(seed)
    return ensemble(**options)(model, x, y)


class Linear(nn.Module):
    """Class 1 where w . (x - 1/2) > 0, in two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.randn(PIXELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        z = (x - 0.5).flatten(1).double() @ self.w
        return torch.stack([-z, z], 1)

    def at(self, shares: list[float]) -> Tensor:
        """Return images of class 0 whose L-inf distance from the boundary is each share of `EPS`."""
        away = -torch.tensor(shares, dtype=torch.float64)[:, None] * EPS * self.w.sign()
        return (0.5 + away).view(-1, 3, 4, 4).float()


LINEAR = Linear()


def test_settings_are_those_of_the_catalogue() -> None:
    entry = ATTACKS["pgd-ensemble"]
    assert [f.name for f in dataclasses.fields(Settings)] == list(entry.defaults)
    assert set(entry.choices["loss"]) == {"all", *ORDER}
    assert set(entry.choices["detector"]) == {"all", *EVASIONS}


@pytest.mark.parametrize("norm", list(Norm))
def test_one_run_is_a_loop_of_projected_steps(norm: Norm, victim) -> None:
    """Five lines, on samples that the attack cannot break and whose loss rises all the way."""
    eps = 0.02 if norm is Norm.LINF else 0.05
    x, expected = victim.x, victim.x
    for step in range(4):
        leaf = expected.clone().requires_grad_()
        loss = nn.functional.cross_entropy(victim.net(leaf), victim.y, reduction="sum")
        (g,) = torch.autograd.grad(loss, leaf)
        g = g.sign() if norm is Norm.LINF else g / g.flatten(1).norm(dim=1)[:, None, None, None]
        delta = expected + eps / 4 * (1 - step / 4) * g - x
        if norm is Norm.LINF:
            delta = delta.clamp(-eps, eps)
        else:
            delta = delta * (eps / delta.flatten(1).norm(dim=1)).clamp_max(1)[:, None, None, None]
        expected = (x + delta).clamp(0, 1)
    found = attack(victim.net, x, victim.y, loss="ce", steps=4, random_start=False, norm=norm, eps=eps)
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-6)


def test_a_sample_leaves_at_the_step_that_breaks_it() -> None:
    """On a linear model with steps s_1, s_2 ... the boundary is passed at a step that can be told beforehand."""
    steps, shares = 8, [-0.5, 0.2, 0.4, 0.7, 0.9, 1.5]
    counted = Counted(LINEAR)
    x, y = LINEAR.at(shares), torch.zeros(len(shares), dtype=torch.int64)
    found = attack(counted, x, y, loss="margin", steps=steps, random_start=False, classes=2)
    lengths = [sum(0.25 * (1 - i / steps) for i in range(n)) for n in range(steps + 1)]
    looks = [next((n for n, length in enumerate(lengths) if length > share), steps) + 1 for share in shares]
    assert looks[0] == 1 and looks[-1] == steps + 1 and len(set(looks)) > 4
    assert counted.forwards == sum(looks)
    # Those that leave at a step are in its gradient still if another has to go on from there.
    assert counted.backwards <= sum(looks)
    assert succeeded(Reading(LINEAR(found.images)), y).tolist() == [True] * 5 + [False]
    for image, clean, share, n in zip(found.images, x, shares, looks, strict=True):
        expected = min(1.0, lengths[n - 1]) if share < 1 else 1.0
        assert (image - clean).abs().max() == pytest.approx(EPS * expected, abs=1e-6)


def test_what_is_wrong_already_costs_one_look() -> None:
    counted = Counted(LINEAR)
    x = LINEAR.at([-0.5, -0.1])
    found = attack(counted, x, torch.zeros(2, dtype=torch.int64), classes=2)
    assert (counted.forwards, counted.backwards) == (2, 0)
    assert torch.equal(found.images, x)


@pytest.mark.parametrize(("classes", "runs"), [(2, 4), (3, 6), (5, 7)])
def test_what_cannot_be_broken_costs_every_run_once(classes: int, runs: int) -> None:
    """margin, scaled-ce, ce, dlr from three classes, and up to three targets; the clean look serves the first."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes)).requires_grad_(False)
    x = torch.rand(3, 3, 4, 4)
    net[1].bias[0] += 100
    counted = Counted(net)
    y = torch.zeros(3, dtype=torch.int64)
    attack(counted, x, y, steps=5, restarts=2, classes=classes)
    assert counted.forwards == 2 * runs * 3 * 6
    assert counted.backwards == 2 * runs * 3 * 5


class Guarded(nn.Module):
    """A curved classifier behind a curved detector; remembers all it was shown, and by whom."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 24), nn.Tanh(), nn.Linear(24, 5)).double()
        self.detector = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 24), nn.Tanh(), nn.Linear(24, 1)).double()
        self.requires_grad_(False)
        self.x = torch.rand(8, 3, 4, 4, dtype=torch.float64)
        self.y = self.net(self.x).argmax(1)
        self.threshold = self.detector(self.x).max() + 0.05
        self.seen: list[Tensor] = []

    def read(self, x: Tensor) -> Reading:
        self.seen.append(x.detach().clone())
        return Reading(self.net(x), self.detector(x)[:, 0] - self.threshold)


def test_the_iterate_nearest_to_success_is_kept() -> None:
    """By brute force over all that the model was shown."""
    model = Guarded()
    surrogate = Surrogate(model, model.read)
    found = attack(surrogate, model.x, model.y, confidence=BEYOND, steps=6)
    shown = list(model.seen)
    units = units_of(surrogate.look(model.x))
    with torch.no_grad():
        near = torch.stack([closeness(surrogate.look(images), model.y, units) for images in shown])
        best = closeness(surrogate.look(found.images), model.y, units)
    assert torch.equal(best, near.amax(0))
    assert not torch.equal(best, near[-1])
    assert distances(found.images, model.x)[0].max() <= EPS + 1e-9


@pytest.mark.parametrize("evasion", EVASIONS)
@pytest.mark.parametrize("flags", [True, False])
def test_a_wrong_answer_is_a_success_only_in_silence(flags: bool, evasion: str) -> None:
    def read(x: Tensor) -> Reading:
        return Reading(LINEAR(x), x.flatten(1).double().mean(1) + (1 if flags else -2))

    counted = Counted(Surrogate(LINEAR, read))
    x, y = LINEAR.at([0.1]), torch.zeros(1, dtype=torch.int64)
    options = {"loss": "margin", "steps": 6, "random_start": False, "classes": 2}
    found = attack(counted, x, y, detector=evasion, **options)
    assert counted.forwards == (7 if flags else 2)
    assert flags or LINEAR(found.images).argmax(1) == 1


def test_a_samples_result_does_not_depend_on_the_others() -> None:
    """In float64, where the order of a sum leaves no trace."""
    model = Guarded()
    surrogate = Surrogate(model, model.read)
    options = {"steps": 3, "restarts": 2, "eps": 0.2}
    together = attack(surrogate, model.x, model.y, **options).images
    others_fall = torch.where(torch.arange(8) < 3, model.y, (model.y + 1) % 5)
    apart = attack(surrogate, model.x, others_fall, **options).images
    torch.testing.assert_close(apart[:3], together[:3], rtol=0, atol=1e-12)
    assert torch.equal(apart[3:], model.x[3:])
    still = {**options, "random_start": False}
    whole = attack(surrogate, model.x, model.y, **still).images
    for i in (0, 3, 7):
        alone = attack(surrogate, model.x[i : i + 1], model.y[i : i + 1], **still).images
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=1e-12)


class Seen(Linear):
    """Keeps the sizes of the batches that it sees, and fails on images that are marked."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if bool((x[:, 0, 0, 0] == 0).any()):
            raise ValueError
        return super().forward(x)


def test_what_holds_makes_whole_groups_again() -> None:
    """Of four groups the half falls in the first run: the runs after it meet two."""
    net, runs, steps = Seen(), 4, 3
    x, y = net.at([0.4, 2.0] * 16), torch.zeros(32, dtype=torch.long)
    made = ensemble(classes=2, loss="ce", steps=steps, restarts=runs, alpha=EPS)
    crafted = craft_batch(net, made, x, y, ThreatModel(eps=EPS), 0)
    # In the first run half of each group falls on the way.
    assert net.sizes == [8, 8, 4, 4] * 4 + [8] * (2 * (runs - 1) * (steps + 1))
    assert len(net.sizes) == (4 + 2 * (runs - 1)) * (steps + 1)
    alone = [craft_batch(net, made, x[i : i + 1], y[:1], ThreatModel(eps=EPS), 0).adversarial for i in range(len(x))]
    assert torch.equal(crafted.adversarial, torch.cat(alone))


def test_a_crash_costs_its_own_group_only() -> None:
    net = Seen()
    x, y = net.at([2.0] * 24), torch.zeros(24, dtype=torch.long)
    x[10, 0, 0, 0] = 0
    made = ensemble(classes=2, loss="ce", steps=2)
    crafted = craft_batch(net, made, x, y, ThreatModel(eps=EPS), 0)
    assert crafted.failed.tolist() == [True] * 12 + [False] * 12
    assert crafted.notes == ("the attack crashed on 12 samples: ValueError",)


def test_restarts_and_seeds_start_elsewhere() -> None:
    model = Guarded()
    surrogate = Surrogate(model, model.read)
    options = {"loss": "ce", "detector": "ignore", "steps": 1, "confidence": BEYOND, "restarts": 3}
    attack(surrogate, model.x, model.y, **options)
    # Clean and the end of the first run, then start and end of the two others.
    assert len(model.seen) == 6
    first = torch.stack(model.seen)
    assert torch.equal(first[0], model.x)
    assert len({float(images.sum()) for images in first}) == 6
    model.seen.clear()
    attack(surrogate, model.x, model.y, seed=1, **options)
    assert not torch.equal(torch.stack(model.seen)[2], first[2])


def test_saturated_logits_hide_nothing(victim) -> None:
    """Defensive distillation at T = 100: the cross-entropy has no gradient, and says so; others do."""

    class Sharp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3000 * victim.net(x)

    left = {}
    for loss in ("ce", "scaled-ce", "all"):
        threat = ThreatModel(eps=0.3)
        crafted = craft_batch(Sharp(), ensemble(loss=loss, eps=0.3), victim.x, victim.y, threat, 0)
        left[loss] = (victim.net(crafted.adversarial).argmax(1) == victim.y).float().mean().item()
        assert bool(crafted.notes) == (loss == "ce")
        if loss == "ce":
            assert crafted.notes == ("zero gradient on 20 samples (ce)",)
    assert left["ce"] > 0.5
    assert left["scaled-ce"] == left["all"] == 0


def test_a_model_without_gradients_is_told_apart_from_a_robust_one(victim) -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return victim.net(x.detach())

    crafted = craft_batch(Opaque(), ensemble(), victim.x, victim.y, ThreatModel(eps=EPS), 0)
    assert crafted.failed.all()
    assert len(crafted.notes) == 1 and "gradient" in crafted.notes[0]


@pytest.mark.parametrize("clean", [True, False])
def test_nan_is_never_the_best(clean: bool) -> None:
    """Whether it is the clean image that gives NaN, or every other."""

    class Brittle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            moved = (x - start).abs().amax((1, 2, 3)) > 0
            return LINEAR(x) + torch.where(moved == clean, 0.0, torch.nan)[:, None]

    start = LINEAR.at([1.5])
    found = attack(Brittle(), start, torch.zeros(1, dtype=torch.int64), classes=2, steps=2).images
    assert found.isfinite().all()
    assert torch.equal(found, start) != clean


def test_dlr_needs_three_classes() -> None:
    with pytest.raises(UsageError, match="at least 3"):
        ensemble(classes=2, loss="dlr")
    ensemble(classes=3, loss="dlr")


def test_a_detector_costs_nothing_where_there_is_none() -> None:
    x, y = LINEAR.at([1.5]), torch.zeros(1, dtype=torch.int64)
    counts = set()
    for detector in ("all", *EVASIONS):
        counted = Counted(LINEAR)
        attack(counted, x, y, classes=2, detector=detector, steps=3)
        counts.add((counted.forwards, counted.backwards))
    assert len(counts) == 1


def test_confidence_goes_past_the_boundary() -> None:
    x, y = LINEAR.at([0.3, 0.5]), torch.zeros(2, dtype=torch.int64)
    given = {"classes": 2, "steps": 20, "random_start": False}
    barely, well = (attack(LINEAR, x, y, confidence=confidence, **given).images for confidence in (0.0, 0.5))
    unit = LINEAR(x).amax(1) - LINEAR(x).amin(1)

    def lead(images: Tensor) -> Tensor:
        return (LINEAR(images)[:, 1] - LINEAR(images)[:, 0]) / unit

    assert (lead(well) > 0.5).all()
    assert (lead(barely) > 0).all()
    assert (lead(barely) <= lead(well)).all() and (lead(barely) < lead(well)).any()


def test_on_averages_a_sample_goes_past_the_boundary_by_itself() -> None:
    x, y = LINEAR.at([0.3, 0.5]), torch.zeros(2, dtype=torch.int64)
    plain = Surrogate(LINEAR, lambda images: Reading(LINEAR(images)))
    barely, well = (attack(model, x, y, classes=2, steps=20).images for model in (plain, Averaged(plain, 3)))
    unit = LINEAR(x).amax(1) - LINEAR(x).amin(1)
    leads = [(LINEAR(images)[:, 1] - LINEAR(images)[:, 0]) / unit for images in (barely, well)]
    assert (leads[0] > 0).all() and (leads[0] < 0.5).any()
    assert (leads[1] > 0.5).all()


def test_falling_steps_end_nearer_to_the_optimum() -> None:
    """Why alpha falls: at a constant step size the iterate keeps jumping across a maximum."""

    class Peak(nn.Module):
        """Nearest to class 1 at one point in the ball, which it never reaches."""

        def forward(self, x: Tensor) -> Tensor:
            far = (x - 0.5 - 0.37 * EPS).abs().flatten(1).sum(1) + 1
            return torch.stack([far, torch.zeros_like(far)], 1)

    x, y = torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64)
    found = attack(Peak(), x, y, classes=2, loss="margin", random_start=False, steps=20).images
    assert ((found - 0.5) / EPS - 0.37).abs().max() < 0.06, "a constant eps/4 comes no nearer than 0.12"
