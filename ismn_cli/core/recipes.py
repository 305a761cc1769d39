"""Recipes: a run's whole configuration, parsed once here. Below this nobody sees YAML or options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from ismn_cli.core.specs import Eps, Frozen, Knowledge, Norm


def _as_list(value: Any) -> Any:
    """Let one value stand for a list of one: `eps: 0.3`, or `eps=8/255` on the command line."""
    return value if isinstance(value, list | tuple) else [value]


OneOrMore = BeforeValidator(_as_list)


class DataChoice(Frozen):
    """Which images: a data set's split, or the first ``limit`` of a seeded, class-balanced order of it."""

    name: str = "cifar10"
    limit: Annotated[int, Field(ge=1)] | None = None


class AttackGrid(Frozen):
    """Every method at every size. ``params`` gives a method's own parameters by its name."""

    method: Annotated[tuple[str, ...], OneOrMore] = ("pgd",)
    method_at: dict[Knowledge, Annotated[tuple[str, ...], OneOrMore]] = {}
    """Methods of one knowledge level, where they are others than ``method``."""
    eps: Annotated[tuple[Eps, ...], OneOrMore] = (8 / 255,)
    norm: Norm = Norm.LINF
    params: dict[str, dict[str, JsonValue]] = {}
    eot: Annotated[int, Field(ge=1)] = 10
    """Draws that a white-box or adaptive attacker averages over (EOT), where the system draws at random."""

    def methods(self, knowledge: Knowledge) -> tuple[str, ...]:
        """Return the methods of an attacker who knows this much, none twice."""
        return tuple(dict.fromkeys(self.method_at.get(knowledge, self.method)))


class MatrixRecipe(Frozen):
    """Defences x knowledge x attacks on one data set."""

    task: Literal["matrix"] = "matrix"
    name: str
    summary: str = ""
    dataset: DataChoice = DataChoice()
    defence: Annotated[tuple[str, ...], OneOrMore] = ("none",)
    optional: Annotated[tuple[str, ...], OneOrMore] = ()
    """Of these defences, those left out, with a note, where there are no weights for them."""
    knowledge: Annotated[tuple[Knowledge, ...], OneOrMore] = (Knowledge.GRAY,)
    attack: AttackGrid = AttackGrid()
    survivors: bool = False
    """Whether an attack leaves out what the attacks before it have broken: at the same knowledge level, on the same
    defence, at this eps or a smaller one. Each cell then shows the worst case so far, at a fraction of the cost.
    Gray-box and transferred examples are shared by all defences and always made in full."""
    transfer: Annotated[tuple[str, ...], OneOrMore] = ("at",)
    """Black-box attacks that need gradients are made on these systems, together, and transferred. "name@RUN" takes
    the system trained in that run: another undefended classifier, or a re-trained copy of a defence."""
    draws: Annotated[int, Field(ge=1)] = 10
    """How often a system that draws at random is asked: the mean, the worst and the majority are reported."""
    weights: str = "auto"
    """"auto": each system's newest finished training, else the released weights; "released"; or a run's id."""
    seed: int = 0
    batch_size: Annotated[int, Field(ge=1)] = 32


class TrainRecipe(Frozen):
    """Training of one system, stage by stage."""

    task: Literal["train"] = "train"
    name: str
    summary: str = ""
    system: str = "ismn"
    dataset: DataChoice = DataChoice()
    classifier: str = "auto"
    """Base classifier: "fresh" (train it first), "released", a run's id; "auto": fresh for classifier and ismn,
    for the others the newest finished training's, else the released one."""
    config: dict[str, JsonValue] = {}
    """The system's own settings; its config class checks them."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """Overrides the epochs of every stage."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0


Recipe = Annotated[MatrixRecipe | TrainRecipe, Field(discriminator="task")]
