"""The conformance kit: whether a model, a defence, an attack or a data set of your own keeps to what ismn relies on.

Each function asks every rule and raises one `ConformanceError`, an AssertionError, that names all that are broken, what
was seen, and what to do. In a test of your own:

    from ismn_cli.testing import check_defence
    from mine import Smooth

    def test_conforms() -> None:
        check_defence(Smooth)

`ismn check mine.py:Smooth` asks the same from a shell. The rules are those of `ismn_cli.core.conformance.RULES`.
"""

from __future__ import annotations

from ismn_cli.testing.attacks import check_attack
from ismn_cli.testing.datasets import check_dataset
from ismn_cli.testing.defences import check_defence
from ismn_cli.testing.models import check_model
from ismn_cli.testing.verdicts import ConformanceError

__all__ = ["ConformanceError", "check_attack", "check_dataset", "check_defence", "check_model"]
