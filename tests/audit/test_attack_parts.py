"""The parts that the checks of an attack are made of, against brute force, closed forms and reference solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo_attacks as zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ismn_cli.attacks.evasion import look
from ismn_cli.attacks.objectives import ce, margin
from ismn_cli.attacks.params import resolve_params
from ismn_cli.audit.case import Case, read
from ismn_cli.audit.effort import RESTARTS, STEPS, once, one_step, parameter, resized, twice
from ismn_cli.audit.path import Watched
from ismn_cli.audit.path_checks import movement
from ismn_cli.audit.planted import INSIDE, corners, inside, rescaled, surface
from ismn_cli.audit.readout import Binarised, features_of, fit
from ismn_cli.audit.still import Still, varies
from ismn_cli.audit.tolerance import fewer_than, graded, more_than
from ismn_cli.core.attack_catalogue import ATTACKS
from ismn_cli.core.findings import Verdict
from ismn_cli.core.specs import AttackSpec, Norm, ThreatModel
from ismn_cli.engine.ball import distances
from ismn_cli.engine.counting import Counted
from ismn_cli.engine.craft import craft_batch
from ismn_models.pipeline import Reading, Surrogate

THREAT = ThreatModel(eps=0.05)
METHODS = st.sampled_from(sorted(ATTACKS))


def guarded(net: nn.Module) -> Surrogate:
    """Return ``net`` behind a detector of dark images."""
    return Surrogate(net, lambda x: Reading(net(x), 0.45 - x.flatten(1).mean(1)), cost=3)


def apart(n: int, seed: int) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


# The path


@given(st.integers(2, 6), st.integers(0, 999), st.data())
@settings(max_examples=30, deadline=None)
def test_every_point_is_matched_to_its_image_whatever_was_dropped_or_shuffled(
    n: int, seed: int, data: st.DataObject
) -> None:
    net = zoo.plain().net
    x, y = apart(n, seed), torch.arange(n) % zoo.CLASSES
    watched = Watched(net, x, y, THREAT)
    told: list[tuple[int, float, float]] = []
    for step in range(3):
        who = torch.tensor(data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))])
        noise = 2 * torch.rand(len(who), 3, 8, 8, generator=torch.Generator().manual_seed(step)) - 1
        points = (x[who] + THREAT.eps * noise).clamp(0, 1)
        logits = watched(points).detach()
        told += zip(who.tolist(), ce(logits, y[who]).tolist(), margin(logits, y[who]).tolist(), strict=True)
    steps = watched.steps
    assert list(zip(steps.who.tolist(), steps.ce.tolist(), steps.margin.tolist(), strict=True)) == told
    assert watched.ambiguous == 0


def test_what_lies_outside_the_ball_or_comes_in_copies_is_on_no_path() -> None:
    net, x, y = zoo.plain().net, apart(4, 0), torch.arange(4)
    watched = Watched(net, x, y, THREAT)
    watched((x + 0.2).clamp(0, 1))
    watched(x.repeat(3, 1, 1, 1))
    watched(x[:, :1].expand(-1, 3, -1, -1)[:0])
    assert not len(watched.steps.who)
    assert watched.shown == 4 + 12


def test_images_too_near_to_each_other_are_matched_in_full_batches_only() -> None:
    x = apart(1, 0).repeat(3, 1, 1, 1)
    watched = Watched(zoo.plain().net, x, torch.arange(3), THREAT)
    watched(x)
    assert watched.steps.who.tolist() == [0, 1, 2] and not watched.ambiguous
    watched(x[1:])
    assert len(watched.steps.who) == 3 and watched.ambiguous == 2


def test_a_detector_is_seen_through_and_counts() -> None:
    small = zoo.plain()
    model = guarded(small.net)
    watched = Watched(model, small.x, small.y, THREAT)
    counted = Counted(watched)
    reading, direct = counted.look(small.x), model.look(small.x)
    assert torch.equal(reading.logits, direct.logits)
    assert reading.margin is not None and direct.margin is not None and torch.equal(reading.margin, direct.margin)
    assert counted.forwards == 3 * len(small.x)
    assert watched.guarded
    dark = watched.x - watched.x + 0.1
    blind = Watched(model, dark, (small.net(dark).argmax(1) + 1) % zoo.CLASSES, THREAT)
    blind(dark)
    assert blind.steps.fooled.all() and not blind.guarded, "the detector was not asked"
    blind.look(dark)
    assert not blind.steps.fooled[len(dark) :].any(), "the detector flags what is dark"


@pytest.mark.parametrize("method", ["pgd", "pgd-ensemble", "square", "cw-search"])
def test_attacks_return_the_same_watched_or_not(method: str) -> None:
    small = zoo.hardened()
    norm = ATTACKS[method].norms[0]
    params = {"n_queries": 30} if method == "square" else {"steps": 4}
    spec = resolve_params(method, ThreatModel(norm=norm, eps=0.05), params)
    case = Case(guarded(small.net), spec, small.x[:8], small.y[:8], zoo.CLASSES, "net")
    from ismn_cli.attacks.adapter import make_attack
    from ismn_cli.engine.rng import derive

    who = case.attacked
    attack, seed = make_attack(spec, zoo.CLASSES), derive(0, spec.key(), 0)
    bare = craft_batch(case.model, attack, case.x[who], case.y[who], spec.threat, seed, together=True)
    assert torch.equal(bare.adversarial, case.base.images)
    assert len(case.base.paths[0].steps.who) > 0


# The movement of a loss


def test_movement_has_its_closed_forms() -> None:
    assert movement(torch.ones(30)) == 0
    assert movement(torch.arange(101.0)) == pytest.approx(0.09), "ten points of a straight line: nine of its steps"
    assert movement(torch.arange(11.0)) == pytest.approx(0.4), "a short path is looked at over its second half"
    assert movement(torch.cat([torch.arange(20.0), 19 - torch.arange(20.0)])) == 0, "what falls is at rest"
    assert movement(torch.tensor([0.0, 1.0] * 20)) == 0, "best so far"


@given(st.lists(st.floats(-100, 100), min_size=4, max_size=60), st.floats(0.1, 10), st.floats(-5, 5))
def test_movement_does_not_depend_on_the_unit_of_the_loss(values: list[float], scale: float, shift: float) -> None:
    loss = torch.tensor(values, dtype=torch.float64)
    if float(loss.max() - loss.min()) > 1e-3:
        assert movement(scale * loss + shift) == pytest.approx(movement(loss), abs=1e-6)
    assert 0 <= movement(loss) <= 1


# The same attack, more or larger


@given(METHODS, st.floats(0.01, 0.5), st.floats(0.01, 1))
def test_a_resized_default_is_the_default_of_that_size(method: str, eps: float, other: float) -> None:
    norm = ATTACKS[method].norms[0]
    spec = resolve_params(method, ThreatModel(norm=norm, eps=eps), {})
    wanted = resolve_params(method, ThreatModel(norm=norm, eps=other), {})
    found = resized(spec, other)
    assert found.threat == wanted.threat
    assert found.params == pytest.approx(wanted.params)


@given(METHODS, st.floats(0.01, 0.5))
def test_twice_the_steps_keep_the_rule_of_the_step_size(method: str, eps: float) -> None:
    spec = resolve_params(method, ThreatModel(norm=ATTACKS[method].norms[0], eps=eps), {})
    for names in (STEPS, RESTARTS):
        name = parameter(spec, names)
        if name is not None:
            wanted = resolve_params(method, spec.threat, {name: 2 * int(str(spec.params[name]))})
            assert twice(spec, name).params == pytest.approx(wanted.params)


def test_a_step_size_that_was_chosen_stays_as_it_is() -> None:
    spec = resolve_params("pgd", ThreatModel(eps=0.1), {"alpha": 0.003, "steps": 7})
    assert twice(spec, "steps").params == {"alpha": 0.003, "steps": 14, "random_start": True}
    assert resized(spec, 0.2).params["alpha"] == pytest.approx(0.006)
    assert resized(spec.model_copy(update={"eot": 9}), 0.2).eot == 9


def test_what_takes_one_step_is_known() -> None:
    single = {name for name, entry in ATTACKS.items() if one_step(AttackSpec(method=name, threat=_threat(entry.norms)))}
    assert single == {"fgsm", "rfgsm", "ffgsm"}
    assert once(resolve_params("apgd", THREAT, {"n_restarts": 3})).params["n_restarts"] == 1


def _threat(norms: tuple[Norm, ...]) -> ThreatModel:
    return ThreatModel(norm=norms[0], eps=0.1)


def test_only_controls_are_expected_nothing_of() -> None:
    nothing = {name for name, entry in ATTACKS.items() if entry.expects is None}
    assert nothing == {"gn", "uniform-noise", "gaussian-noise"}
    assert all(0 < entry.expects < 1 for entry in ATTACKS.values() if entry.expects is not None)


# Tolerances


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.01, 0.99))
def test_tolerances_are_exact_binomial_tails(hits: int, total: int, share: float) -> None:
    from math import comb

    hits = min(hits, total)
    chances = [comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(total + 1)]
    above, below = sum(chances[hits:]), sum(chances[: hits + 1])
    if abs(above - 0.05) > 1e-9 and abs(below - 0.05) > 1e-9:
        assert more_than(hits, total, share) is (above <= 0.05)
        assert fewer_than(hits, total, share) is (below <= 0.05)
    assert (graded(hits, total, share) is Verdict.PASS) is (hits == 0)


# Held still


def test_a_model_held_still_answers_each_image_alone_and_leaves_the_generators() -> None:
    small = zoo.plain()
    model = Still(zoo.Noisy(small.net, 0.1), 3)
    state = torch.get_rng_state()
    whole = model(small.x)
    assert torch.equal(state, torch.get_rng_state())
    order = torch.randperm(len(small.x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(small.x[order]), whole[order])
    assert torch.equal(model(small.x[5:6]), whole[5:6])
    assert not torch.equal(Still(model.system, 4)(small.x), whole)


def test_randomness_is_noticed() -> None:
    small = zoo.plain()
    assert varies(zoo.Noisy(small.net, 0.1), small.x)
    assert not varies(small.net, small.x)
    assert not varies(Still(zoo.Noisy(small.net, 0.1), 0), small.x)


# Planted points


@given(st.sampled_from(list(Norm)), st.floats(0.01, 0.6), st.integers(0, 99), st.booleans())
@settings(max_examples=40, deadline=None)
def test_planted_points_lie_where_they_should(norm: Norm, eps: float, seed: int, edge: bool) -> None:
    threat = ThreatModel(norm=norm, eps=eps)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 8, 8, generator=generator)
    x = x.round() if edge else x
    at = 0 if norm is Norm.LINF else 1
    within, outer = inside(x, 20, threat, generator), surface(x, 20, threat, generator)
    assert torch.equal(within[0], x)
    assert float(distances(within, x[None])[at].max()) <= INSIDE * eps + 1e-5
    assert torch.allclose(distances(outer, x[None])[at], torch.full((20,), eps), atol=1e-5)
    for points in (within, outer):
        assert float(points.min()) >= 0 and float(points.max()) <= 1
    far = corners(x, 20, threat, generator)
    moved = (far - x).abs()
    if norm is Norm.L2:
        assert len(far) == 0
        return
    ends = [(moved - torch.minimum(torch.tensor(eps), room)).abs() < 1e-6 for room in (x, 1 - x)]
    assert bool((ends[0] | ends[1]).all()), "every pixel goes as far as eps and the box let it"


def test_a_box_too_small_for_eps_is_filled() -> None:
    threat = ThreatModel(norm=Norm.L2, eps=1.0)
    origin = torch.full((1, 1, 1, 1), 0.5)
    assert float(rescaled(origin, torch.ones(1, 1, 1, 1), threat)) == 1


# The readout


def test_the_readout_separates_and_spans_one() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 100, generator=generator) * 7 + 30
    marks = torch.arange(60) == 59
    found = fit(features, marks)
    assert found is not None
    weight, bias = found
    score = features @ weight + bias
    assert torch.equal(score > 0, marks)
    assert 2 * float(score.abs().max()) == pytest.approx(1, abs=1e-3)


def test_the_readout_of_an_inseparable_problem_is_none_and_finds_the_maximum_likelihood() -> None:
    import statsmodels.api as sm

    from ismn_cli.audit.readout import _minimise

    generator = np.random.default_rng(0)
    points = generator.normal(size=(200, 3))
    marks = generator.random(200) < 1 / (1 + np.exp(-points @ [1.0, -2.0, 0.5] - 0.3))
    assert fit(torch.tensor(points), torch.tensor(marks)) is None
    reference = sm.Logit(marks, sm.add_constant(points)).fit(disp=False).params
    ours = _minimise(torch.tensor(points), 2.0 * torch.tensor(marks).double() - 1)
    assert ours.tolist() == pytest.approx([*reference[1:], reference[0]], abs=1e-4)


def test_features_are_what_goes_into_the_layer_that_answers() -> None:
    small = zoo.plain()
    features = features_of(small.net, small.x[:2])
    assert features is not None
    assert torch.allclose(features(small.x), small.net[:3](small.x))
    last = small.net[3]
    two = Binarised(features, last.weight[1], last.bias[1])
    assert torch.allclose(two(small.x)[:, 1], small.net(small.x)[:, 1], atol=1e-5)
    assert torch.equal(two(small.x)[:, 0], -two(small.x)[:, 1])


def test_no_readout_without_a_linear_layer_that_answers() -> None:
    x = apart(2, 0)
    assert features_of(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), x) is None
    assert features_of(nn.Sequential(zoo.plain().net, nn.Softmax(1)), x) is None


def test_features_keep_the_detector_and_its_draws() -> None:
    small = zoo.plain()
    features = features_of(guarded(small.net), small.x[:2])
    assert features is not None
    margin_of = look(features, small.x).margin
    assert margin_of is not None and torch.equal(margin_of, 0.45 - small.x.flatten(1).mean(1))
    held = features_of(Still(zoo.Noisy(small.net, 0.1), 3), small.x[:2])
    assert isinstance(held, Still) and held.seed == 3
    assert torch.equal(read(held, small.x, 0).logits, read(held, small.x, 1).logits)


