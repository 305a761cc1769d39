"""What is measured: threat models, attacks, samples and cells, each with a content key.

Frozen pydantic models; distances are in pixels of [0, 1].
"""

from __future__ import annotations

import hashlib
import json
import math
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, SerializerFunctionWrapHandler, model_serializer

from ismn_models.shape import Shape


class Frozen(BaseModel):
    """A value: immutable, strict about unknown fields, identified by its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def key(self) -> str:
        """Return the sha256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def parse_eps(value: Any) -> float:
    """Read a perturbation size: 0.3, "0.3" or "8/255". Raises ValueError outside [0, 1]."""
    try:
        if isinstance(value, str) and "/" in value:
            numerator, denominator = value.split("/")
            eps = float(numerator) / float(denominator)
        else:
            eps = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ValueError(f"eps '{value}' is not a number; write 0.3 or 8/255") from None
    if not math.isfinite(eps) or not 0 <= eps <= 1:
        raise ValueError(f"eps {value} is outside [0, 1]: pixels are in [0, 1], so write 8/255 for 8 grey levels")
    return eps


def format_eps(eps: float) -> str:
    """Write eps as the field does: 0.3, or 8/255 where that is what it is."""
    levels = eps * 255
    if round(eps, 2) != eps and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


Eps = Annotated[float, BeforeValidator(parse_eps)]


class Norm(StrEnum):
    """The norm that bounds a perturbation."""

    LINF = "linf"
    L2 = "l2"


class Knowledge(StrEnum):
    """What the attacker may touch. It decides which module an attack is built on, and nothing else."""

    CLEAN = "clean"
    BLACK = "black"
    GRAY = "gray"
    WHITE = "white"
    ADAPTIVE = "adaptive"


class Search(StrEnum):
    """The precision in which an attack searches. What it finds is judged in float32 whatever it is."""

    AUTO = "auto"
    """bf16 where the hardware multiplies in it by itself."""
    FP32 = "fp32"
    BF16 = "bf16"
    """Of bare classifiers, far from their decision boundary; see `ismn_cli.engine.passes`."""


class ThreatModel(Frozen):
    """The set of perturbations allowed: ||x' - x|| <= eps, x' in [0, 1]."""

    norm: Norm = Norm.LINF
    eps: Eps
    targeted: bool = False


class AttackSpec(Frozen):
    """An attack with every parameter resolved."""

    method: str
    threat: ThreatModel
    params: dict[str, JsonValue] = {}
    eot: int = 1
    """Draws that every look at a randomised system is averaged over (expectation over transformation)."""
    code: str = ""
    """sha256 over the code of an attack of the user's own; another file is another attack. Empty for one of ismn's."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``code`` out where there is none: the keys of ismn's own attacks are as they were before it."""
        content: dict[str, Any] = dump(self)
        if not self.code:
            content.pop("code", None)
        return content

    def label(self) -> str:
        """Return a short name for tables, such as "pgd 8/255"; the norm is named where it is not L-inf."""
        norm = "" if self.threat.norm is Norm.LINF else f" {self.threat.norm}"
        return f"{self.method}{norm} {format_eps(self.threat.eps)}"


class Subject(Frozen):
    """A system with its weights pinned: sha256 over its tensors, empty where it has none."""

    name: str
    weights: str = ""


class DataKind(NamedTuple):
    """What a system has to be trained on to be of use for some images."""

    dataset: str
    """Name of the data set, with what was chosen of it: "cifar10", "celeba/Smiling@128"."""
    shape: Shape


class Samples(Frozen):
    """Which images were evaluated: a hash over data set, split and sample ids, and over the pixels themselves."""

    dataset: str
    split: str
    count: int
    total: int
    ids: str
    data: str

    @property
    def limited(self) -> bool:
        """Whether this is a part of the split only."""
        return self.count < self.total


class Cell(Frozen):
    """One box of the benchmark; ``key()`` names its result in the store. ``attack`` is None for a clean cell."""

    classifier: Subject
    defence: Subject
    samples: Samples
    knowledge: Knowledge
    attack: AttackSpec | None
    seed: int
    batch_size: int
    sources: tuple[Subject, ...] = ()
    """Transfer only: the attacker's own systems, which the examples are made on."""
    draws: int = 1
    """How often a randomised system is asked for its answer."""
    search: Search = Search.FP32
    after: tuple[AttackSpec, ...] = ()
    """Attacks that were tried before, none of them larger: what they broke is carried over and not attacked again,
    so that the cell shows the worst case of all of them."""

    def examples_key(self) -> str:
        """Return the key of the adversarial examples, which leaves out what their maker never touches.

        Gray-box ones do not depend on the defence, transferred ones not on the classifier either.
        """
        hidden = {"draws"}
        if self.knowledge is Knowledge.GRAY:
            hidden.add("defence")
        if self.sources:
            hidden |= {"defence", "classifier"}
        content = self.model_dump(mode="json", exclude=hidden)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
