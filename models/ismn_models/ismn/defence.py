"""ISMN at test time: detect, regenerate until the image matches its own regeneration, classify."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ismn_models.dct_detector import upper_quantile
from ismn_models.ismn.config import IsmnConfig
from ismn_models.ismn.detector import Detector
from ismn_models.ismn.nets import Encoder, PlainGenerator, SkipGenerator
from ismn_models.pipeline import Classify, Decision, Defence, Read, Reading, Waypoint

RECOMPUTED_ABOVE = 3 * 2**20
"""Numbers in a batch above which a regeneration is computed again for its gradient rather than kept.

One that is kept takes some 450 bytes a number, 1.4 GB at this bound, and an adaptive attacker's gradient goes
through six of them. 4 images of 512x512 stay below it, 64 of 128x128, 1,024 of 32x32.
"""


class Round(NamedTuple):
    """One round of the regeneration loop, on the m images that are still in it."""

    active: Tensor
    """int64 [m]: their positions."""
    current: Tensor
    """[m, C, n, n]: their regenerations."""
    score: Tensor
    """[m]: the detector's, of these."""
    better: Tensor
    """bool [m]: which are the answer so far."""


class Ismn(Defence):
    """Routing defence: silent inputs go straight to the classifier, suspicious ones are regenerated first.

    "If an input sample is detected to be adversarial, the sample is cleaned ... and then analyzed by the
    adversarially targeted network" (seed, conclusion); the clean route is Sun et al. 2020's. Nothing is rejected.
    """

    policy = "route"
    fixed_point: Tensor

    def __init__(self, config: IsmnConfig, size: int = 32, channels: int = 3) -> None:
        super().__init__()
        generators: dict[str, type[SkipGenerator] | type[PlainGenerator]] = {
            "skip": SkipGenerator,
            "plain": PlainGenerator,
        }
        keep = max(1, round(config.mu * 128)) if config.sparsity == "topk" else None
        self.encoder = Encoder(size, channels, keep=keep)
        self.generator = generators[config.generator](size, channels)
        self.detector = Detector(size, channels)
        self.config = config
        self.register_buffer("fixed_point", torch.tensor(float("inf")))

    def regenerate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return R(x), same shape, in [0, 1], and the code [N, 128].

        Above `RECOMPUTED_ABOVE` the activations are not kept (Chen et al. 2016): same values and gradients, in
        less memory, for one more pass.
        """
        if torch.is_grad_enabled() and x.numel() > RECOMPUTED_ABOVE:
            recomputed: tuple[Tensor, Tensor] = checkpoint(
                self._regenerate, x, use_reentrant=False, preserve_rng_state=False
            )
            return recomputed
        return self._regenerate(x)

    def _regenerate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code, maps = self.encoder(x)
        return self.generator(x, code, maps), code

    def reform(self, x: Tensor) -> Tensor:
        """Return R(x)."""
        return self.regenerate(x)[0]

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        """Return the perturbation detector's score [N]."""
        score: Tensor = self.detector(x, self.reform(x))
        return score

    def decide(self, x: Tensor, classify: Classify) -> Decision:
        """Answer for x [N, C, n, n]: the routing rule and the regeneration loop."""
        first, score, flagged = self._look(x)
        cleaned, loops = x.clone(), torch.zeros_like(flagged, dtype=torch.long)
        for k, (active, current, _, better) in enumerate(self._rounds(first, flagged), 1):
            cleaned = cleaned.index_put((active[better],), current[better])
            loops[active] = k
        return Decision(classify(cleaned), flagged, torch.zeros_like(flagged), score, loops)

    def trace(self, x: Tensor, classify: Classify) -> list[Waypoint]:
        """Return each regeneration; then the least suspicious one, for the images that do not end on their last."""
        first, _, flagged = self._look(x)
        cleaned, back, seen = x.clone(), torch.zeros_like(flagged), []
        for k, (active, current, score, better) in enumerate(self._rounds(first, flagged), 1):
            taken = torch.zeros_like(flagged).index_fill(0, active, True)
            scores = score.new_zeros(len(x)).index_put((active,), score)
            seen.append(Waypoint(f"regenerated {k}", x.index_put((active,), current), taken, scores))
            cleaned = cleaned.index_put((active[better],), current[better])
            back[active] = ~better
        return [*seen, Waypoint("least suspicious", cleaned, back)] if back.any() else seen

    def _look(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return R(x), the detector's score [N], and which images are regenerated, bool [N]."""
        first = self.reform(x)
        score: Tensor = self.detector(x, first)
        return first, score, score >= self.threshold if self.config.uses("detector") else torch.ones_like(score).bool()

    def _rounds(self, first: Tensor, flagged: Tensor) -> Iterator[Round]:
        """Regenerate flagged images until the detector is silent and the image is a fixed point of R.

        "Until the generated sample completely matches the source data": the source is unknown at test time, so an
        image has to match its own regeneration as well as clean images do. One that never stops takes the least
        suspicious of its regenerations. ``first``: R(x).
        """
        lowest = torch.full((len(first),), float("inf"), device=first.device)
        active = flagged.nonzero()[:, 0]
        current = first[active]
        for _ in range(self.config.loops if self.config.uses("loop") else 1):
            if not len(active):
                break
            again = self.reform(current)
            score = self.detector(current, again)
            stop = (score < self.threshold) & (_rms(current - again) <= self.fixed_point)
            better = stop | (score < lowest[active])
            yield Round(active, current, score, better)
            lowest[active[better]] = score[better].detach()
            active, current = active[~stop], again[~stop]

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        """Fit the threshold (clean false-positive rate) and the fixed-point tolerance on clean images."""
        scores, residuals = [], []
        with torch.no_grad():
            for x in batches:
                regenerated = self.reform(x)
                scores.append(self.detector(x, regenerated))
                residuals.append(_rms(x - regenerated))
        self.threshold.copy_(upper_quantile(torch.cat(scores), 1 - self.config.false_positive_rate))
        self.fixed_point.copy_(upper_quantile(torch.cat(residuals), self.config.fixed_point_quantile))

    def surrogates(self, classify: Classify) -> dict[str, Read]:
        """Return the routes an adaptive attacker may take: forced regeneration, the unrolled loop, the clean route."""
        routes: dict[str, Read] = {"regenerated": lambda x: Reading(classify(self.reform(x)))}
        if self.config.uses("loop"):
            routes["unrolled"] = lambda x: Reading(classify(self._unrolled(x)))
        if self.config.uses("detector"):
            routes["clean-route"] = lambda x: Reading(classify(x), self.margin(x, classify))
        return routes

    def _unrolled(self, x: Tensor) -> Tensor:
        for _ in range(self.config.loops):
            x = self.reform(x)
        return x


def _rms(difference: Tensor) -> Tensor:
    """Return the root mean square per image [N]; safe to differentiate at zero."""
    return (difference.flatten(1).square().mean(1) + 1e-12).sqrt()
