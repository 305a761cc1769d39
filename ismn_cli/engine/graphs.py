"""Models that were compiled or exported elsewhere, as modules that can be asked like any other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.jit._fuser import optimized_execution

Session = Any
"""onnxruntime.InferenceSession"""


class Scripted(nn.Module):
    """A TorchScript model, run as it is written.

    Without the optimiser, which rewrites a program once it has run a few times: the same images then always give the
    same logits.
    """

    def __init__(self, program: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.frozen = not hasattr(program, "training")
        if self.frozen:  # it has no parameters, and no mode that anybody could read
            self.__dict__["program"] = program
        else:
            self.program = program
        self.training = not self.frozen and program.training

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        with torch.no_grad():  # what torch copies would otherwise be computed from the original, and wait for it
            copied = type(self)(copy.deepcopy(self.program, memo))
        for own, other in zip(copied.parameters(), self.parameters(), strict=True):
            own.requires_grad_(other.requires_grad)
        return copied

    def train(self, mode: bool = True) -> Self:
        """See `nn.Module`. A frozen program stays in the mode that it was frozen in."""
        return self if self.frozen else super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's answer to x [N, C, H, W]."""
        with optimized_execution(False):
            logits: Tensor = self.program(x)
        return logits


class Exported(nn.Module):
    """A program of torch.export, in the one mode that it has. It may be fixed to one size of batch."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.size = _batch_of(program)
        self.graph = program.module()
        # An exported program refuses to change its mode, and says so by raising.
        self.graph.train = self._stay  # type: ignore[method-assign, assignment]
        self.eval()

    def _stay(self, mode: bool = True) -> nn.Module:
        return self.graph

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's answer to x [N, C, H, W]."""
        return at_most(x, self.size, self.graph)


class Onnx(nn.Module):
    """A model that onnxruntime answers for, on the CPU. It has no gradients."""

    differentiable = False

    def __init__(self, session: Session, name: str, size: int | None) -> None:
        """``name``: of the graph's input; ``size``: the batch that it is fixed to, if any."""
        super().__init__()
        self.session, self.name, self.size = session, name, size
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a session has no state that a copy would keep apart

    def forward(self, x: Tensor) -> Tensor:
        """Return the first output for x [N, C, H, W], without gradients."""
        return at_most(x.detach(), self.size, self._ask)

    def _ask(self, x: Tensor) -> Tensor:
        answer = self.session.run(None, {self.name: x.float().cpu().contiguous().numpy()})[0]
        return torch.as_tensor(answer).to(x.device)


def at_most(x: Tensor, size: int | None, ask: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``ask`` of x [N, ...] in parts of exactly ``size``, filled up with copies; whole where it is None.

    A graph may be fixed to the size of the batch that it was written with.
    """
    if size is None or not len(x):
        return ask(x)
    found = []
    for part in torch.split(x, size):
        missing = size - len(part)
        whole = torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing else part
        found.append(ask(whole)[: len(part)])
    return torch.cat(found)


def _batch_of(program: torch.export.ExportedProgram) -> int | None:
    """Return the size of batch that a program is fixed to; None where it takes any."""
    own = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in own and node.meta["val"].ndim:
            size = node.meta["val"].shape[0]
            return size if isinstance(size, int) else None
    return None
