"""What the catalogue says of an attack. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from ismn_cli.core.specs import Norm

LINF: tuple[Norm, ...] = (Norm.LINF,)
L2: tuple[Norm, ...] = (Norm.L2,)
BOTH: tuple[Norm, ...] = (Norm.LINF, Norm.L2)
STEP = "2.5*eps/steps"


@dataclass(frozen=True)
class AttackEntry:
    """One attack: where it is, what it can do, and the value of each of its parameters.

    Parameters that the harness sets are not in ``defaults``: the model, eps and the norm come from the threat
    model, the seed from the cell, the number of classes from the data set.
    """

    name: str
    cls: str
    """"module:Class": a torchattacks class, or with ``own`` a callable class of ismn, made as
    Class(spec, num_classes) and called as an `ismn_cli.engine.craft.Attack`."""
    norms: tuple[Norm, ...]
    summary: str
    defaults: Mapping[str, JsonValue]
    gradient: bool = True
    """Whether the attacker needs gradients; without, outputs are enough."""
    eps_parameter: str | None = "eps"
    """What the class calls eps; None if it has none."""
    minimum_norm: bool = False
    """It looks for the smallest perturbation that breaks a sample. One larger than the threat's eps is no
    break under that threat, and no violation either: the clean image stands in for it."""
    heeds_answers: bool = False
    """It ends, or keeps an image, where an answer is wrong, so that a wrong one that is not leads it astray."""
    universal: bool = False
    """It makes one perturbation for all images that are attacked together: nothing that is expected of an attack on
    each image by itself holds for it."""
    margin_from_zero: bool = False
    """Its margin loss masks a class by multiplying its logit with 0, which is right only for logits above 0:
    they are shifted up for it."""
    channels: int | None = None
    """The number of image channels it is written for, if only one."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    several: tuple[str, ...] = ()
    """Parameters that take several of their choices, joined by "+"; their default stands for none of them."""
    only_with: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """{name: (other, value)}: given where the parameter ``other`` has that value, and only there."""
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest value, where they are not 1 (whole numbers), 0 (others) and infinity."""
    own: bool = False
    plugin: bool = False
    """Whether it is an attack of the user's own, and ``cls`` its reference: a text among ``defaults`` is a text, no
    formula; numbers are any."""
    expects: float | None = None
    """The least success to be expected, as a share of the samples that are right without attack, with the defaults on
    an undefended CIFAR-10 classifier at 8/255 in L-inf or 0.5 in L2; None for a control.

    At least 0.05 below what was measured on the released classifier (single steps 0.88 to 0.95, iterated ones 0.9 to
    1, tifgsm 0.63, tpgd 0.52, cw 0.66, deepfool 0.86 on 86 images; the dearest attacks on a few), and further below
    for single steps, which the literature has between 0.5 and 0.95. A sign, scale or step that is wrong costs more."""
    unused: tuple[str, ...] = ()
    """Parameters in the class's signature that its code never reads: not offered."""
