"""Where a run takes place: versions, device, source. Nothing is imported to find out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from ismn_cli.core.records import Environment

PACKAGES = ("torch", "torchvision", "torchattacks", "numpy", "scipy", "pandas", "pydantic", "safetensors")
_SOURCE = Path(__file__).resolve().parents[2]


def capture(device: str, threads: int) -> Environment:
    """Return this process's environment; ``device`` and ``threads`` are the engine's choice."""
    found = {name: version for name in PACKAGES if (version := _version(name))}
    return Environment(
        ismn=ismn_version(),
        commit=source_commit(_SOURCE),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=found,
        device=device,
        threads=threads,
    )


def ismn_version() -> str:
    """Return the version that is installed."""
    return _version("ismn-cli") or "not installed"


def source_commit(source: Path) -> str | None:
    """Return the git commit of a source tree, "-dirty" where files differ; None for an installed package."""
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    # Inside a git hook these would lead to another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
