"""`ismn_cli.evaluate`: live objects through the stages of the command line, with its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ismn_cli import Attack, Defence, Evaluation, ThreatModel, UsageError, evaluate
from ismn_cli.core.recipes import DataChoice
from ismn_cli.data.loading import load_dataset
from ismn_cli.stages import resolve
from ismn_models.pipeline import Classify

EPS = ThreatModel(eps=16 / 255)
RELEASED = resolve.released_folder
SOURCE = """
import torch
from torch import nn

from ismn_models.pipeline import Defence


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.out = nn.Linear(3 * 64, 10, bias=False)
        self.out.weight.data = torch.randn(10, 192, generator=generator)

    def forward(self, x):
        return self.out(nn.functional.adaptive_avg_pool2d(x, 8).flatten(1))


class Coarse(Defence):
    policy = "reform"
    differentiable = False

    def __init__(self, levels=4):
        super().__init__()
        self.levels = levels

    def reform(self, x):
        return (x * self.levels).round() / self.levels


def sign(model, x, y, eps, steps=2):
    for _ in range(steps):
        x0 = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x0).gather(1, y[:, None]).sum(), x0)
        x = (x - eps / steps * gradient.sign()).clamp(0, 1)
    return x
"""


class Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.out = nn.Linear(3 * 64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.flatten(1))


class Darker(Defence):
    policy = "reform"

    def __init__(self, share: float = 0.9) -> None:
        super().__init__()
        self.share = share

    def reform(self, x: Tensor) -> Tensor:
        return self.share * x


class Bright(Defence):
    policy = "reject"

    def score(self, x: Tensor, classify: Classify) -> Tensor:
        return x.mean((1, 2, 3))

    def calibrate(self, batches: Iterable[Tensor], classify: Classify) -> None:
        self.threshold.copy_(torch.cat([self.score(x, classify) for x in batches]).quantile(0.9))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Without released weights there is nothing to test the attacks themselves on, which takes seconds for each.
    monkeypatch.setattr(resolve, "released_folder", lambda: tmp_path / "released")
    (tmp_path / "released").mkdir()
    monkeypatch.setenv("ISMN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return tmp_path / "home"


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8)


def labels(net: nn.Module, images: Tensor) -> Tensor:
    return net(images / 255).argmax(1)


def run(net: nn.Module, images: Tensor, **options: object) -> Evaluation:
    chosen = {"attacks": ["fgsm"], "threat": EPS, "doctor": False} | options
    return evaluate(net, images, labels(net, images), **chosen)


def cells(found: Evaluation) -> list[str]:
    return [result.cell.key() for result in found.results]


def test_the_figures_are_the_command_lines(tmp_path: Path) -> None:
    (tmp_path / "live_mine.py").write_text(SOURCE)
    from ismn_cli.cli.app import exit_code

    arguments = ["--model", "live_mine.py:Net", "--defence", "none,live_mine.py:Coarse", "--skip-doctor"]
    levels = ["--knowledge", "white,adaptive", "--method", "fgsm,pgd,live_mine.py:sign", "--eps", "4/255"]
    data = ["--limit", "12", "--dataset", "cifar10-mini", "--store", str(tmp_path / "shell")]
    assert exit_code(["attack", *arguments, *levels, *data]) == 0
    from ismn_cli.core.store import Store

    store = Store.open(tmp_path / "shell")
    theirs = [store.cell(key) for key in store.runs()[0].record.cells]
    sys.path.insert(0, str(tmp_path))
    import live_mine

    subset = load_dataset(DataChoice(name="cifar10-mini", limit=12), "test", None)
    found = evaluate(
        live_mine.Net(),
        subset.pixels,
        subset.labels,
        attacks=["fgsm", "pgd", live_mine.sign],
        threat=ThreatModel(eps=4 / 255),
        defences=["none", live_mine.Coarse()],
        knowledge=["white", "adaptive"],
        doctor=False,
    )
    assert len(theirs) == len(found.results) == 14
    for one, other in zip(theirs, found.results, strict=True):
        assert one is not None
        assert one.outcomes() == other.outcomes()
        assert (one.clean, one.attacked) == (other.clean, other.attacked)
        assert (one.linf, one.l2, one.notes) == (other.linf, other.l2, other.notes)
        assert (one.forwards, one.backwards) == (other.forwards, other.backwards)


def test_live_modules_and_names_give_one_matrix(net: Net, images: Tensor) -> None:
    found = run(net, images, attacks=["fgsm", Attack("pgd", steps=3)], defences=["none", "median", Darker()])
    table = found.worst_case()
    assert table["defence"].tolist() == ["none", "median", "Darker"]
    assert (table["low"] <= table["robust"]).all() and (table["robust"] <= table["high"]).all()
    assert table["samples"].tolist() == [12] * 3
    assert isinstance(found.table(), pd.DataFrame)
    assert {"fgsm", "pgd", "worst case"} <= set(found.table()["attack"].dropna())
    assert found.results[2].cell.attack.params["steps"] == 3
    assert found.run.record.status == "done"
    assert found.audit.run == found.run.record.id
    assert len(found.audit.findings) > 3


def test_a_report_in_every_format(net: Net, images: Tensor) -> None:
    class Hostile(Defence):
        """A name that means something in every format."""

        def reform(self, x: Tensor) -> Tensor:
            return x * 0.9

    Hostile.__name__ = "<script>alert(1)</script>|&_%"
    found = run(net, images, defences=[Hostile()])
    for form in ("markdown", "html", "latex", "csv", "json", "rich"):
        assert "fgsm" in found.report(form)
    assert "<script>alert" not in found.report("html") + found._repr_html_()
    assert json.loads(found.report("json"))
    assert "<td>" in found._repr_html_() and "|" in found._repr_markdown_()
    assert "Audit: Of" in repr(found)
    with pytest.raises(UsageError, match="format"):
        found.report("pdf")


def test_what_was_given_stays_as_it_was(net: Net, images: Tensor) -> None:
    net.train()
    defence = Bright().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state, y = torch.get_rng_state(), labels(net, images)
    pixels = images.clone()
    evaluate(net, pixels, y, attacks=["pgd"], defences=[defence], calibration=images / 255, doctor=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and defence.training and defence.threshold == float("inf")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(pixels, images)


def test_the_same_again_is_not_computed_again(net: Net, images: Tensor) -> None:
    first, again = (run(net, images, defences=["none", Darker()]) for _ in range(2))
    assert cells(first) == cells(again)
    assert (first.finished.stored, again.finished.stored) == (0, 4)
    assert first.results[1].judge_seconds == again.results[1].judge_seconds


def scaled(share: float) -> type[Defence]:
    """The same name, another number in the code."""

    class Scaled(Defence):
        policy = "reform"

        def reform(self, x: Tensor) -> Tensor:
            return share * x

    return Scaled


def test_anything_that_changes_is_another_cell(net: Net, images: Tensor) -> None:
    def cell(model: nn.Module, defence: Defence) -> str:
        return cells(run(model, images, defences=[defence]))[1]

    first = cell(net, Darker())
    assert first == cell(net, Darker())
    assert first != cell(net, Darker(0.8)), "a plain attribute"
    with torch.no_grad():
        net.out.bias[0] += 1e-6
    assert first != cell(net, Darker()), "a weight"
    one, other = (cell(net, scaled(share)()) for share in (0.9, 0.8))
    assert one != other, "what a function holds"

    class Patched(Darker):
        def reform(self, x: Tensor) -> Tensor:
            return 0.5 * super().reform(x)

    Patched.__name__ = "Darker"
    assert cell(net, Darker()) != cell(net, Patched()), "code"


def test_attacks_of_ones_own_are_pinned_by_their_code(net: Net, images: Tensor) -> None:
    def attack(sign: int) -> object:
        def up(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
            x0 = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(x0).gather(1, y[:, None]).sum(), x0)
            return (x + sign * eps * gradient.sign()).clamp(0, 1)

        return up

    good, bad = (run(net, images, attacks=[attack(sign)]) for sign in (-1, 1))
    assert cells(good)[1] != cells(bad)[1]
    assert good.worst_case()["robust"][0] < bad.worst_case()["robust"][0]
    again = run(net, images, attacks=[attack(-1)])
    assert again.finished.stored == 2

    def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return x

    assert run(net, images, attacks=[pgd, "pgd"]).results[1].cell.attack.method == "pgd (own)"


def test_what_cannot_be_pinned_is_never_taken_from_the_store(
    net: Net, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    class Holds(Darker):
        def __init__(self) -> None:
            super().__init__()
            self.thing = np.random.default_rng(0)

    one, two = (run(net, images, defences=[Holds()]) for _ in range(2))
    assert cells(one)[1] != cells(two)[1]
    assert "cannot be pinned (it.thing (a Generator))" in caplog.text


def test_a_detector_is_calibrated_on_clean_images(net: Net, images: Tensor) -> None:
    with pytest.raises(UsageError, match="flags nothing") as caught:
        run(net, images, defences=[Bright()])
    assert "calibration=" in caught.value.hint
    assert caught.value.hint in caught.value.__notes__
    found = run(net, images, defences=[Bright()], calibration=images / 255, knowledge=["adaptive"])
    assert found.results[0].clean.flagged.count(True) == 2
    fitted = Bright()
    fitted.calibrate([images / 255], net)
    assert run(net, images, defences=[fitted], knowledge=["adaptive"]).results[0].clean == found.results[0].clean


def test_floats_channels_last_and_arrays(net: Net, images: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    wanted, y = run(net, images), labels(net, images)
    for given in (images / 255, (images / 255).numpy(), images.permute(0, 2, 3, 1).contiguous()):
        found = evaluate(net, given, y.tolist(), attacks=["fgsm"], threat=EPS, doctor=False)
        assert cells(found) == cells(wanted)
    assert "rounded" not in caplog.text
    evaluate(net, torch.rand(4, 3, 8, 8), y[:4], attacks=["fgsm"], doctor=False)
    assert "rounded" in caplog.text


def test_images_by_name_and_a_model_of_ismns_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "released_folder", RELEASED)
    found = evaluate(None, "cifar10-mini", attacks=["fgsm"], defences=["none"], knowledge=["gray"], limit=4)
    assert found.results[0].cell.samples.dataset == "cifar10-mini"
    assert found.worst_case()["samples"].tolist() == [4]


def test_the_doctor_looks_first(images: Tensor) -> None:
    broken = nn.Sequential(Net(), nn.Softmax(1)).eval()
    with pytest.raises(UsageError, match="GM08") as caught:
        evaluate(broken, images, labels(broken, images), attacks=["fgsm"])
    assert "doctor=False" in caught.value.hint


def test_wrong_usage_is_told_before_any_work(net: Net, images: Tensor, home: Path) -> None:
    y = labels(net, images)
    wrong: list[tuple[tuple[object, ...], dict[str, object], str]] = [
        ((net, images), {}, "need labels"),
        ((net, images, y[:-1]), {}, "12 images and 11 labels"),
        ((net, 300.0 * torch.ones(2, 3, 8, 8), [0, 1]), {}, "no images"),
        ((net, images[:0], y[:0]), {}, "no images"),
        ((net, "cifar10-mini", y), {}, "has its own"),
        ((3, images, y), {}, "int is no model"),
        ((net, images, y), {"attacks": "pgd"}, "not a list"),
        ((net, images, y), {"attacks": []}, "no attacks"),
        ((net, images, y), {"attacks": ["pdg"]}, "no attack called 'pdg'"),
        ((net, images, y), {"attacks": [Attack("pgd", step=3)]}, "no parameter step"),
        ((net, images, y), {"attacks": [Attack("pgd", steps=3), "pgd"]}, "given twice"),
        ((net, images, y), {"attacks": [lambda x: x]}, "takes"),
        ((net, images, y), {"defences": ["jepg"]}, "jepg"),
        ((net, images, y), {"defences": [nn.Linear(2, 2)]}, "Linear is no defence"),
        ((net, images, y), {"defences": ["ismn"]}, "trained around"),
        ((net, images, y), {"knowledge": ["withe"]}, "knowledge"),
        ((net, images, y), {"threat": ThreatModel(norm="l2", eps=0.5)}, "not in l2"),
        ((nn.Linear(3, 3), images, y), {}, "fails"),
    ]
    for arguments, options, told in wrong:
        with pytest.raises(UsageError) as caught:
            evaluate(*arguments, **({"attacks": ["fgsm"], "doctor": False} | options))
        assert told in caught.value.message + caught.value.hint, (told, caught.value)
    assert not (home / "runs").exists()


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, ismn_cli; from ismn_cli import Attack, ThreatModel, UsageError, evaluate; "
        "assert not {'torch', 'pandas', 'scipy'} & set(sys.modules); assert 'evaluate' in dir(ismn_cli)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError):
        from ismn_cli import evalute  # noqa: F401
