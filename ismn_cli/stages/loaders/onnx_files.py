"""ONNX files, answered for by onnxruntime: for attacks that need no gradient."""

from __future__ import annotations

from typing import Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.core.references import running
from ismn_cli.stages.loaders.made import Made, file_hash, given_file


def onnx_model(choice: ModelChoice) -> Made:
    """Return the model in an .onnx file; its first output is taken. Raises UsageError."""
    path = given_file(choice)
    try:
        import onnxruntime as ort
    except ImportError:
        raise UsageError(
            f"{choice.reference} needs onnxruntime, which is not installed.", "Install it: pip install 'ismn-cli[onnx]'"
        ) from None
    from ismn_cli.engine.graphs import Onnx

    quiet = ort.SessionOptions()
    quiet.log_severity_level = 3
    quiet.intra_op_num_threads = _threads()
    session = running(
        f"Opening {choice.reference}",
        lambda: ort.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"]),
    )
    name, size = _input(choice.reference, session)
    return Made(Onnx(session, name, size), file_hash(path), choice.reference)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _input(reference: str, session: Any) -> tuple[str, int | None]:
    """Return the name of the one input, and the size of batch that it is fixed to. Raises UsageError."""
    found = session.get_inputs()
    if len(found) != 1 or found[0].type != "tensor(float)" or len(found[0].shape) != 4:
        told = ", ".join(f"{each.name}: {each.type} {each.shape}" for each in found)
        raise UsageError(
            f"{reference} does not take one float32 batch of images, but {told or 'nothing'}.",
            "Export it so that its one input is images [N, C, H, W].",
        )
    size = found[0].shape[0]
    return found[0].name, size if isinstance(size, int) and size > 0 else None
