"""ISMN: shapes, weight counts, the detector's transform, the losses' algebra, routing and the regeneration loop."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import Tensor, nn

from ismn_models.dct_detector import fit_linear_svm
from ismn_models.images import Images
from ismn_models.ismn import losses
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.defence import Ismn
from ismn_models.ismn.detector import Detector, fit_ridge
from ismn_models.ismn.mixture import attack_mixture
from ismn_models.ismn.nets import Discriminator, Encoder, PlainGenerator, SkipGenerator
from ismn_models.ismn.system import build
from ismn_models.ismn.training import DetectorStage, MappingStage, TargetStage, stages
from ismn_models.shape import Shape

SMALL = IsmnConfig(
    mapping_epochs=1, target_epochs=1, detector_images=16, gan_start=0, pgd_steps=2, at_steps=2, batch_size=8
)


class TinyNet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def images(n: int = 32, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(n) % 3)


def weights(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("size", "encoder", "skip", "plain"),
    [
        (32, 2_148_352, 1_885_347, 2_148_995),
        (128, 4_114_432, 3_866_787, 4_130_435),
        (512, 35_571_712, 35_569_827, 35_833_475),
    ],
)
def test_weight_counts(size: int, encoder: int, skip: int, plain: int) -> None:
    assert weights(Encoder(size)) == encoder
    assert weights(SkipGenerator(size)) == skip
    assert weights(PlainGenerator(size)) == plain
    assert weights(Discriminator()) == 1_029_505


@pytest.mark.parametrize("generator", ["skip", "plain"])
@pytest.mark.parametrize("size", [32, 64])
def test_shapes_and_range(generator: str, size: int) -> None:
    defence = Ismn(IsmnConfig(generator=generator), size)  # type: ignore[arg-type]
    x = torch.rand(2, 3, size, size)
    regenerated, code = defence.regenerate(x)
    _, maps = defence.encoder(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(64 << k, size >> k + 1, size >> k + 1) for k in range(3)]
    assert regenerated.shape == x.shape
    assert 0 <= regenerated.min() <= regenerated.max() <= 1
    assert code.shape == (2, 128)
    assert code.min() >= 0


def test_topk_code_keeps_the_largest() -> None:
    torch.manual_seed(0)
    full, sparse = Encoder(32), Encoder(32, keep=13)
    sparse.load_state_dict(full.state_dict())
    x = torch.rand(4, 3, 32, 32)
    dense, kept = full(x)[0], sparse(x)[0]
    assert ((kept > 0).sum(1) <= 13).all()
    for row, expected in zip(kept, dense, strict=True):
        assert row.sum().item() == pytest.approx(expected.sort(descending=True).values[:13].sum().item(), rel=1e-5)


@pytest.mark.parametrize(("size", "features"), [(32, 1024), (64, 1024)])
def test_detector_features(size: int, features: int) -> None:
    detector = Detector(size)
    x, r = torch.rand(2, 3, size, size), torch.rand(2, 3, size, size)
    raw = detector.raw_features(x, r)
    assert raw.shape == (2, features)
    if size == 32:
        gray = np.einsum("nchw,c->nhw", (x - r).numpy(), [0.299, 0.587, 0.114])
        expected = np.log(np.abs(dctn(gray, axes=(1, 2), norm="ortho")) + 1e-6)
        # A coefficient near zero keeps few digits in float32, and the logarithm shows it.
        np.testing.assert_allclose(raw, expected.reshape(2, -1), atol=0.02)


def test_svm_separates_what_can_be_separated() -> None:
    torch.manual_seed(0)
    attacked = torch.arange(200) % 2 == 0
    features = torch.randn(200, 6) + 4 * attacked[:, None] * torch.tensor([1.0, 0, 0, 0, 0, 0])
    direction, bias, measured = fit_linear_svm(features, attacked)
    assert ((features @ direction + bias > 0) == attacked).float().mean() > 0.95
    assert measured > 0.95
    assert direction.abs().argmax() == 0


def test_svm_on_noise_is_chance_in_cross_validation() -> None:
    torch.manual_seed(0)
    _, _, measured = fit_linear_svm(torch.randn(200, 50), torch.rand(200) > 0.5)
    assert 0.3 < measured < 0.7


def test_ridge_against_the_normal_equations() -> None:
    torch.manual_seed(0)
    features, target = torch.randn(50, 4), torch.rand(50)
    direction, bias = fit_ridge(features, target, penalty=2.0)
    centred = features - features.mean(0)
    gradient = centred.T @ (features @ direction + bias - target) + 2.0 * direction
    torch.testing.assert_close(gradient, torch.zeros(4), atol=1e-3, rtol=0)
    assert (features @ direction + bias).mean() == pytest.approx(target.mean().item(), abs=1e-4)


def test_equation_3_as_printed_has_no_lower_bound() -> None:
    """Why the square is restored: without it a larger output is always better."""
    x = torch.rand(4, 3, 8, 8)
    printed = [(x - output).mean().item() for output in (x, x + 10, x + 1000)]
    assert printed[0] > printed[1] > printed[2]
    squared = [losses.reconstruction(x, output).item() for output in (x, x + 10, x + 1000)]
    assert squared == sorted(squared)
    assert squared[0] == 0


def test_instance_sparsity_is_free_of_scale_and_zero_when_sparse() -> None:
    sparse = torch.zeros(3, 128)
    sparse[:, :10] = 5.0
    dense = torch.full((3, 128), 5.0)
    values = []
    for code in (sparse, sparse * 100, dense, dense * 100):
        values.append(losses.InstanceSparsity(0.1)(code).item())
    assert values[0] == values[1] == 0
    assert values[2] == pytest.approx(values[3]) == pytest.approx(0.81)


def test_guidance_is_zero_on_the_clean_image_and_reaches_the_pixels() -> None:
    net, x = TinyNet(), torch.rand(4, 3, 32, 32)
    assert losses.guidance(net, x, x) == 0
    moved = (x + 0.1).requires_grad_()
    losses.guidance(net, x, moved).backward()  # type: ignore[no-untyped-call]
    assert moved.grad is not None
    assert moved.grad.abs().sum() > 0


def test_mixture_draws_every_kind_and_stays_in_its_balls() -> None:
    torch.manual_seed(0)
    data = images(200)
    attacked, eps = attack_mixture(TinyNet().eval(), data.floats(), data.labels, SMALL)
    distance = (attacked - data.floats()).abs().flatten(1).amax(1)
    assert (distance <= eps + 1e-6).all()
    assert 0 <= attacked.min() <= attacked.max() <= 1
    assert 0.1 < (eps == 0).float().mean() < 0.4
    assert {round(v, 5) for v in eps.tolist()} == {0.0} | {round(v, 5) for v in SMALL.eps}


def fitted(config: IsmnConfig = SMALL) -> tuple[Ismn, TinyNet]:
    torch.manual_seed(0)
    defence = Ismn(config)
    for parameter in defence.generator.out.parameters():  # type: ignore[union-attr]
        nn.init.normal_(parameter, std=0.05)
    nn.init.normal_(defence.detector.suspicion.weight, std=0.1)
    return defence.eval(), TinyNet().eval()


def set_threshold(defence: Ismn, value: float) -> None:
    defence.threshold.fill_(value)


def test_silent_inputs_take_the_clean_route() -> None:
    defence, net = fitted()
    set_threshold(defence, 1e9)
    x = images(6).floats()
    decision = defence.decide(x, net)
    assert not decision.flagged.any()
    assert (decision.loops == 0).all()
    assert torch.equal(decision.logits, net(x))


@pytest.mark.parametrize("loops", [1, 2, 5])
def test_the_loop_ends(loops: int) -> None:
    defence, net = fitted(replace(SMALL, loops=loops))
    set_threshold(defence, -1e9)
    x = images(6).floats()
    decision = defence.decide(x, net)
    assert decision.flagged.all()
    assert not decision.rejected.any()
    assert (decision.loops == loops).all()


def reference_loop(defence: Ismn, x: Tensor) -> tuple[Tensor, int]:
    """The rule as it is written down, one image at a time."""
    regenerate = lambda v: defence.reform(v)  # noqa: E731
    if defence.score(x, TinyNet()) < defence.threshold:
        return x, 0
    history = []
    for k in range(1, defence.config.loops + 1):
        x = regenerate(x)
        again = regenerate(x)
        score = defence.detector(x, again)
        history.append((score.item(), x))
        rms = (x - again).square().mean().sqrt()
        if score < defence.threshold and rms <= defence.fixed_point:
            return x, k
    return min(history, key=lambda pair: pair[0])[1], defence.config.loops


def test_loop_and_routing_against_one_image_at_a_time() -> None:
    defence, net = fitted()
    x = images(24).floats()
    with torch.no_grad():
        scores = defence.score(x, net)
        set_threshold(defence, scores.median().item())
        defence.fixed_point.fill_(0.05)
        decision = defence.decide(x, net)
        for i in range(len(x)):
            cleaned, loops = reference_loop(defence, x[i : i + 1])
            assert decision.loops[i] == loops
            torch.testing.assert_close(decision.logits[i], net(cleaned)[0], atol=1e-4, rtol=1e-4)
    assert 0 < decision.flagged.float().mean() < 1


def test_detector_off_regenerates_everything() -> None:
    defence, net = fitted(replace(SMALL, off=("detector", "loop")))
    set_threshold(defence, 1e9)
    x = images(4).floats()
    decision = defence.decide(x, net)
    torch.testing.assert_close(decision.logits, net(defence.reform(x)))
    assert (decision.loops == 1).all()


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_threshold_gives_the_stated_false_positive_rate(rate: float) -> None:
    defence, net = fitted(replace(SMALL, false_positive_rate=rate))
    x = images(200).floats()
    defence.calibrate([x[:120], x[120:]], net)
    with torch.no_grad():
        # The same batches: a score may differ in its last bits between batch sizes.
        scores = torch.cat([defence.score(x[:120], net), defence.score(x[120:], net)])
    assert (scores >= defence.threshold).sum() == round(200 * rate)


def test_surrogates_are_differentiable() -> None:
    defence, net = fitted()
    for name, surrogate in defence.surrogates(net).items():
        x = images(2).floats().requires_grad_()
        (gradient,) = torch.autograd.grad(surrogate(x).logits.sum(), x)
        assert gradient.abs().sum() > 0, name


def test_gradients_pass_through_the_routing() -> None:
    defence, net = fitted()
    set_threshold(defence, -1e9)
    x = images(3).floats().requires_grad_()
    (gradient,) = torch.autograd.grad(defence.decide(x, net).logits.sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def run_stage(stage: MappingStage | TargetStage, data: Images, epochs: int = 1) -> list[float]:
    seen = []
    for epoch in range(epochs):
        stage.begin_epoch(epoch, data)
        for index in torch.arange(len(data)).split(stage.batch_size):
            seen.append(stage.step(data.floats(index), data.labels[index], index, 0.2)["loss"])
    return seen


def test_all_stages_run_and_the_base_stays_as_it_is() -> None:
    torch.manual_seed(0)
    data, base = images(32), TinyNet()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    pipeline = build(SMALL, Shape(3, 3), base)
    mapping, detector, target = stages(pipeline, SMALL)
    assert isinstance(mapping, MappingStage)
    assert isinstance(target, TargetStage)
    run_stage(mapping, data)
    assert "validation accuracy, attacked regenerated" in mapping.finish(data, data)
    assert set(detector.finish(data, data)) == {"detector accuracy", "level error"}
    assert pipeline.defence.threshold.isfinite()
    mapped = {k: v.clone() for k, v in pipeline.defence.state_dict().items()}
    run_stage(target, data)
    assert "validation accuracy" in target.finish(data, data)
    assert all(torch.equal(before[k], v) for k, v in base.state_dict().items())
    assert all(torch.equal(mapped[k], v) for k, v in pipeline.defence.state_dict().items())
    assert not torch.equal(pipeline.classifier.layer.weight, base.layer.weight)  # type: ignore[union-attr]


def test_mapping_learns_to_undo_attacks() -> None:
    torch.manual_seed(0)
    terms = ("gan", "second-pass", "guide", "instance-sparsity", "unit-sparsity")
    config = replace(SMALL, off=terms, mapping_lr=1e-3, refresh=100, eps=(0.3,), batch_size=16)
    smooth = torch.linspace(40, 200, 32).to(torch.uint8).expand(16, 3, 32, 32).contiguous()
    data = Images(smooth, torch.arange(16) % 3)
    stage = stages(build(config, Shape(3, 3), TinyNet()), config)[0]
    assert isinstance(stage, MappingStage)
    seen = run_stage(stage, data, epochs=40)
    assert np.mean(seen[-4:]) < 0.85 * np.mean(seen[:4])


@pytest.mark.parametrize(
    "part",
    ["guide", "gan", "instance-sparsity", "unit-sparsity", "second-pass", "adversarial-training", "distillation"],
)
def test_every_part_of_the_training_can_be_switched_off_and_matters(part: str) -> None:
    def trained(config: IsmnConfig) -> Tensor:
        torch.manual_seed(0)
        pipeline = build(config, Shape(3, 3), TinyNet())
        mapping, _, target = stages(pipeline, config)
        torch.manual_seed(1)
        assert isinstance(mapping, MappingStage)
        assert isinstance(target, TargetStage)
        run_stage(mapping, images(16))
        torch.manual_seed(2)
        run_stage(target, images(16))
        parts = [*pipeline.defence.parameters(), *pipeline.classifier.parameters()]
        return torch.cat([p.detach().flatten() for p in parts])

    assert not torch.equal(trained(SMALL), trained(replace(SMALL, off=(part,))))  # type: ignore[arg-type]


def test_target_off_leaves_the_base_to_answer() -> None:
    config = replace(SMALL, off=("target",))
    pipeline = build(config, Shape(3, 3), TinyNet())
    assert pipeline.classifier is pipeline.base
    assert [stage.name for stage in stages(pipeline, config)] == ["mapping", "detector"]


def test_a_stage_continues_from_its_state() -> None:
    def fresh() -> tuple[MappingStage, Ismn]:
        torch.manual_seed(0)
        pipeline = build(SMALL, Shape(3, 3), TinyNet())
        stage = stages(pipeline, SMALL)[0]
        assert isinstance(stage, MappingStage)
        assert isinstance(pipeline.defence, Ismn)
        return stage, pipeline.defence

    data = images(16)
    straight, whole = fresh()
    torch.manual_seed(5)
    run_stage(straight, data)
    # A checkpoint is a copy on disk; optimisers go on changing what they gave away.
    saved, weights_then = copy.deepcopy(straight.state()), {k: v.clone() for k, v in whole.state_dict().items()}
    index = torch.arange(8)
    straight.begin_epoch(1, data)
    torch.manual_seed(6)
    straight.step(data.floats(index), data.labels[index], index, 0.5)

    again, part = fresh()
    part.load_state_dict(weights_then)
    again.load_state(saved)
    again.begin_epoch(1, data)
    torch.manual_seed(6)
    again.step(data.floats(index), data.labels[index], index, 0.5)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, part.state_dict()[name]), name


def test_detector_stage_is_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pipeline = build(SMALL, Shape(3, 3), TinyNet())
    stage = stages(pipeline, SMALL)[1]
    assert isinstance(stage, DetectorStage)
    _, eps = stage._features(images(40))
    assert (eps == 0).sum() == 40
    assert 20 <= (eps > 0).sum() <= 40


def test_unknown_part_is_refused() -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError):
        TypeAdapter(IsmnConfig).validate_python({"off": ["guidance"]})
