"""The arithmetic of a large study: time, memory, network, storage and files, from figures measured on one machine.

The study: the 50,000 validation images of ImageNet at 224x224x3, 100 defences around a ResNet-50, 8 nodes of 8 GPUs.
Its tables are in docs/large-studies.md, from the figures in `RECORDED`; those in `ASSUMED` nobody measured here.

    python benchmarks/study_size.py              the tables, from the recorded figures
    python benchmarks/study_size.py --measure    measures them here first, in a few minutes, and prints them too
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

IMAGES, PIXELS, DEFENCES, GPUS, BATCH = 50_000, 3 * 224 * 224, 100, 64, 32
HOUR, GB, TB = 3600, 1e9, 1e12


@dataclass(frozen=True)
class Attack:
    """An attack of the study; ``shared``: its examples are made once for all defences."""

    name: str
    level: str
    shared: bool
    forwards: int
    """For an image that holds, as `ismn plan` counts them; through one route."""
    backwards: int
    routes: int = 1
    """Through each defence: assumed where there are several."""


ATTACKS = (
    Attack("fgsm", "gray", True, 1, 1),
    Attack("pgd, 10 steps", "gray", True, 10, 10),
    Attack("pgd, 40 steps", "white", False, 40, 40),
    Attack("apgd, 100 steps", "adaptive", False, 102, 101, routes=2),
)


@dataclass(frozen=True)
class Measured:
    """What was measured, on one core of one machine unless it says otherwise."""

    forward_gflop: float
    """ResNet-50 forward on an image, counted."""
    both_gflop: float
    """Forward and back to the image, the parameters frozen."""
    forward_cpu: float
    """Seconds for the same on one core, fp32."""
    both_cpu: float
    step_gb: float
    """Tensors of a gradient step on a batch of 32, as `ismn plan` finds them."""
    weights_gb: float
    """Of one ResNet-50, fp32."""
    process_gb: float
    """A process that has imported torch and ismn."""
    record_bytes: float
    """On disk: a cell's result for an image."""
    result_bytes: float
    """The same in memory."""
    example_bytes: float
    """On disk beside the pixels of an example."""
    write_ms: float
    """To serialise, hash and write an example of the study's size."""
    part_ms: float
    """To find, open and join a part of a cell, whatever is in it."""
    merge_us: float
    """For an image of a cell: parts read and checked, joined, stored."""
    report_us: float
    """For an image of a cell: audited and put into the table."""
    lookup_ms: float
    """To find that a cell is not stored."""
    plan_ms: float
    """For a cell of 500: its key, and its place in the order of the tasks."""
    pair_ns: float
    """For a pair of images compared for the ceiling at 8/255."""


@dataclass(frozen=True)
class Assumed:
    """What nobody measured here."""

    tflops: float = 100.0
    """That a GPU sustains on the net, in 10**12 floating-point operations a second."""
    defence: float = 1.5
    """Passes of a defended system, in those of its classifier."""
    start: float = 300.0
    """Seconds until a job computes: Python, 100 systems, images from a shared file system."""


RECORDED = Measured(
    forward_gflop=8.178368512,
    both_gflop=16.356737024,
    forward_cpu=0.0725,
    both_cpu=0.1615,
    step_gb=2.934904144,
    weights_gb=0.102228128,
    process_gb=0.566,
    record_bytes=135.7,
    result_bytes=253.9,
    example_bytes=61.4,
    write_ms=1.49,
    part_ms=0.124,
    merge_us=3.17,
    report_us=5.36,
    lookup_ms=0.0124,
    plan_ms=0.0177,
    pair_ns=83.6,
)
"""On one core of two of an AMD EPYC, a virtual machine with torch 2.15 on which others worked too; November 2026."""
ASSUMED = Assumed()


@dataclass(frozen=True)
class Size:
    """The study's arithmetic."""

    measured: Measured
    assumed: Assumed = ASSUMED

    cells = DEFENCES * (1 + len(ATTACKS))
    batches = -(-IMAGES // BATCH)
    jobs = sum(1 if attack.shared else DEFENCES for attack in ATTACKS)
    """Each makes examples of all images."""

    def gflop(self, attack: Attack) -> float:
        """Return what an attack's examples take for all images, on all defences."""
        backward = self.measured.both_gflop - self.measured.forward_gflop
        image = attack.forwards * self.measured.forward_gflop + attack.backwards * backward
        times = 1.0 if attack.shared else DEFENCES * attack.routes * self.assumed.defence
        return IMAGES * times * image

    def judging(self) -> float:
        """Return the gflop of the decisions in all cells."""
        return IMAGES * self.cells * self.measured.forward_gflop * self.assumed.defence

    def gpu_hours(self, gflop: float) -> float:
        """Return the hours that one GPU takes."""
        return gflop / (1000 * self.assumed.tflops) / HOUR

    def computing(self) -> float:
        """Return the seconds that all GPUs together compute."""
        gflop = self.judging() + sum(map(self.gflop, ATTACKS))
        return self.gpu_hours(gflop) * HOUR / GPUS

    def core_years(self) -> float:
        """Return the same on cores such as that on which was measured."""
        backward = self.measured.both_cpu - self.measured.forward_cpu
        seconds = IMAGES * self.cells * self.assumed.defence * self.measured.forward_cpu
        for attack in ATTACKS:
            share = self.gflop(attack) / (IMAGES * (attack.forwards + attack.backwards))
            unit = share / (self.measured.both_gflop / 2)
            seconds += IMAGES * unit * (attack.forwards * self.measured.forward_cpu + attack.backwards * backward)
        return seconds / HOUR / 24 / 365

    def example_tb(self) -> float:
        """Return the size of all examples."""
        return self.jobs * IMAGES * (4 * PIXELS + self.measured.example_bytes) / TB

    def writing(self, writers: int = GPUS) -> float:
        """Return the seconds that each of so many processes spends on examples; what the disk takes comes on top."""
        return self.jobs * IMAGES * self.measured.write_ms / 1000 / writers

    def traffic(self) -> float:
        """Return the GB a second into the store while all compute."""
        return self.example_tb() * TB / GB / (self.computing() + self.writing())

    def results_gb(self) -> float:
        """Return the size of all results on disk."""
        return self.cells * IMAGES * self.measured.record_bytes / GB

    def merge_gb(self) -> float:
        """Return the memory of all results in the job that merges."""
        return self.cells * IMAGES * self.measured.result_bytes / GB

    def merging(self, shards: int) -> float:
        """Return the seconds to put the parts together."""
        return self.cells * (shards * self.measured.part_ms / 1000 + IMAGES * self.measured.merge_us / 1e6)

    def reporting(self) -> float:
        """Return the seconds for audit and table."""
        return self.cells * IMAGES * self.measured.report_us / 1e6

    def ceiling(self) -> float:
        """Return the seconds to compare all pairs of images, once."""
        return IMAGES**2 / 2 * self.measured.pair_ns / 1e9


def lines(size: Size) -> Iterator[str]:
    """Yield the tables of the page, in Markdown."""
    yield from _table(("input", "", "figure"), [*_inputs(size.measured, size.assumed)])
    yield ""
    yield from _table(("attack", "level", "made for", "passes an image", "GPU hours"), [*_attacks(size)])
    yield ""
    yield from _table(("what", "how", "figure"), [*_totals(size)])


def _inputs(m: Measured, a: Assumed) -> Iterator[tuple[str, str, str]]:
    yield "ResNet-50, an image forward", "counted", f"{m.forward_gflop:.2f} GFLOP"
    yield "ResNet-50, forward and back to the image", "counted", f"{m.both_gflop:.2f} GFLOP"
    yield "the same on one core, fp32", "measured", f"{1000 * m.forward_cpu:.0f} ms, {1000 * m.both_cpu:.0f} ms"
    yield f"gradient step on {BATCH} images, its tensors", "measured", f"{m.step_gb:.2f} GB"
    yield "weights of a ResNet-50, fp32", "counted", f"{m.weights_gb:.3f} GB"
    yield "process with torch and ismn, before any image", "measured", f"{m.process_gb:.2f} GB"
    yield "an example on disk", "measured", f"{4 * PIXELS + m.example_bytes:,.0f} bytes"
    yield "to serialise, hash and write it", "measured", f"{m.write_ms:.2f} ms"
    yield "a cell's result for an image, on disk", "measured", f"{m.record_bytes:.0f} bytes"
    yield "the same in memory", "measured", f"{m.result_bytes:.0f} bytes"
    yield "to read, join and store it", "measured", f"{m.merge_us:.1f} µs"
    yield "to open a part of a cell, beside that", "measured", f"{m.part_ms:.2f} ms"
    yield "to audit it and put it into the table", "measured", f"{m.report_us:.1f} µs"
    yield "to find that a cell is not stored", "measured", f"{m.lookup_ms:.3f} ms"
    yield f"to plan a cell of {Size.cells}", "measured", f"{m.plan_ms:.3f} ms"
    yield "to compare two images for the ceiling at 8/255", "measured", f"{m.pair_ns:.0f} ns"
    yield "a GPU sustains", "assumed", f"{a.tflops:.0f} TFLOP/s"
    yield "a defended system, in passes of its classifier", "assumed", f"{a.defence:g}"
    yield "routes of the adaptive attack", "assumed", f"{max(attack.routes for attack in ATTACKS)}"
    yield "a job's start", "assumed", f"{a.start / 60:.0f} min"


def _attacks(size: Size) -> Iterator[tuple[str, ...]]:
    for attack in ATTACKS:
        passes = attack.routes * (attack.forwards + attack.backwards)
        made = "all defences" if attack.shared else "each defence"
        yield attack.name, attack.level, made, str(passes), f"{size.gpu_hours(size.gflop(attack)):,.2f}"
    yield "all decisions", "", "each cell", "1", f"{size.gpu_hours(size.judging()):,.2f}"


def _totals(size: Size) -> Iterator[tuple[str, str, str]]:
    m, shards = size.measured, GPUS
    yield "cells", f"{DEFENCES} defences x (clean + {len(ATTACKS)} attacks)", f"{size.cells}"
    yield "batches", f"of {BATCH} images: the most shards there can be", f"{size.batches:,}"
    yield "computing", f"{GPUS} GPUs side by side", f"{size.computing() / 60:,.0f} min"
    yield "starting", "each job, beside that", f"{size.assumed.start / 60:,.0f} min"
    yield "writing examples", "each shard, beside that", f"{size.writing() / 60:,.1f} min"
    yield "writing examples", "one process for all, as the driver of Ray", f"{size.writing(1) / HOUR:,.1f} h"
    yield "the same on CPUs", "cores like the one measured", f"{size.core_years():,.0f} core years"
    yield "memory, GPU", "all systems' weights and a step", f"{DEFENCES * m.weights_gb + m.step_gb:,.1f} GB"
    own = m.process_gb + m.weights_gb + size.merge_gb() / shards
    yield "memory, worker", "process, a system on its way to the GPU, its share of the results", f"{own:,.1f} GB"
    yield "images on disk", "uint8, mapped into memory by all workers of a node", f"{IMAGES * PIXELS / GB:,.1f} GB"
    yield "examples on disk", f"{size.jobs} x {IMAGES:,}, float32", f"{size.example_tb():,.2f} TB"
    yield "files of examples", "one for each batch", f"{size.jobs * size.batches:,}"
    yield "network", "examples into the store while all compute", f"{size.traffic():,.2f} GB/s"
    yield "network", "of each of 8 nodes", f"{size.traffic() / 8:,.2f} GB/s"
    yield "results on disk", "cells", f"{size.results_gb():,.1f} GB"
    yield "files of parts", f"{shards} shards, until they are merged", f"{size.cells * shards:,}"
    yield "lookups", "by each shard, before it begins", f"{size.cells * (m.lookup_ms + m.plan_ms) / 1000:,.2f} s"
    yield "merging", f"{shards} shards, one process", f"{size.merging(shards) / 60:,.0f} min"
    yield "merging", f"{size.batches:,} shards", f"{size.merging(size.batches) / 60:,.0f} min"
    yield "audit and table", "the same process", f"{size.reporting() / 60:,.0f} min"
    yield "memory, merging", "all results at once", f"{size.merge_gb():,.0f} GB"
    yield "ceiling", "all pairs of images at 8/255, once", f"{size.ceiling() / 60:,.0f} min"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{':--|' * (len(head) - 1)}--:|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure here first (default: the recorded figures)")
    measured = RECORDED
    if parser.parse_args().measure:
        from study_costs import measure  # noqa: PLC0415 - it imports torch

        measured = measure()
        sys.stdout.write(f"{measured}\n\n")
    sys.stdout.write("\n".join(lines(Size(measured))) + "\n")


if __name__ == "__main__":
    main()
