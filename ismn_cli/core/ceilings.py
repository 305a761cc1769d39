"""Ceilings: what any classifier that always answers can at most reach on given images. No torch here."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Self

from pydantic import Field, model_validator

from ismn_cli.core.specs import Eps, Frozen, Norm, Samples


class Ceiling(Frozen):
    """The most images that a classifier can be right on under every perturbation of one size; stored by its place.

    It binds every deterministic classifier that always answers, and one that draws at random in expectation. A
    system that refuses is bound by it where a refusal counts as wrong.
    """

    samples: Samples
    norm: Norm
    eps: Eps
    conflicting: Annotated[int, Field(ge=0)]
    """Images with one of another class within 2 eps."""
    possible: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Images that can at most be right: a whole number or a half."""

    @model_validator(mode="after")
    def _within(self) -> Self:
        if max(self.possible, self.conflicting) > self.samples.count:
            raise ValueError("a ceiling cannot be of more images than there are")
        return self

    @property
    def value(self) -> float:
        """Return the ceiling as a share in [0, 1]."""
        return self.possible / self.samples.count

    def place(self) -> str:
        """Return the key under which the store keeps it; see `ceiling_key`."""
        return ceiling_key(self.samples, self.norm, self.eps)


def ceiling_key(samples: Samples, norm: Norm, eps: float) -> str:
    """Return the sha256 of what a ceiling is of: images, norm and eps."""
    content = {"samples": samples.key(), "norm": norm, "eps": eps}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
