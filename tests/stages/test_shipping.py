"""A matrix that was packed and unpacked again gives the same results; what cannot travel is refused with the reason."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from ismn_cli.core.errors import UsageError
from ismn_cli.core.parts import Span
from ismn_cli.core.recipes import MatrixRecipe
from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Search
from ismn_cli.core.store import Store
from ismn_cli.stages import shipping
from ismn_cli.stages.plan import Matrix, plan_matrix
from ismn_cli.stages.shipping import pack, unpack
from ismn_cli.stages.workers import _Shelf

CODE = """
import threading
import torch


class Net(torch.nn.Module):
    def __init__(self, lock=False):
        super().__init__()
        self.out = torch.nn.Linear(192, 3)
        self.out.weight.data = torch.eye(3).repeat_interleave(64, 1)
        if lock:
            self.lock = (x for x in "nothing copies a generator")

    def forward(self, x):
        return self.out(x.flatten(1))
"""


@pytest.fixture
def place(own_folder: Path) -> Iterator[Path]:
    (own_folder / "mine.py").write_text(CODE)
    path = list(sys.path)
    yield own_folder
    sys.path[:] = path


def _matrix(store: Store, **changes: Any) -> Matrix:
    mapping = {"name": "sent", "defence": ["none", "median"], "attack": {"method": "square", "params": {}}}
    mapping |= {"knowledge": "black", "dataset": {"name": "cifar10", "limit": 12}, "batch_size": 5, "draws": 2}
    mapping["attack"] = {"method": "square", "params": {"square": {"n_queries": 3}}}
    return plan_matrix(MatrixRecipe.model_validate(mapping | changes), store, None, "cpu")


def _results(matrix: Matrix) -> list[Mapping[str, Any]]:
    shelf = _Shelf({})
    bench, found = matrix.bench(shelf.batches), dict[tuple[str, int], CellResult]()
    for task in matrix.tasks(()):
        for index, results in bench.carry_out(task, Span(0, matrix.batches()), lambda *place: found[place]):
            found.update(((result.cell.key(), index), result) for result in results)
    return [result.model_dump(exclude={"craft_seconds", "judge_seconds"}) for result in found.values()]


def _traced(place: Path) -> str:
    sys.path.insert(0, str(place))
    import mine

    torch.jit.trace(mine.Net().eval(), torch.zeros(2, 3, 8, 8)).save(place / "net.pt")
    return "net.pt"


def _onnx(place: Path) -> str:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(torch.eye(3).repeat_interleave(64, 1).T.numpy(), "w")
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["out"]),
    ]
    kind = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(n, kind, s) for n, s in (("x", ["n", 3, 8, 8]), ("out", ["n", 3]))]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, place / "net.onnx")
    return "net.onnx"


def _code(place: Path) -> str:
    return "mine.py:Net"


@pytest.mark.parametrize("make", [None, _code, _traced, _onnx])
def test_it_is_the_same_matrix(make: Any, store: Store, trained: Any, place: Path) -> None:
    trained("classifier")
    changes = {"model": {"reference": make(place), "doctor": False}} if make else {}
    matrix = _matrix(store, **changes)
    again = unpack(pack(matrix), "cpu")
    assert again.systems[0].pipeline is not matrix.systems[0].pipeline
    bases = [{system.pipeline.base for system in one.systems} for one in (matrix, again)]
    assert len(bases[0]) == len(bases[1]) and bases[0].isdisjoint(bases[1])
    assert [cell.key() for _, cell in again.cells()] == [cell.key() for _, cell in matrix.cells()]
    assert _results(again) == _results(matrix)


def test_what_cannot_be_copied_is_refused(store: Store, place: Path) -> None:
    model = {"reference": "mine.py:Net", "arguments": {"lock": True}, "doctor": False}
    matrix = _matrix(store, model=model)
    matrix = replace(matrix, own=None)  # and cannot be opened again
    with pytest.raises(UsageError, match="cannot be sent to workers: TypeError") as caught:
        pack(matrix)
    assert "--engine local" in caught.value.hint


def test_the_precision_is_the_senders(store: Store, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("classifier")
    matrix = _matrix(store)
    parcel = pack(matrix)
    monkeypatch.setattr("ismn_cli.engine.device.has_bf16", lambda device: matrix.search() is Search.FP32)
    again = unpack(parcel, "cpu")
    assert [cell.key() for _, cell in again.cells()] == [cell.key() for _, cell in matrix.cells()]


def test_other_versions_are_refused(store: Store, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("classifier")
    parcel = pack(_matrix(store))
    monkeypatch.setattr(shipping, "_versions", lambda: parcel.versions | {"torch": "1.0"})
    with pytest.raises(UsageError, match=r"has torch 1\.0, and"):
        unpack(parcel, "cpu")


def test_a_changed_file_is_named(store: Store, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parcel = pack(_matrix(store, model={"reference": "mine.py:Net", "doctor": False}))
    for name in parcel.files:
        monkeypatch.delitem(sys.modules, name)
    (place / "mine.py").write_text(CODE + "\n# changed")
    with pytest.raises(UsageError, match=r"mine\.py is another file on"):
        unpack(parcel, "cpu")
    (place / "mine.py").unlink()
    with pytest.raises(UsageError, match=r"mine\.py is missing on"):
        unpack(parcel, "cpu")
    assert os.getcwd() == str(place)  # noqa: PTH109
