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
    eps: Annotated[tuple[Eps, ...], OneOrMore] = (8 / 255,)
    norm: Norm = Norm.LINF
    params: dict[str, dict[str, JsonValue]] = {}


class MatrixRecipe(Frozen):
    """Defences x knowledge x attacks on one data set."""

    task: Literal["matrix"] = "matrix"
    name: str
    summary: str = ""
    dataset: DataChoice = DataChoice()
    defence: Annotated[tuple[str, ...], OneOrMore] = ("none",)
    knowledge: Annotated[tuple[Knowledge, ...], OneOrMore] = (Knowledge.GRAY,)
    attack: AttackGrid = AttackGrid()
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
