"""Examples written for other tools: read again they are the same, and no picture leaves its ball."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_sets import checked, images, moved
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ismn_cli.core.errors import UsageError
from ismn_cli.data.example_exports import Exported, towards_clean, write_npz, write_png, write_safetensors
from ismn_cli.data.example_files import read_examples
from ismn_cli.data.image_set import ImageSet


def exported(found: ImageSet, adversarial: np.ndarray) -> Exported:
    n = len(found)
    outcomes = tuple("broken" if i % 2 else "survived" for i in range(n))
    return Exported(
        adversarial, found.pixels.numpy(), found.ids.numpy(), found.labels.numpy(), outcomes, np.zeros(n, int),
        np.full(n, 0.1), np.full(n, 0.5), {"layout": "nchw", "data": {"name": "made"}, "run": "a|<b>\n🦊"},
    )  # fmt: skip


@pytest.mark.parametrize("write", [write_npz, write_safetensors])
def test_files_give_back_what_was_written(tmp_path: Path, write: Any) -> None:
    found = images(shape=(3, 3, 3))
    place = tmp_path / f"a.{write.__name__.removeprefix('write_')}"
    write(place, exported(found, moved(found)))
    given_ = read_examples(place)
    assert given_.metadata["run"] == "a|<b>\n🦊" and given_.unread == ()
    assert torch.equal(checked(place, found).adversarial, torch.from_numpy(moved(found)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_folder_gives_back_images_within_the_ball(tmp_path: Path, channels: int) -> None:
    found = images(shape=(channels, 4, 4))
    write_png(tmp_path / "a", exported(found, moved(found)))
    result = checked(tmp_path / "a", found)
    assert float((result.adversarial - torch.from_numpy(moved(found))).abs().max()) < 1 / 255
    assert "rounding" in json.loads((tmp_path / "a" / "metadata.json").read_text())
    with pytest.raises(UsageError, match="there already"):
        write_png(tmp_path / "a", exported(found, moved(found)))
    with pytest.raises(UsageError, match="1 or 3 channels"):
        write_png(tmp_path / "b", exported(images(shape=(2, 4, 4)), moved(images(shape=(2, 4, 4)))))
    assert not list(tmp_path.glob(".*"))


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.uint8, (8,), elements=st.integers(0, 255)),
    arrays(np.float64, (8,), elements=st.floats(-1, 1)),
    st.one_of(st.integers(0, 64).map(lambda k: k / 255), st.floats(0, 1)),
)
def test_rounding_towards_the_clean_image_keeps_the_ball(clean: np.ndarray, delta: np.ndarray, eps: float) -> None:
    x = clean.astype(np.float32) / np.float32(255)
    adversarial = np.clip(x + np.float32(eps) * np.sign(delta) * np.abs(delta) ** 0.25, 0, 1).astype(np.float32)
    rounded = towards_clean(adversarial, clean)
    levels = np.abs(rounded.astype(int) - clean.astype(int))
    before = np.abs(adversarial.astype(np.float64) * 255 - clean)
    assert (levels <= before + 1.01e-3).all() and (levels > before - 1).all()
    assert levels.max() <= eps * 255 + 2e-3
    if (255 * eps) % 1 == 0:
        corner = np.clip(x + np.float32(eps), 0, 1)  # full grey levels survive the rounding errors of floats
        assert np.array_equal(towards_clean(corner, clean), np.minimum(clean.astype(int) + round(255 * eps), 255))
