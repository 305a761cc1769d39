"""MagNet's set-up for MNIST among recipes and claims: what is configured, and that its figures are marked."""

from __future__ import annotations

from ismn_cli.attacks.params import resolve_params
from ismn_cli.core.claim_files import load_claims
from ismn_cli.core.recipe_files import load_recipe
from ismn_cli.core.recipes import MatrixRecipe, TrainRecipe
from ismn_cli.core.settings import build_settings
from ismn_cli.core.specs import ThreatModel
from ismn_cli.reporting.published import lookup
from ismn_models.classifiers.config import ClassifierConfig
from ismn_models.magnet.config import MagnetConfig
from ismn_models.shape import Shape

MNIST = Shape(10, 1, 28)
# Attack, level, without and with MagNet.
TABLE = """
fgsm	0.005	0.968	1
fgsm	0.010	0.911	1
iterative	0.005	0.952	1
iterative	0.010	0.720	1
iterative-l2	0.5	0.867	0.992
iterative-l2	1.0	0.766	1
"""


def test_the_claims_hold_the_rows_that_have_a_size() -> None:
    expected = set()
    for line in TABLE.strip().splitlines():
        attack, *numbers = line.split()
        level, without, defended = map(float, numbers)
        expected |= {("none", attack, level, without), ("magnet", attack, level, defended)}
    claims = load_claims("magnet-mnist")
    assert {(c.system, c.attack, c.level, c.figure) for c in claims.each()} == expected


def test_wherever_a_figure_is_quoted_it_is_called_unverified() -> None:
    claims = load_claims("magnet-mnist")
    assert "unverified" in claims.cite and "Unverified" in claims.caveat
    for method in ("fgsm", "pgd"):
        for eps, shown in ((0.005, True), (0.01, True), (0.1, False)):
            found = lookup("mnist", "magnet", method, "linf", eps, "gray")
            assert (found is not None) == shown
            assert found is None or ("unverified" in found.cite and found.accuracy == 1)
    assert lookup("mnist", "magnet", "fgsm", "linf", 0.005, "white") is None
    assert lookup("cifar10", "magnet", "fgsm", "linf", 0.005, "gray") is None


def test_each_attack_of_the_claims_can_be_made() -> None:
    claims = load_claims("magnet-mnist")
    for reading in claims.readings:
        for attack in reading.attacks:
            for claim in claims.each():
                if claim.attack == attack.label:
                    threat = ThreatModel(norm=reading.norm, eps=reading.eps_at(claim.level))
                    assert resolve_params(attack.method, threat, attack.params_at(claim.level)).threat == threat


def test_the_training_is_that_of_the_authors() -> None:
    recipe = load_recipe("train-magnet-mnist")
    assert isinstance(recipe, TrainRecipe)
    net = build_settings(ClassifierConfig, recipe.classifier_config, "classifier_config").resolved(MNIST)
    assert (net.arch, net.epochs, net.batch_size, net.lr) == ("magnet-mnist", 50, 128, 0.01)
    assert (net.schedule, net.shift, net.weight_decay, net.label_smoothing) == ("inverse-time", 0, 0.0, 0.0)
    magnet = build_settings(MagnetConfig, recipe.config, "config").resolved(MNIST)
    assert (magnet.epochs, magnet.batch_size, magnet.lr, magnet.noise) == (100, 256, 1e-3, 0.1)
    assert (magnet.error_drop_rate, magnet.activity_weight) == (0.001, 1e-9)


def test_the_matrix_has_the_papers_sizes_and_larger_ones() -> None:
    recipe = load_recipe("magnet-mnist-attacks")
    assert isinstance(recipe, MatrixRecipe)
    assert recipe.attack.eps == (0.005, 0.01, 0.1, 0.2, 0.3)
    assert recipe.attack.method == ("fgsm", "pgd") and recipe.defence == ("none", "magnet")
