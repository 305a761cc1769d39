"""A matrix on its way to workers on other machines, and made again there."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ismn_cli.core.environment import ismn_version
from ismn_cli.core.errors import UsageError
from ismn_cli.core.references import files_in_use, import_file
from ismn_cli.stages.plan import Matrix
from ismn_cli.stages.user_models import load_user_model
from ismn_cli.stages.weights import on_device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ismn_cli.core.recipes import ModelChoice

_COLUMNS = ("pixels", "labels", "ids")


@dataclass(frozen=True)
class Parcel:
    """What a matrix is made of again. Arrays stay where all workers of a node read them."""

    matrix: NDArray[np.uint8]
    """Without the images, as `torch.save` writes it."""
    images: dict[str, NDArray[Any]]
    folder: str
    """The current folder, from which the user's references are taken."""
    path: tuple[str, ...]
    """Where Python looks for modules, besides what is installed."""
    files: dict[str, str]
    """See `files_in_use`."""
    versions: dict[str, str]


def pack(matrix: Matrix) -> Parcel:
    """Return what makes ``matrix`` on another machine. Raises UsageError for a system that cannot be sent."""
    import numpy as np

    images = matrix.images
    none = replace(images, **{name: getattr(images, name)[:0].clone() for name in _COLUMNS})
    # The cells' precision is decided here, whatever the hardware of a worker would choose.
    recipe = matrix.recipe.model_copy(update={"search": matrix.search()})
    return Parcel(
        np.frombuffer(_saved(replace(matrix, recipe=recipe, images=none)), np.uint8),
        {name: getattr(images, name).cpu().numpy() for name in _COLUMNS},
        str(Path.cwd()),
        tuple(os.path.abspath(place) for place in sys.path if not _installed(place)),  # noqa: PTH100 - "" is here
        files_in_use(),
        _versions(),
    )


def unpack(parcel: Parcel, device: str) -> Matrix:
    """Return the matrix on ``device``, in a process of its own: its path and folder become the sender's.

    Raises UsageError where the user's code is missing here, or other versions are installed.
    """
    import torch

    _check_versions(parcel.versions)
    missing = _go_to(parcel)
    try:
        matrix: Matrix = torch.load(BytesIO(parcel.matrix.data), map_location=device, weights_only=False)
    except ModuleNotFoundError as error:
        raise missing.get(error.name or "", error) from error
    for system in (*matrix.systems, *matrix.sources):
        on_device(system.pipeline, torch.device(device))
    columns: dict[str, Any] = {name: torch.from_numpy(array) for name, array in parcel.images.items()}
    return replace(matrix, images=replace(matrix.images, **columns), device=torch.device(device))


def _saved(matrix: Matrix) -> bytes:
    """Raises UsageError for what can neither be pickled nor be opened again on a node."""
    import torch
    from ray import cloudpickle

    def saved(pickler: type[Any]) -> bytes:
        content = BytesIO()
        torch.save(matrix, content, pickle_module=SimpleNamespace(__name__="cloudpickle", Pickler=pickler))
        return content.getvalue()

    class Opening(cloudpickle.Pickler):
        def reducer_override(self, thing: Any) -> Any:
            own = matrix.own
            if own is not None and own.model is not None and thing is own.net:
                return _opened, (own.model, own.weights, own.origin, matrix.images.kind.shape.channels)
            return super().reducer_override(thing)  # type: ignore[no-untyped-call]

    try:
        return saved(cloudpickle.Pickler)
    except Exception as error:  # whatever a stranger's module raises where it is pickled
        with suppress(Exception):  # a program of TorchScript or of ONNX lies in a file
            return saved(Opening)
        lines = str(error).strip().splitlines()
        raise UsageError(
            f"These systems cannot be sent to workers: {type(error).__name__}: {lines[0] if lines else ''}",
            "Their modules have to be such that pickle can copy them. Or stay in this process: --engine local",
        ) from error


def _opened(model: ModelChoice, pin: str, origin: str, channels: int) -> nn.Module:
    """Return the user's own classifier from where it lies. Raises UsageError where it is another now."""
    made = load_user_model(model, channels)
    if made.pin != pin:
        raise UsageError(f"{origin} is another one on {platform.node()}.", "Put it where all nodes see it.")
    return made.net.eval()


def _installed(place: str) -> bool:
    roots = (sys.prefix, sys.base_prefix)
    return any(Path(place or ".").resolve().is_relative_to(root) for root in roots)


def _go_to(parcel: Parcel) -> dict[str, UsageError]:
    """Go where the sender was; return why modules are not here: those that this matrix has nothing of may miss."""
    if Path(parcel.folder).is_dir():
        os.chdir(parcel.folder)
    sys.path[:] = [*parcel.path, *(place for place in sys.path if place not in parcel.path)]
    missing = {}
    for name, file in parcel.files.items():
        try:
            import_file(name, file)
        except UsageError as error:
            missing[name] = error
    return missing


def _versions() -> dict[str, str]:
    import torch
    import torchattacks

    return {
        "ismn": ismn_version(),
        "torch": str(torch.__version__),
        "torchattacks": torchattacks.__version__,
    }


def _check_versions(wanted: dict[str, str]) -> None:
    """Raise UsageError unless the same versions are here: others may give other results."""
    for name, here in _versions().items():
        if here != wanted[name]:
            raise UsageError(
                f"{platform.node()} has {name} {here}, and {wanted[name]} is where the run was started.",
                f"Install the same on all nodes: pip install {name}=={wanted[name]}",
            )
