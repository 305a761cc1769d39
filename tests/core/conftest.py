from __future__ import annotations

from hypothesis import settings
from s3_server import s3, server  # noqa: F401 - fixtures

# The disk and a busy machine are not on a clock.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
