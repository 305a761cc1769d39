"""Where the small systems, attacks and images of other rooms are found."""

from __future__ import annotations

import sys
from pathlib import Path

for room in ("models", "attacks", "data"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
