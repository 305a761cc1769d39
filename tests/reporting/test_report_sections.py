"""What stands side by side, and how two things of one name are told apart."""

from __future__ import annotations

from collections.abc import Sequence

from report_cells import answers, cell, digest, matrix, result, samples

from ismn_cli.core.records import CellResult
from ismn_cli.core.specs import Cell, Knowledge, Norm, Subject
from ismn_cli.reporting.sections import Section, sections
from ismn_cli.reporting.table import comparison


def ten(where: Cell) -> CellResult:
    """Return a result on ten images."""
    attacked = answers(10, 5) if where.attack else None
    return result(where, answers(10, 9), attacked)


def divided(*cells: Cell) -> list[Section]:
    return sections(comparison([ten(one) for one in cells]))


def at(system: str, method: str | None = "pgd", eps: float = 0.2, **changes: object) -> Cell:
    return cell(system, method, eps, **({"samples": samples(n=10)} | changes))


def labels(found: Sequence[Section]) -> list[tuple[str, str, float]]:
    return [box for section in found for box in section.boxes]


def test_matrix_is_one_section() -> None:
    (section,) = sections(comparison(matrix()))
    assert section.title == "cifar10 test, first 1,000 of 10,000 images, gray-box"
    assert list(section.clean) == ["none", "ismn", "magnet", "ddsa"]
    assert list(section.attacks()) == ["fgsm", "rfgsm", "pgd"] and len(section.boxes) == 48


def test_other_images_knowledge_or_classifier_never_share_a_section() -> None:
    other = Subject(name="none", weights=digest("other"))
    base = at("ismn")
    for change in (
        {"samples": samples(n=10, dataset="mini")},
        {"knowledge": Knowledge.WHITE},
        {"classifier": other},
    ):
        assert len(divided(base, at("ismn", **change))) == 2
    titles = [section.title for section in divided(base, at("ismn", classifier=other))]
    assert titles[0] != titles[1] and f"classifier {other.weights[:8]}" in titles[1]


def test_as_many_but_other_images_are_told_apart() -> None:
    for word, field in (("images", "ids"), ("pixels", "data")):
        other = samples(n=10).model_copy(update={field: digest("other")})
        found = divided(at("ismn"), at("none", samples=other))
        assert len(found) == 2 and f"{word} {digest('other')[:8]}" in found[1].title


def test_clean_cells_join_the_attacked_ones() -> None:
    (section,) = divided(at("none", None), at("ismn", None), at("ismn"))
    assert list(section.clean) == ["none", "ismn"] and len(section.boxes) == 1
    (alone,) = divided(at("none", None))
    assert alone.title.endswith("no attack") and not alone.boxes


def test_weights_are_told_where_one_name_has_several() -> None:
    new = Subject(name="ismn", weights=digest("new"))
    (section,) = divided(at("ismn"), at("ismn", defence=new), at("none"))
    assert list(section.clean) == [f"ismn {digest('ismn')[:8]}", f"ismn {new.weights[:8]}", "none"]


def test_settings_are_told_only_where_they_differ() -> None:
    same = divided(at("none", params={"steps": 10}), at("ismn", params={"steps": 10}))
    assert labels(same) == [("none", "pgd", 0.2), ("ismn", "pgd", 0.2)]
    differ = divided(at("none", params={"steps": 10}), at("none", params={"steps": 40}))
    assert [attack for _, attack, _ in labels(differ)] == ["pgd, steps=10", "pgd, steps=40"]
    seeds = divided(at("none", seed=0), at("none", seed=1))
    assert [attack for _, attack, _ in labels(seeds)] == ["pgd, seed=0", "pgd, seed=1"]


def test_settings_that_follow_eps_are_not_told() -> None:
    found = divided(at("none", eps=0.2, params={"alpha": 0.05}), at("none", eps=0.4, params={"alpha": 0.1}))
    assert labels(found) == [("none", "pgd", 0.2), ("none", "pgd", 0.4)]


def test_norm_and_target_are_named() -> None:
    found = divided(at("none", norm=Norm.L2), at("none", targeted=True), at("none"))
    assert [attack for _, attack, _ in labels(found)] == ["pgd l2", "pgd targeted", "pgd"]


def test_levels_ascend() -> None:
    (section,) = divided(at("none", eps=0.4), at("none", eps=0.2), at("none", eps=0.3))
    assert section.attacks() == {"pgd": [0.2, 0.3, 0.4]}
