from __future__ import annotations

from hypothesis import settings

# The disk and a busy machine are not on a clock.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
