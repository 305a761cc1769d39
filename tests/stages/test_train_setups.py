"""Settings that depend on the images: filled in before a training begins, refused where they do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from ismn_cli.core import catalogue
from ismn_cli.core.errors import UsageError
from ismn_cli.core.store import Store


@pytest.fixture
def base(trained: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a finished training of the small world's classifier, in a world that has the real MagNet."""
    entry = next(entry for entry in REAL if entry.name == "magnet")
    monkeypatch.setitem(catalogue.SYSTEMS, "magnet", entry)
    monkeypatch.setitem(catalogue.TRAINABLE, "magnet", entry)
    return str(trained("classifier").run.record.id)


REAL = tuple(catalogue.SYSTEMS.values())


def test_the_record_shows_the_set_up_that_the_images_chose(trained: Any, base: str) -> None:
    record = trained("magnet", classifier=base, epochs=1).run.record
    config = record.recipe["config"]
    assert (config["setup"], config["arch"], config["noise"]) == ("cifar10", "improved", 0.025)
    test = record.figures["test"]
    assert test["classes"] == 3
    assert test["majority-class rate"] == pytest.approx(1 / 3)
    assert test["balanced accuracy"] == pytest.approx(test["clean accuracy"])


def test_the_same_set_up_by_name_is_the_same_training(trained: Any, base: str) -> None:
    first = trained("magnet", classifier=base, epochs=1)
    again = trained("magnet", classifier=base, epochs=1, config={"setup": "cifar10", "jsd_drop_rate": 0.01})
    assert again.already and again.run.record.id == first.run.record.id


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"setup": "mnist", "arch": "paper"}, "arch: the set-up mnist has none; leave it out, or set setup=cifar10"),
        ({"off": ["error-2"]}, "off: the set-up cifar10 has no 'error-2'; it has error, jsd-10, jsd-40, reformer"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(
    trained: Any, base: str, store: Store, config: dict[str, Any], said: str
) -> None:
    before = [run.record.id for run in store.runs()]
    with pytest.raises(UsageError) as caught:
        trained("magnet", classifier=base, config=config)
    assert said in caught.value.message and caught.value.message.startswith("settings of magnet: ")
    assert "3 x 8 x 8 pixels" in caught.value.hint
    assert [run.record.id for run in store.runs()] == before


def test_so_are_those_of_the_base_classifier(trained: Any, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = next(entry for entry in REAL if entry.name == "none")
    monkeypatch.setitem(catalogue.SYSTEMS, "none", real)
    with pytest.raises(UsageError, match="classifier_config: arch: magnet-mnist takes images of 16 pixels"):
        trained("magnet", classifier="fresh", classifier_config={"arch": "magnet-mnist"})
