"""Recipes: a run's whole configuration, parsed once here. Below this nobody sees YAML or options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from ismn_cli.core.specs import Eps, Frozen, Knowledge, Norm, Search


def _as_list(value: Any) -> Any:
    """Let one value stand for a list of one: `eps: 0.3`, or `eps=8/255` on the command line."""
    return value if isinstance(value, list | tuple) else [value]


OneOrMore = BeforeValidator(_as_list)


class DataChoice(Frozen):
    """Which images: a data set's split, or the first ``limit`` of a seeded, class-balanced order of it."""

    name: str = "cifar10"
    limit: Annotated[int, Field(ge=1)] | None = None
    attribute: str | None = None
    """What is to be told, where a data set's images have several labels: CelebA's, "Smiling" unless given."""
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Pixels a side, where a data set's images can be had at several sizes; its own default unless given."""

    def options(self) -> dict[str, str | int]:
        """Return what is chosen of the data set, apart from a number of images."""
        given = {"attribute": self.attribute, "image_size": self.image_size}
        return {name: value for name, value in given.items() if value is not None}


class ModelChoice(Frozen):
    """A classifier of the user's own: what it is called, and what is needed to make it."""

    reference: str
    """path/to/file.py:Name, package.module:Name, a file of TorchScript (.pt), torch.export (.pt2) or ONNX, timm:NAME,
    hf-hub:ID, torchvision:NAME, robustbench:NAME, a plug-in's name, or a classifier of ismn's own: NAME, NAME@RUN."""
    arguments: dict[str, JsonValue] = {}
    """Of the class or function."""
    checkpoint: Path | None = None
    """Its weights: safetensors, or a state dict of torch.save."""
    mean: Annotated[tuple[float, ...], OneOrMore] = ()
    """Subtracted from pixels of [0, 1]: a number for each channel, or one for all."""
    std: Annotated[tuple[float, ...], OneOrMore] = ()
    """What they are divided by then; both or neither."""
    unsafe_pickle: bool = False
    """Whether files may be loaded that can run code: only where whoever made them is trusted."""
    doctor: bool = True
    """Whether it is examined before it is attacked, and a finding that makes the figures meaningless stops that."""
    folder: Path | None = None
    """Where paths and packages are looked for; the current folder unless given. Records name it."""

    def anchored(self) -> ModelChoice:
        """Return the choice with its folder written down, so that it means the same wherever it is read."""
        folder = Path.cwd() if self.folder is None else self.folder.expanduser().absolute()
        return self.model_copy(update={"folder": folder})

    def options(self) -> list[str]:
        """Return the words of a command line that name this model; what its folder is, they do not say."""
        words = ["--model", self.reference]
        for key, value in self.arguments.items():
            words += ["--model-arg", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        words += ["--checkpoint", str(self.checkpoint)] if self.checkpoint else []
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            words += [name, ",".join(f"{value:g}" for value in values)] if values else []
        words += ["--unsafe-pickle"] if self.unsafe_pickle else []
        return words + ([] if self.doctor else ["--skip-doctor"])


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


class TrainingStep(Frozen):
    """A training that a matrix needs first, on the training images of its data set. See `TrainRecipe`."""

    system: str
    classifier: str = "auto"
    """As in `TrainRecipe`, or the name of an earlier step: its base classifier."""
    classifier_config: dict[str, JsonValue] = {}
    config: dict[str, JsonValue] = {}
    epochs: Annotated[int, Field(ge=1)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    """Training images; as many as the matrix's own limit unless given."""


class MatrixRecipe(Frozen):
    """Defences x knowledge x attacks on one data set."""

    task: Literal["matrix"] = "matrix"
    name: str
    summary: str = ""
    dataset: DataChoice = DataChoice()
    model: ModelChoice | None = None
    """The classifier that every system stands on, where it is one of the user's own."""
    defence: Annotated[tuple[str, ...], OneOrMore] = ("none",)
    optional: Annotated[tuple[str, ...], OneOrMore] = ()
    """Of these defences, those left out, with a note, where there are no weights for them."""
    defence_params: dict[str, dict[str, JsonValue]] = {}
    """Arguments of each defence of the user's own, by the name that it has above."""
    knowledge: Annotated[tuple[Knowledge, ...], OneOrMore] = (Knowledge.GRAY,)
    attack: AttackGrid = AttackGrid()
    survivors: bool = False
    """Whether an attack leaves out what the attacks before it have broken: at the same knowledge level, on the same
    defence, at this eps or a smaller one, the cheap ones first. Each cell then shows the worst case so far, at a
    fraction of the cost.
    Gray-box and transferred examples are shared by all defences and always made in full."""
    transfer: Annotated[tuple[str, ...], OneOrMore] = ("at",)
    """Black-box attacks that need gradients are made on these systems, together, and transferred. "name@RUN" takes
    the system trained in that run: another undefended classifier, or a re-trained copy of a defence."""
    draws: Annotated[int, Field(ge=1)] = 10
    """How often a system that draws at random is asked: the mean, the worst and the majority are reported."""
    search: Search = Search.AUTO
    """The precision in which attacks search: "auto", "fp32" or "bf16". What they find is judged in float32."""
    weights: str = "auto"
    """"auto": each system's newest finished training, else the released weights; "released"; or a run's id. Systems
    that ``training`` trains are taken from there."""
    training: dict[str, TrainingStep] = {}
    """Trainings by name, in their order; what is trained already is not trained again. Each defence is the one of the
    first step that trains it; an undefended one, or one without weights, stands on the first step's base."""
    stand_in_for: str | None = None
    """The data set of a paper whose figures are set beside these, though the images are others."""
    seed: int = 0
    batch_size: Annotated[int, Field(ge=1)] = 32


class TrainRecipe(Frozen):
    """Training of one system, stage by stage."""

    task: Literal["train"] = "train"
    name: str
    summary: str = ""
    system: str = "ismn"
    dataset: DataChoice = DataChoice()
    model: ModelChoice | None = None
    """Base classifier, where it is one of the user's own: it is defended as it is, not trained."""
    classifier: str = "auto"
    """Base classifier: "fresh" (train it first), "released", a run's id; "auto": fresh for classifier and ismn,
    for the others the newest finished training's, else the released one."""
    classifier_config: dict[str, JsonValue] = {}
    """Settings of the base classifier, where it is trained first."""
    config: dict[str, JsonValue] = {}
    """The system's own settings; its config class checks them."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """Overrides the epochs of every stage."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0


Recipe = Annotated[MatrixRecipe | TrainRecipe, Field(discriminator="task")]
