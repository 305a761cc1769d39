"""ISMN's schedule: mapping network (with its discriminator), then detector, then target classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ismn_models.classifiers.training import accuracy
from ismn_models.crafting import BankedStage, pgd
from ismn_models.dct_detector import set_linear
from ismn_models.images import Images
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.defence import Ismn
from ismn_models.ismn.detector import fit_ridge
from ismn_models.ismn.losses import InstanceSparsity, adversarial, discrimination, guidance, reconstruction
from ismn_models.ismn.mixture import attack_mixture
from ismn_models.ismn.nets import Discriminator
from ismn_models.parallel import between, total
from ismn_models.pipeline import Pipeline
from ismn_models.sparsity import RunningMeanSparsity
from ismn_models.training import BATCH, Stage, decayed, descend, warmup_cosine

CLIP = 1.0
"""Largest norm of a step's gradient, of the mapping network and of the discriminator."""


def stages(pipeline: Pipeline, config: IsmnConfig) -> list[Stage]:
    """Return the stages after the base classifier's own."""
    defence = pipeline.defence
    if not isinstance(defence, Ismn):
        raise TypeError(f"not an ISMN pipeline: {type(defence).__name__}")
    after_base: list[Stage] = [
        MappingStage(pipeline.base, defence, config),
        DetectorStage(pipeline.base, defence, config),
    ]
    if config.uses("target"):
        after_base.append(TargetStage(pipeline, defence, config))
    return after_base


class MappingStage(BankedStage):
    """Encoder and generator against the discriminator, on a mixture of attacks on the frozen base classifier."""

    name = "mapping"
    shareable = True

    def __init__(self, base: nn.Module, defence: Ismn, config: IsmnConfig) -> None:
        super().__init__()
        self.base, self.defence, self.config = base, defence, config
        self.epochs, self.batch_size = config.mapping_epochs, config.batch_size
        bias = defence.encoder.code.bias
        self.instances = InstanceSparsity(config.mu).to(bias.device)
        self.units = RunningMeanSparsity(len(bias), config.mu, config.beta).to(bias.device)
        self.discriminator = Discriminator(defence.encoder.conv1.in_channels).to(bias.device)
        self.modules = (self.instances, self.units, self.discriminator)
        mapping = [*defence.encoder.parameters(), *defence.generator.parameters()]
        self.optimisers = (
            torch.optim.Adam(mapping, config.mapping_lr, betas=(0.5, 0.999)),
            torch.optim.Adam(self.discriminator.parameters(), config.mapping_lr, betas=(0.5, 0.999)),
        )
        self.playing = False

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`."""
        _freeze(self.base)
        self.defence.train()
        self.playing = self.config.uses("gan") and epoch >= self.config.gan_start
        self.prepare_bank(epoch, train, self.config.refresh)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        attacked, _ = self.bank.lookup(
            index, lambda missing: attack_mixture(self.base, x[missing], y[missing], self.config)
        )
        clean, attacked = self.augment(torch.cat([x, attacked], 1)).chunk(2, 1)
        regenerated, code = self.defence.regenerate(torch.cat([attacked, clean]))
        from_attacked, from_clean = regenerated.chunk(2)
        loss = self._loss(clean, from_attacked, from_clean, code)
        figures = {"loss": loss.item(), "mse": (from_attacked - clean).detach().square().mean().item()}
        lr = self.config.mapping_lr * warmup_cosine(progress)
        descend(self.optimisers[0], loss, lr, CLIP, by_group=True)
        if self.config.uses("unit-sparsity"):
            self.units.apply_to(self.defence.encoder.code.bias, code.detach(), lr)
        if self.playing:
            figures["discriminator"] = self._teach_discriminator(clean, from_attacked.detach(), attacked, lr)
        return figures

    def _loss(self, clean: Tensor, from_attacked: Tensor, from_clean: Tensor, code: Tensor) -> Tensor:
        config = self.config
        loss = reconstruction(clean, from_attacked, from_clean)
        if config.uses("second-pass"):
            again = self.defence.reform(from_attacked)
            loss = loss + config.second_pass_weight * reconstruction(clean, again)
        if config.uses("guide"):
            loss = loss + config.guide_weight * guidance(self.base, clean, from_attacked)
        if config.uses("instance-sparsity"):
            loss = loss + config.sparsity_weight * self.instances(code)
        if self.playing:
            self.discriminator.requires_grad_(False)
            loss = loss + config.gan_weight * adversarial(self.discriminator(from_attacked).float())
        return loss

    def _teach_discriminator(self, clean: Tensor, regenerated: Tensor, attacked: Tensor, lr: float) -> float:
        self.discriminator.requires_grad_(True)
        logits = self.discriminator(torch.cat([clean, regenerated, attacked])).float().chunk(3)
        loss = discrimination(*logits)
        descend(self.optimisers[1], loss, lr, CLIP, by_group=True)
        return loss.item()

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Measure the base classifier on regenerated validation images, clean and attacked."""
        self.defence.eval()
        right = {"clean": 0, "attacked": 0}
        for x, y in self.watched(validation, BATCH):
            attacked, _ = attack_mixture(self.base, x, y, self.config)
            for name, images in (("clean", x), ("attacked", attacked)):
                with torch.no_grad():
                    right[name] += int((self.base(self.defence.reform(images)).argmax(1) == y).sum())
        return {f"validation accuracy, {name} regenerated": k / len(validation) for name, k in right.items()}


class DetectorStage(Stage):
    """P and Q on freshly attacked training images, the mapping network frozen ("individually trained"; seed)."""

    name = "detector"

    def __init__(self, base: nn.Module, defence: Ismn, config: IsmnConfig) -> None:
        self.base, self.defence, self.config = base, defence, config

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """Fit P, Q and the thresholds. Returns the detector's cross-validated accuracy and Q's mean error."""
        _freeze(self.base)
        chosen = torch.randperm(len(train))[: self.config.detector_images].to(train.labels.device)
        features, eps = self._features(train, chosen)
        detector = self.defence.detector
        accuracy = detector.fit(features, eps > 0)
        features = detector.standardised(features)
        set_linear(detector.level, *fit_ridge(features, eps))
        with torch.no_grad():
            error = (detector.level(features).squeeze(1).clamp(0, 0.5) - eps).abs().mean().item()
        self.defence.calibrate((x for x, _ in self.watched(validation, BATCH)), self.base)
        return {"detector accuracy": accuracy, "level error": error}

    def _features(self, images: Images, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return raw features and eps of the images, or those at ``chosen``, and of their attacked copies.

        Clean has eps 0; both kinds are balanced.
        """
        features, levels = [], []
        for x, y in self.watched(images, BATCH, chosen):
            attacked, eps = attack_mixture(self.base, x, y, self.config)
            for batch, level in ((x, torch.zeros_like(eps)), (attacked[eps > 0], eps[eps > 0])):
                with torch.no_grad():
                    features.append(self.defence.detector.raw_features(batch, self.defence.reform(batch)))
                levels.append(level)
        return torch.cat(features), torch.cat(levels)


class TargetStage(BankedStage):
    """f_S by adversarial training and distillation from the base, on clean, attacked and regenerated images."""

    name = "target"
    shareable = True

    def __init__(self, pipeline: Pipeline, defence: Ismn, config: IsmnConfig) -> None:
        super().__init__()
        self.pipeline, self.defence, self.config = pipeline, defence, config
        self.epochs, self.batch_size = config.target_epochs, config.batch_size
        groups = decayed(pipeline.classifier, 5e-4)
        self.optimisers = (torch.optim.SGD(groups, lr=config.target_lr, momentum=0.9, nesterov=True),)

    def begin_epoch(self, epoch: int, train: Images) -> None:
        """See `Stage.begin_epoch`. The target starts from the base's weights."""
        _freeze(self.pipeline.base)
        self.defence.requires_grad_(False)
        if epoch == 0:
            self.pipeline.classifier.load_state_dict(self.pipeline.base.state_dict())
        self.prepare_bank(epoch, train, self.config.refresh)

    def step(self, x: Tensor, y: Tensor, index: Tensor, progress: float) -> dict[str, float]:
        """See `Stage.step`."""
        config, net = self.config, self.pipeline.classifier
        quarter = max(1, total(len(x)) // 4)
        source = x.clone()
        with between(0, quarter, len(x)) as first:
            images, labels = x[first.at], y[first.at]
            attacked, _ = self.bank.lookup(
                index[first.at],
                lambda missing: attack_mixture(self.pipeline.base, images[missing], labels[missing], config),
            )
            first.put(source, attacked)
        clean, source = self.augment(torch.cat([x, source], 1)).chunk(2, 1)
        inputs = self._inputs(source, y, quarter)
        net.train()
        logits = net(inputs).float()
        loss = self._loss(logits, clean, y)
        descend(self.optimisers[0], loss, config.target_lr * warmup_cosine(progress), 5.0, by_group=True)
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == y).float().mean().item()}

    def _inputs(self, source: Tensor, y: Tensor, quarter: int) -> Tensor:
        """Return a quarter each: R(x'), R(x), attacks on the target itself, and x."""
        inputs = source.clone()
        with between(0, 2 * quarter, len(source)) as half, torch.no_grad():
            half.put(inputs, self.defence.reform(source[half.at]))
        if self.config.uses("adversarial-training"):
            with between(2 * quarter, 3 * quarter, len(source)) as own:
                if own.total:
                    own.put(inputs, self._attack(source[own.at], y[own.at]))
        return inputs

    def _attack(self, x: Tensor, y: Tensor) -> Tensor:
        steps, eps = self.config.at_steps, torch.full((len(x),), self.config.at_eps, device=x.device)
        return pgd(self.pipeline.classifier, x, y, eps, steps, 2 * eps / steps)

    def _loss(self, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        """(1 - b) T^2 KL(teacher(x) || student(u)) + b CE(student(u), y)."""
        hard = nn.functional.cross_entropy(logits, y)
        if not self.config.uses("distillation"):
            return hard
        temperature, share = self.config.temperature, self.config.hard_label_share
        with torch.no_grad():
            teacher = (self.pipeline.base(clean).float() / temperature).softmax(1)
        student = (logits / temperature).log_softmax(1)
        soft = nn.functional.kl_div(student, teacher, reduction="batchmean") * temperature**2
        return (1 - share) * soft + share * hard

    def finish(self, train: Images, validation: Images) -> dict[str, float]:
        """See `Stage.finish`."""
        self.pipeline.classifier.eval()
        return {"validation accuracy": accuracy(self.pipeline, validation)}


def _freeze(net: nn.Module) -> None:
    net.requires_grad_(False).eval()
