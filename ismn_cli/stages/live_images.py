"""Images of a running program, as the sets of images that the stages work on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import DataChoice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ismn_cli.data.image_set import ImageSet

_LOG = logging.getLogger("ismn")
ROUNDED = 0.01
"""Share of a grey level by which floats may miss it without a word."""


def named_images(name: str, labels: Any, limit: int | None, data_dir: Path | None, seed: int) -> ImageSet:
    """Return the test images of a data set. Raises UsageError."""
    from ismn_cli.data.loading import load_dataset

    if labels is not None:
        raise UsageError(f"Labels are given for {name}, which has its own.", "Leave them out.")
    return load_dataset(DataChoice(name=name, limit=limit), "test", data_dir, seed)


def live_images(images: Any, labels: Any, model: Any) -> ImageSet:
    """Return images [N, C, H, W], uint8 or floats in [0, 1], and their labels [N], as a set called "images@SIZE".

    It has as many classes as ``model`` has logits, where that is a module. Raises UsageError.
    """
    from ismn_cli.data.items import array_of, image_set, pixels_and_labels
    from ismn_cli.data.npz_files import ArrayError

    if labels is None:
        raise UsageError("Images need labels.", "evaluate(model, images, labels, ...)")
    try:
        given = array_of(images)
        pixels, numbers = pixels_and_labels((given, labels), None)
    except ArrayError as error:
        raise _no_images(error) from None
    if not len(numbers):
        raise UsageError("There are no images.", "Give one or more.")
    if given.dtype.kind == "f" and float(abs(given * 255 - (given * 255).round()).max()) > ROUNDED:
        _LOG.warning("The images are rounded to whole grey levels (1/255), as all images of ismn are.")
    count = max(_outputs(model, pixels), 1 + int(numbers.max()))
    return image_set("images", "test", pixels, numbers, tuple(map(str, range(count))))


def clean_images(images: Any) -> Tensor:
    """Return images to calibrate on as floats [N, C, H, W] in [0, 1]. Raises UsageError."""
    import torch

    from ismn_cli.data.items import array_of, pixels_and_labels
    from ismn_cli.data.npz_files import ArrayError

    try:
        given = array_of(images)
        pixels, _ = pixels_and_labels((given, [0] * len(given)), None)
    except (ArrayError, TypeError) as error:
        raise _no_images(error) from None
    return torch.from_numpy(pixels).float().div(255)


def _no_images(error: Exception) -> UsageError:
    return UsageError(f"These are no images with labels: {error}.", "Images are [N, C, H, W], uint8 or in [0, 1].")


def _outputs(model: Any, pixels: NDArray[np.uint8]) -> int:
    """Return how many logits a module gives; 0 where that is for others to find out."""
    import torch
    from torch import nn

    from ismn_cli.core.references import running
    from ismn_cli.engine.modes import evaluating
    from ismn_cli.engine.rng import isolated

    if not isinstance(model, nn.Module):
        return 0
    net: nn.Module = model
    place = next((p.device for p in net.parameters()), torch.device("cpu"))
    x = torch.from_numpy(pixels[:2]).float().div(255).to(place)
    with evaluating(net), torch.no_grad(), isolated(0):
        answer: Any = running(type(net).__name__, lambda: net(x))
    return int(answer.shape[-1]) if isinstance(answer, torch.Tensor) and answer.ndim == 2 else 0
