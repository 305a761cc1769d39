"""ISMN with one part taken out at test time, all else as trained: what is each part worth?"""

from __future__ import annotations

from dataclasses import replace

from ismn_models.ismn.config import Part
from ismn_models.ismn.defence import Ismn
from ismn_models.pipeline import Defence, Pipeline


def no_detector(system: Pipeline) -> Pipeline:
    """Return the system with every input regenerated."""
    return _without(system, "detector")


def no_loop(system: Pipeline) -> Pipeline:
    """Return the system with suspicious inputs regenerated once."""
    return _without(system, "loop")


def no_mapping(system: Pipeline) -> Pipeline:
    """Return the adversarially trained target classifier alone: no detector, no regeneration."""
    return Pipeline(system.base, Defence(), system.classifier)


def no_target(system: Pipeline) -> Pipeline:
    """Return the mapping network before the base classifier: the pre-processor by itself."""
    return Pipeline(system.base, system.defence)


def _without(system: Pipeline, part: Part) -> Pipeline:
    if not isinstance(system.defence, Ismn):
        raise TypeError(f"not an ISMN pipeline: {type(system.defence).__name__}")
    config = system.defence.config
    system.defence.config = replace(config, off=(*config.off, part))
    return system
