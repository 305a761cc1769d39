"""Weights files: what goes in comes out, in any memory format; what does not fit changes nothing."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import small_world
import torch
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core.catalogue import SYSTEMS, load
from ismn_cli.core.errors import UsageError
from ismn_cli.stages.weights import (
    Header,
    load_weights,
    parts_state,
    read_header,
    save_weights,
    system_hash,
    tensor_hash,
)
from ismn_models.pipeline import Pipeline
from ismn_models.shape import Shape

HEADER = Header(
    system="ismn", config={"lr": 0.1}, classes=3, channels=3, dataset="cifar10", data="d", images=9,
    epochs={"base": 1}, base="b", base_config={},
)  # fmt: skip


def _routing(seed: int) -> Pipeline:
    torch.manual_seed(seed)
    return small_world.build_routing(small_world.CleanerConfig(), Shape(3, 3))


def _equal(a: Pipeline, b: Pipeline) -> bool:
    return all(torch.equal(x, y) for x, y in zip(parts_state(a).values(), parts_state(b).values(), strict=True))


@pytest.mark.parametrize("channels_last", [False, True])
def test_round_trip(tmp_path: Path, channels_last: bool) -> None:
    first, second = _routing(0), _routing(1)
    if channels_last:
        first.to(memory_format=torch.channels_last)
    save_weights(tmp_path / "w", first, HEADER)
    assert not _equal(first, second)
    load_weights(tmp_path / "w", second)
    assert _equal(first, second) and system_hash(first) == system_hash(second)
    assert read_header(tmp_path / "w") == HEADER
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) & 0o044 == 0o044


def test_half_precision_rounds_weights_once_and_keeps_thresholds(tmp_path: Path) -> None:
    first, second, third = _routing(0), _routing(1), _routing(2)
    first.defence.threshold.fill_(0.1)
    save_weights(tmp_path / "w", first, HEADER, half=True)
    load_weights(tmp_path / "w", second)
    assert all(tensor.dtype != torch.float16 for tensor in parts_state(second).values())
    assert torch.equal(second.base.conv.weight, first.base.conv.weight.half().float())
    assert torch.equal(second.defence.threshold, first.defence.threshold)
    save_weights(tmp_path / "again", second, HEADER, half=True)
    load_weights(tmp_path / "again", third)
    assert system_hash(second) == system_hash(third) != system_hash(first)


def test_what_half_precision_cannot_hold_stays_whole(tmp_path: Path) -> None:
    first, second = _routing(0), _routing(1)
    with torch.no_grad():
        first.base.norm.running_var.fill_(1e6)
        first.defence.threshold.fill_(float("inf"))
    save_weights(tmp_path / "w", first, HEADER, half=True)
    load_weights(tmp_path / "w", second)
    assert second.base.norm.running_var.tolist() == first.base.norm.running_var.tolist()
    assert second.defence.threshold.isinf()


def test_without_the_base_the_base_is_left_as_it_is(tmp_path: Path) -> None:
    first, second = _routing(0), _routing(1)
    before = tensor_hash(second.base)
    save_weights(tmp_path / "w", first, HEADER, base=False)
    load_weights(tmp_path / "w", second, base=False)
    assert tensor_hash(second.base) == before and tensor_hash(second.defence) == tensor_hash(first.defence)
    with pytest.raises(UsageError, match="'base"):
        load_weights(tmp_path / "w", second)


@given(st.integers(0, 5), st.floats(2**-10, 1, width=32))
def test_the_hash_sees_every_value_and_no_memory_format(index: int, value: float) -> None:
    net, same = small_world.Net(3, 3, 6), small_world.Net(3, 3, 6)
    same.load_state_dict(net.state_dict())
    same.to(memory_format=torch.channels_last)
    assert tensor_hash(net) == tensor_hash(same)
    tensor = list(same.parameters())[index]
    changed = tensor.detach().flatten()[0].item() != value
    with torch.no_grad():
        tensor[(0,) * tensor.ndim] = value
    assert (tensor_hash(net) != tensor_hash(same)) == changed


def test_the_hash_sees_names_and_shapes() -> None:
    flat, square = torch.nn.Module(), torch.nn.Module()
    flat.register_buffer("a", torch.zeros(4))
    square.register_buffer("a", torch.zeros(2, 2))
    other = torch.nn.Module()
    other.register_buffer("b", torch.zeros(4))
    assert len({tensor_hash(m) for m in (flat, square, other)}) == 3


def test_another_architecture_changes_nothing(tmp_path: Path) -> None:
    wide = small_world.build_plain(small_world.PlainConfig(width=7), Shape(3, 3))
    narrow = small_world.build_plain(small_world.PlainConfig(), Shape(3, 3))
    save_weights(tmp_path / "w", wide, HEADER)
    before = system_hash(narrow)
    with pytest.raises(UsageError, match=r"another architecture.*7x3x3x3 instead of 6x3x3x3"):
        load_weights(tmp_path / "w", narrow)
    assert system_hash(narrow) == before


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_damaged_files_are_usage_errors(tmp_path: Path, keep: int) -> None:
    pipeline = _routing(0)
    save_weights(tmp_path / "w", pipeline, HEADER)
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:keep])
    with pytest.raises(UsageError) as error:
        load_weights(tmp_path / "w", pipeline)
    assert str(tmp_path / "w") in error.value.message and error.value.hint
    with pytest.raises(UsageError):
        read_header(tmp_path / "w")


def test_a_missing_file_and_a_file_of_strangers(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(UsageError, match="missing"):
        read_header(tmp_path / "none")
    save_file({"x": torch.zeros(2)}, tmp_path / "theirs")
    with pytest.raises(UsageError, match="not a whole weights file"):
        read_header(tmp_path / "theirs")


@pytest.mark.parametrize("name", [name for name, entry in SYSTEMS.items() if entry.config])
def test_every_real_system_comes_back_from_its_file(tmp_path: Path, name: str) -> None:
    entry = SYSTEMS[name]
    config = load(str(entry.config))()
    torch.manual_seed(0)
    first = load(entry.build)(config, Shape())
    torch.manual_seed(1)
    second = load(entry.build)(config, Shape())
    save_weights(tmp_path / "w", first, HEADER, half=True)
    load_weights(tmp_path / "w", second)
    save_weights(tmp_path / "again", second, HEADER, half=True)
    assert (tmp_path / "w").read_bytes() == (tmp_path / "again").read_bytes()
