"""Options that several commands share. None means "not given": what is not given overrides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ismn_cli.core.recipes import DataChoice


def place(text: str) -> Path:
    """Return the path of a folder or a file, or of a URL. Raises UsageError."""
    from ismn_cli.core.storage import open_place

    return open_place(text)


Attribute = Annotated[
    str | None,
    typer.Option(
        "--attribute", metavar="NAME", help="What is to be told of an image, for celeba. (default: Smiling)"
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size", metavar="N", help="Pixels a side, for celeba and images of your own. (default: 128 for celeba)"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings to override, such as attack.eps=8/255.", show_default=False
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        help="Use the first N images of a seeded, class-balanced order. (default: all)",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="S", help="Seed of everything that is drawn at random. (default: 0)"),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:1. (default: auto)")
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="Who computes: local, this process; or ray, the workers of a Ray cluster. The results are the same. "
        "(default: local)",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="WHERE",
        help="The Ray cluster: auto, HOST:PORT or ray://HOST:PORT. (default: one of this machine's cores or GPUs)",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder that holds the data set. (default: ISMN_DATA_DIR, else a download where there is one)",
    ),
]
StoreDir = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        parser=place,
        help="Folder for runs and results, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX. (default: ISMN_HOME, else "
        "~/.ismn)",
    ),
]
Defences = Annotated[
    list[str] | None,
    typer.Option(
        "--defence",
        metavar="NAME[,NAME...]",
        help="Systems; see `ismn list systems`. Or of your own: path/to/file.py:Name, package.module:Name.",
    ),
]
DefenceArg = Annotated[
    list[str] | None,
    typer.Option(
        "--defence-arg", metavar="KEY=VALUE", help="An argument of every defence of your own here. Repeatable."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="WHICH",
        help="auto (newest finished training, else the released weights), released, or a run's id. (default: auto)",
    ),
]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="REF",
        help="A classifier of your own: path/to/file.py:Name or package.module:Name (a class, a function that makes a "
        "model, or a model), a file (.pt, .pt2, .onnx), timm:NAME, hf-hub:ID, torchvision:NAME, robustbench:NAME, or "
        "one of ismn's. (default: ismn's own)",
    ),
]
ModelArg = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="An argument of the class or function. Repeatable."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Its weights: safetensors, or a state dict of torch.save. No code of it is run.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option("--mean", metavar="R,G,B", help="Mean that the model wants subtracted, pixels in [0, 1]."),
]
Std = Annotated[
    str | None, typer.Option("--std", metavar="R,G,B", help="Deviation that it wants divided by, pixels in [0, 1].")
]
UnsafePickle = Annotated[
    bool,
    typer.Option(
        "--unsafe-pickle", help="Open model files that can run code. Only where you trust whoever made them."
    ),
]
SkipDoctor = Annotated[
    bool, typer.Option("--skip-doctor", help="Attack a model of your own even where it is found to be set up wrongly.")
]

ReportFormat = Annotated[
    str, typer.Option("--format", metavar="FORMAT", help="rich, markdown, latex, csv, json or html.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Tell an experiment tracker: tensorboard, or one of your own, module:Name (docs/trackers.md). Repeatable.",
    ),
]


def model_choice(
    reference: str | None,
    arguments: Sequence[str] | None = None,
    checkpoint: Path | None = None,
    mean: str | None = None,
    std: str | None = None,
    unsafe_pickle: bool = False,
    doctor: bool = True,
) -> dict[str, Any] | None:
    """Return what was given of a model, as a recipe has it; None where none is named. Raises UsageError."""
    from ismn_cli.core.errors import UsageError

    options = {
        "arguments": key_values("--model-arg", arguments) if arguments else None,
        "checkpoint": str(checkpoint) if checkpoint else None,
        "mean": _numbers("--mean", mean),
        "std": _numbers("--std", std),
        "unsafe_pickle": unsafe_pickle or None,
        "doctor": None if doctor else False,
    }
    if reference is not None:
        return {"reference": reference} | given(options)
    idle = next(iter(given(options)), None)
    if idle is None:
        return None
    option = {"arguments": "model-arg", "doctor": "skip-doctor"}.get(idle, idle.replace("_", "-"))
    raise UsageError(
        f"--{option} is for a model of your own, and none is named.", "Add: --model path/to/file.py:Name"
    )


def defence_params(defences: Sequence[str] | None, arguments: Sequence[str] | None) -> dict[str, Any] | None:
    """Return the arguments of each defence of the user's own, as a recipe has them. Raises UsageError."""
    from ismn_cli.core.catalogue import SYSTEMS
    from ismn_cli.core.errors import UsageError

    if not arguments:
        return None
    own = [name for name in listed(defences) or () if name not in SYSTEMS]
    if not own:
        raise UsageError(
            "--defence-arg is for a defence of your own, and none is named.", "Add: --defence path/to/file.py:Name"
        )
    return {name: key_values("--defence-arg", arguments) for name in own}


def key_values(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE; values as in a recipe, so that 3, 1e-3, true and [1, 2] are what they look like."""
    import yaml

    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.recipe_files import parse_yaml

    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{option} takes KEY=VALUE, not '{pair}'.", f"Write, for example: {option} depth=20")
        try:
            found[key] = parse_yaml(text)
        except (yaml.YAMLError, RecursionError):
            found[key] = text
    return found


def _numbers(option: str, text: str | None) -> list[float] | None:
    from ismn_cli.core.errors import UsageError

    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} '{text}' is not a list of numbers.", f"Write {option} 0.5,0.5,0.5") from None


def choice(
    name: str | None, limit: int | None = None, attribute: str | None = None, image_size: int | None = None
) -> dict[str, Any]:
    """Return what was given of a data set, as a recipe has it."""
    return given({"name": name, "limit": limit, "attribute": attribute, "image_size": image_size})


def data_choice(name: str | None, limit: int | None, attribute: str | None, image_size: int | None) -> DataChoice:
    """Return the choice of images that the options describe. Raises UsageError."""
    from ismn_cli.core.recipes import DataChoice
    from ismn_cli.core.settings import build_model

    chosen = choice(name, limit, attribute, image_size)
    return build_model(DataChoice, chosen, "the choice of images", "Write, for example: --limit 100 --image-size 128")


def examples(*lines: str) -> str:
    """Return the end of a help page: commands to type, a line each."""
    return "\n\n".join(["Examples:", *lines])


def listed(values: Sequence[str] | None) -> list[str] | None:
    """Read a repeatable option whose values may also be joined by commas."""
    if values is None:
        return None
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}
