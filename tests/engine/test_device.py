from __future__ import annotations

import pytest
import torch

from ismn_cli.core.errors import UsageError
from ismn_cli.engine.device import autocast, has_bf16, pick_device

CPU = torch.device("cpu")


def test_cpu_is_always_there() -> None:
    assert pick_device("cpu") == CPU


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == kind


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UsageError, match="cuda:1"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="'cuda' was asked for") as caught:
        pick_device("cuda")
    assert "--device cpu" in caught.value.hint


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "CPU!", "meta", "xla"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        pick_device(name)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_by_name(precision: str, dtype: torch.dtype) -> None:
    context = autocast(CPU, precision)
    for _ in range(2):  # a factory: each step opens its own
        with context():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_auto_is_bf16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert not has_bf16(CPU)
    with autocast(CPU)():
        assert not torch.is_autocast_enabled("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with autocast(CPU)():
        assert torch.is_autocast_enabled("cpu")
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, probe)
    assert not has_bf16(CPU)


def test_unknown_precision() -> None:
    with pytest.raises(UsageError, match="fp16"):
        autocast(CPU, "fp16")
