"""`ismn plan --slurm`: the script that hands a recipe to a cluster, written into the current folder."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ismn_cli.cli.console import say
from ismn_cli.core.errors import UsageError

if TYPE_CHECKING:
    from ismn_cli.core.forecast import Forecast
    from ismn_cli.core.outlook import Outlook
    from ismn_cli.core.recipes import MatrixRecipe
    from ismn_cli.core.store import Store


@dataclass(frozen=True)
class Script:
    """The script for a recipe that is about to be planned."""

    path: Path
    recipe: MatrixRecipe
    store: Store
    data_dir: Path | None
    shards: int | None
    """As asked for."""

    @classmethod
    def begin(
        cls, recipe: MatrixRecipe, store: Store, data_dir: Path | None, device: str, shards: int | None
    ) -> Script:
        """Check what can be, before anything is timed. Raises UsageError: somebody's own file, trainings to be done."""
        from ismn_cli.reporting.slurm_script import unchanged
        from ismn_cli.stages.trainings import finished_steps

        path = Path.cwd() / f"slurm-{recipe.name}.sh"
        if path.exists() and not (path.is_file() and unchanged(path.read_bytes())):
            raise UsageError(
                f"'{path}' is there, and not as `ismn plan --slurm` wrote it.", "Move it away, then type this again."
            )
        finished_steps(recipe, store, data_dir, device)
        return cls(path, recipe, store, data_dir, shards)

    def check(self, found: Outlook) -> None:
        """Raise UsageError for a system without weights: it cannot be timed, and so no time be asked for."""
        missing = [system for system in found.systems if not system.ready]
        for system in missing:
            if system.name not in self.recipe.optional or len(missing) == len(found.systems):
                raise UsageError(f"{system.name} cannot be timed. {system.origin}", "Leave it out, or train it first.")

    def write(self, words: Sequence[str], found: Outlook, costs: Forecast, images: int) -> None:
        """Write the script of an `ismn run` with these ``words``, which takes so many images; say what to type."""
        import torch

        from ismn_cli.core.slurm import jobs_of
        from ismn_cli.core.storage import write_bytes
        from ismn_cli.reporting.slurm_script import Setting, slurm_script

        jobs = jobs_of(costs, found, images, self.recipe.batch_size, _held(), self.shards)
        kind, threads = torch.device(found.device).type, torch.get_num_threads()
        place = ["--store", str(self.store.root)]
        data = ["--data-dir", str(self.data_dir.expanduser().absolute())] if self.data_dir else []
        # Of several devices Slurm gives one, which is then the first.
        run = [_program(), "run", _recipe(words[0]), *words[1:], *self._search(kind), *place, *data, "--device", kind]
        report = [_program(), "report", "--format", "markdown", "-o", str(self.path.with_suffix(".md")), *place]
        setting = Setting(self.path.parent, _environment(threads), threads, gpu=kind == "cuda")
        write_bytes(self.path, slurm_script(self.recipe.name, jobs, setting, run, report))
        say(f"script: {self.path}")
        say(f"next:   {shlex.join(['bash', self.path.name])}")

    def _search(self, kind: str) -> list[str]:
        """Return the override that pins the precision: nodes of several kinds would each choose their own."""
        import torch

        from ismn_cli.core.specs import Search
        from ismn_cli.engine.passes import search_precision

        if self.recipe.search is not Search.AUTO:
            return []
        return [f"search={search_precision(self.recipe.search, torch.device(kind))}"]


def _recipe(name: str) -> str:
    """Return a recipe's name, or its whole path."""
    from ismn_cli.core.recipe_files import find_recipe, packaged_names

    return name if name in packaged_names() else str(find_recipe(name).absolute())


def _program() -> str:
    beside = Path(sys.executable).with_name("ismn")
    return str(beside) if beside.is_file() else shutil.which("ismn") or "ismn"


def _held() -> int:
    """Return the most bytes that this process has had in memory."""
    import resource  # not on Windows, where there is no Slurm either

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _environment(threads: int) -> dict[str, str]:
    from ismn_cli.core.storage import home_folder

    data = os.environ.get("ISMN_DATA_DIR")
    given = {"ISMN_DATA_DIR": str(Path(data).absolute())} if data else {}
    return {"OMP_NUM_THREADS": str(threads), "ISMN_HOME": str(home_folder()), **given}
