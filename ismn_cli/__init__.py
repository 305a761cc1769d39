"""How robust is this image classifier, with this defence, against an attacker who knows this much?

On the command line it is `ismn`; in a program:

    from ismn_cli import Attack, ThreatModel, evaluate

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ismn_cli.api.attack import Attack
    from ismn_cli.api.evaluate import evaluate
    from ismn_cli.api.evaluation import Evaluation
    from ismn_cli.core.errors import UsageError
    from ismn_cli.core.specs import ThreatModel
    from ismn_models.pipeline import Defence

__all__ = ["Attack", "Defence", "Evaluation", "ThreatModel", "UsageError", "evaluate"]
_PLACES = {
    "Attack": "ismn_cli.api.attack",
    "Defence": "ismn_models.pipeline",
    "Evaluation": "ismn_cli.api.evaluation",
    "ThreatModel": "ismn_cli.core.specs",
    "UsageError": "ismn_cli.core.errors",
    "evaluate": "ismn_cli.api.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
