"""The columns of every table, by name: what csv and json contain, and what all other formats are drawn from.

The names are stable: within a schema version columns may be added; none is renamed or changes its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ismn_cli.core import rates
from ismn_cli.core.rates import Rate
from ismn_cli.core.records import CellResult

Better = Literal["higher", "lower"]
Kind = Literal["string", "Int64", "Float64", "boolean"]


@dataclass(frozen=True)
class RateColumn:
    """A rate of a cell; in the table its percentage, Wilson interval and counts."""

    name: str
    measure: Callable[[CellResult], Rate]
    better: Better
    meaning: str


@dataclass(frozen=True)
class Column:
    """A column of the table: its stable name, its pandas dtype and its meaning."""

    name: str
    kind: Kind
    meaning: str


RATES = (
    RateColumn("clean_accuracy", rates.clean_accuracy, "higher", "right without attack, not refused"),
    RateColumn("accuracy", rates.strict_accuracy, "higher", "right under attack, not refused (strict)"),
    RateColumn(
        "accuracy_rejected_success",
        rates.rejected_counts,
        "higher",
        "right or refused under attack: rejected = success, MagNet's accounting (Meng and Chen 2017)",
    ),
    RateColumn("accuracy_reformed", rates.reformed_accuracy, "higher", "right under attack, refusals ignored"),
    RateColumn("robust_accuracy", rates.robust_accuracy, "higher", "right both without attack and under it"),
    RateColumn("detection", rates.detection_rate, "higher", "attacked images the detector flagged"),
    RateColumn("false_positive", rates.false_positive_rate, "lower", "clean images the detector flagged"),
    RateColumn("success", rates.success_rate, "lower", "broken, of those right at first and attacked"),
)

_IDENTITY = (
    Column("dataset", "string", "data set"),
    Column("split", "string", "split of the data set"),
    Column("samples", "string", "sha256 over data set, split and sample ids: equal means the same images"),
    Column("data", "string", "sha256 over the pixels of those images"),
    Column("n", "Int64", "images evaluated"),
    Column("split_size", "Int64", "images in the whole split"),
    Column("classifier", "string", "the undefended classifier"),
    Column("classifier_weights", "string", "sha256 of its weights"),
    Column("defence", "string", "the system measured"),
    Column("defence_weights", "string", "sha256 of its weights"),
    Column("knowledge", "string", "what the attacker may touch: clean, black, gray, white or adaptive"),
    Column("attack", "string", "attack method; empty for a clean cell"),
    Column("norm", "string", "norm that bounds the perturbation: linf or l2"),
    Column("eps", "Float64", "size of the perturbation, pixels in [0, 1]"),
    Column("level", "string", "eps as it is usually written, such as 8/255"),
    Column("targeted", "boolean", "whether the attack aims at a class"),
    Column("params", "string", "every other parameter of the attack, as JSON"),
    Column("seed", "Int64", "seed of the attack"),
    Column("batch_size", "Int64", "images attacked at a time"),
)

_MEASURED = (
    Column("paper", "Float64", "the paper's accuracy where a cell corresponds, percent; quoted, no threshold"),
    Column("paper_source", "string", "where that figure is printed, and how its level is read"),
    Column("survived", "Int64", "images right before and under attack"),
    Column("broken", "Int64", "images right before and wrong under attack"),
    Column("detected", "Int64", "images right before and refused under attack"),
    Column("wrong_clean", "Int64", "images wrong or refused before any attack"),
    Column("unknown", "Int64", "images right before on which the attack failed; never counted as robust"),
    Column("failed", "Int64", "all images on which the attack crashed, gave NaN or left the threat model"),
    Column("linf_mean", "Float64", "mean L-inf distance of the images attacked, pixels in [0, 1]"),
    Column("linf_max", "Float64", "largest L-inf distance"),
    Column("l2_mean", "Float64", "mean L2 distance of the images attacked, pixels in [0, 1]"),
    Column("l2_max", "Float64", "largest L2 distance"),
    Column("forwards_per_image", "Float64", "forward passes of the attack per image"),
    Column("backwards_per_image", "Float64", "backward passes of the attack per image"),
    Column("attack_ms", "Float64", "time of the attack per image, ms"),
    Column("latency_ms", "Float64", "time of the system's decision per image, ms"),
    Column("loops_clean", "Float64", "mean regenerations per clean image; 0 is the clean route"),
    Column("loops_attacked", "Float64", "mean regenerations per attacked image"),
    Column("notes", "string", "notes of the cell"),
    Column("cell", "string", "key of the cell in the store"),
)


def _of_rate(rate: RateColumn) -> Iterator[Column]:
    name = rate.name
    yield Column(name, "Float64", f"{rate.meaning}; percent, {rate.better} is better")
    yield Column(f"{name}_low", "Float64", f"{name}: lower end of the 95 % Wilson interval, percent")
    yield Column(f"{name}_high", "Float64", f"{name}: upper end of the 95 % Wilson interval, percent")
    yield Column(f"{name}_hits", "Int64", f"{name}: images that count")
    yield Column(f"{name}_total", "Int64", f"{name}: images that it is a share of; 0 where undefined")


COLUMNS: tuple[Column, ...] = (
    *_IDENTITY,
    *(column for rate in RATES for column in _of_rate(rate)),
    *_MEASURED,
)
