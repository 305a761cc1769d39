"""The columns of every table, by name: what csv and json contain, and what all other formats are drawn from.

The names are stable: within a schema version columns may be added; none is renamed or changes its meaning.

A row is a cell, or a worst case: the per-sample minimum over all attacks of one knowledge level, or over all levels
(``knowledge`` = "all"), with breaks at smaller sizes of the same norm. Worst-case rows have ``attack`` = "worst case"
and a number in ``attacks``; they follow the cells, and what is no figure of theirs is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ismn_cli.core import detection, rates
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
    clock: bool = False
    """Whether it says how long something took, which is another figure every time."""


RATES = (
    RateColumn("clean_accuracy", rates.clean_accuracy, "higher", "right without attack, not refused"),
    RateColumn("accuracy", rates.strict_accuracy, "higher", "right under attack, not refused (strict)"),
    RateColumn(
        "accuracy_rejected_success",
        rates.rejected_counts,
        "higher",
        "right or refused under attack: rejected = success, MagNet's accounting (Meng and Chen 2017)",
    ),
    RateColumn(
        "accuracy_answered",
        rates.answered_accuracy,
        "higher",
        "right under attack among those answered: rejected images are left out (abstained excluded)",
    ),
    RateColumn("accuracy_reformed", rates.reformed_accuracy, "higher", "right under attack, refusals ignored"),
    RateColumn("robust_accuracy", rates.robust_accuracy, "higher", "right both without attack and under it"),
    RateColumn(
        "robust_rejected_success",
        rates.robust_or_refused,
        "higher",
        "right without attack, and right or refused under it: robust_accuracy with rejected = success",
    ),
    RateColumn("detection", rates.detection_rate, "higher", "attacked images the detector flagged"),
    RateColumn("false_positive", rates.false_positive_rate, "lower", "clean images the detector flagged"),
    RateColumn("success", rates.success_rate, "lower", "broken, of those right at first and attacked"),
    RateColumn(
        "tpr_at_fpr_1",
        partial(detection.true_positive_rate, percent=1),
        "higher",
        "attacked images flagged at a threshold with at most 1 % false positives, taken from the clean test scores",
    ),
    RateColumn(
        "tpr_at_fpr_5",
        partial(detection.true_positive_rate, percent=5),
        "higher",
        "attacked images flagged at a threshold with at most 5 % false positives, taken from the clean test scores",
    ),
    RateColumn(
        "sr_at_5",
        partial(detection.success_at, percent=5),
        "lower",
        "SR@5: wrong and not flagged, of those right at first, with the detector re-set to 5 % false positives on the "
        "clean test scores; rejecting systems only, because a routing one would have answered otherwise",
    ),
    RateColumn(
        "clean_accuracy_mean", rates.clean_mean, "higher", "randomised systems: clean accuracy, mean of the draws"
    ),
    RateColumn(
        "clean_accuracy_worst_draw", rates.clean_worst_draw, "higher", "randomised systems: clean, every draw right"
    ),
    RateColumn(
        "clean_accuracy_majority", rates.clean_majority, "higher", "randomised systems: clean, majority of draws right"
    ),
    RateColumn(
        "accuracy_mean", rates.mean_accuracy, "higher", "randomised systems: accuracy under attack, mean of the draws"
    ),
    RateColumn(
        "accuracy_worst_draw", rates.worst_draw, "higher", "randomised systems: under attack, every draw right"
    ),
    RateColumn(
        "accuracy_majority", rates.majority_accuracy, "higher", "randomised systems: under attack, majority right"
    ),
)

IDENTITY = (
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
    Column("knowledge", "string", "what the attacker may touch: clean, black, gray, white, adaptive; all: any of them"),
    Column("attack", "string", "attack method; worst case: the per-sample minimum of several; empty for a clean cell"),
    Column("norm", "string", "norm that bounds the perturbation: linf or l2"),
    Column("eps", "Float64", "size of the perturbation, pixels in [0, 1]"),
    Column("level", "string", "eps as it is usually written, such as 8/255"),
    Column("targeted", "boolean", "whether the attack aims at a class"),
    Column("params", "string", "every other parameter of the attack, as JSON"),
    Column("seed", "Int64", "seed of the attack"),
    Column("batch_size", "Int64", "images attacked at a time"),
    Column("sources", "string", "transfer: the attacker's own systems that the examples are made on, with weights"),
    Column("eot", "Int64", "draws that the attacker averages over at each look at a randomised system"),
    Column("after", "string", "attacks tried before; what they broke is carried over: the worst case so far"),
    Column("draws", "Int64", "how often a system was asked about each image; accuracy is that of the first answer"),
    Column("attacks", "Int64", "worst case: attacked cells at this eps that it is over; empty for a cell"),
)

_MEASURED = (
    Column("paper", "Float64", "the paper's accuracy where a cell corresponds, percent; quoted, no threshold"),
    Column("paper_source", "string", "where that figure is printed, and how its level is read"),
    Column(
        "ceiling",
        "Float64",
        "the most that any classifier which always answers can reach on these images under every perturbation of this "
        "norm and eps, percent; empty where it was not computed",
    ),
    Column("ceiling_images", "Float64", "ceiling: images, a whole number or a half"),
    Column("broken_by", "string", "worst case: images that each attack was the first to break, as JSON"),
    Column("survived", "Int64", "images right before and under attack"),
    Column("broken", "Int64", "images right before and wrong under attack"),
    Column("detected", "Int64", "images right before and refused under attack"),
    Column("wrong_clean", "Int64", "images wrong or refused before any attack"),
    Column(
        "unknown",
        "Int64",
        "images right before on which the attack (worst case: every attack) failed; never counted as robust",
    ),
    Column(
        "failed",
        "Int64",
        "all images on which the attack crashed, gave NaN or left the threat model; worst case: "
        "images right before on which any of the attacks did",
    ),
    Column("linf_mean", "Float64", "mean L-inf distance of the images attacked, pixels in [0, 1]"),
    Column("linf_max", "Float64", "largest L-inf distance"),
    Column("l2_mean", "Float64", "mean L2 distance of the images attacked, pixels in [0, 1]"),
    Column("l2_max", "Float64", "largest L2 distance"),
    Column("forwards_per_image", "Float64", "forward passes of the attack per image"),
    Column("backwards_per_image", "Float64", "backward passes of the attack per image"),
    Column("queries_per_image", "Float64", "images shown to the whole system by the attacker, per image"),
    Column("attack_ms", "Float64", "time of the attack per image, ms", clock=True),
    Column("latency_ms", "Float64", "time of the system's decision per image, ms", clock=True),
    Column("loops_clean", "Float64", "mean regenerations per clean image; 0 is the clean route"),
    Column("loops_attacked", "Float64", "mean regenerations per attacked image"),
    Column("auroc", "Float64", "area under the detector's ROC curve, attacked against clean test images, 0 to 1"),
    Column("unreliable", "string", "checks of the audit that failed and make the figure unreliable: see `ismn audit`"),
    Column("notes", "string", "notes of the cell"),
    Column("cell", "string", "key of the cell in the store"),
)


def of_rate(name: str, meaning: str, better: Better) -> Iterator[Column]:
    """Yield the columns of a rate: percentage, Wilson interval and counts."""
    yield Column(name, "Float64", f"{meaning}; percent, {better} is better")
    yield Column(f"{name}_low", "Float64", f"{name}: lower end of the 95 % Wilson interval, percent")
    yield Column(f"{name}_high", "Float64", f"{name}: upper end of the 95 % Wilson interval, percent")
    yield Column(f"{name}_hits", "Int64", f"{name}: images that count")
    yield Column(f"{name}_total", "Int64", f"{name}: images that it is a share of; 0 where undefined")


COLUMNS: tuple[Column, ...] = (
    *IDENTITY,
    *(column for rate in RATES for column in of_rate(rate.name, rate.meaning, rate.better)),
    *_MEASURED,
)
