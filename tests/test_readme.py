"""Every command in the README and in CONTRIBUTING does what it says: each is run here as a user would type it.

They run in an empty folder, on a fresh store. What would take hours as written gets the arguments in SHORTER; nothing
else is changed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "docs/systems.md", "docs/trackers.md", "docs/report-format.md")
FEW_STEPS = ["attack.params.pgd-ensemble.steps=1", "attack.eps=8/255"]
TINY = [
    "dataset.image_size=32",
    *(f"training.{name}.epochs=1" for name in ("base", "celebanet", "lad", "ismn")),
    "training.lad.config={width: 16, svm_images: 6, svm_epochs: 1, per_class: 4}",
    "training.ismn.config={batch_size: 8, detector_images: 8, pgd_steps: 1, at_steps: 1}",
]
SHORTER = {
    "ismn attack --method pgd --eps 0.3": ["--limit", "10"],
    "ismn attack --defence ismn --knowledge adaptive --limit 200": ["--limit", "2", "--param", "steps=2"],
    "ismn run quickstart attack.eps=0.1 dataset.limit=20": [],
    "ismn audit --limit 50": ["--limit", "4"],
    "ismn claims table3 --limit 100 --data-dir DIR": ["--limit", "4"],
    "ismn train --dataset cifar10": ["--limit", "20", "--epochs", "1", "config.detector_images=10"],
    "ismn run table3-cifar10 --limit 1000 --data-dir DIR": ["--limit", "10"],
    "ismn run matrix-cifar10 --limit 200 --data-dir DIR": [
        "--limit", "2", "attack.eps=8/255", "defence=[none, ismn, prn, jpeg]", "optional=[prn]",
        "knowledge=[gray, white]", "attack.method_at={}", "attack.params={}",
    ],
    "ismn run ablation-cifar10 --limit 200 --data-dir DIR": ["--limit", "4", *FEW_STEPS],
    "ismn run table4-celeba --data-dir FACES dataset.name=folder": [*TINY, "--limit", "8", *FEW_STEPS],
    "ismn run train-magnet-mnist --data-dir DIGITS": ["--limit", "40", "epochs=1"],
    "ismn run magnet-mnist-attacks --data-dir DIGITS": ["--limit", "10"],
    "ismn train --dataset folder --data-dir FACES --image-size 64 --system classifier config.arch=resnet18": [
        "--epochs", "1", "--limit", "12",
    ],
    "ismn attack --dataset folder --data-dir FACES --image-size 64 --method pgd,autoattack --limit 100": [
        "--limit", "4",
    ],
    "ismn attack --defence none,blur.py:Blur --knowledge white,adaptive --limit 100": [
        "--limit", "4", "--method", "fgsm",
    ],
    "ismn attack --method pgd,margin_pgd.py:margin_pgd --limit 100": ["--limit", "10"],
    "ismn attack --model models/resnet.py:resnet20 --checkpoint weights.th --mean .485,.456,.406 "
    "--std .229,.224,.225 --method fgsm,pgd --limit 200": ["--limit", "10"],
    "ismn run quickstart --engine ray": ["--limit", "8", "batch_size=4", "defence=none", "attack.method=fgsm"],
    "ismn run quickstart --shard 1/4": ["--limit", "8", "batch_size=2", "defence=none", "attack.method=fgsm"],
    "ismn plan quickstart --slurm": ["--limit", "8", "batch_size=2", "defence=none", "attack.method=fgsm"],
    "torchrun --nproc-per-node 2 -m ismn_cli train --dataset cifar10 --system classifier --device cpu": [
        "--limit", "16", "--epochs", "1",
    ],
    "ismn train --dataset cifar10 --system at --classifier fresh classifier_config.arch=resnet18 "
    "classifier_config.epochs=0 config.method=fast config.epochs=5 config.lr=0.1": ["--limit", "16", "config.epochs=1"],
    "ismn attack --defence at --knowledge white --method pgd,autoattack --eps 8/255 --limit 1000 --batch-size 125": [
        "--limit", "2", "--eps", "0.1",
    ],
    "ismn train --dataset cifar10 --data-dir DIR --system trades --limit 10000 config.start=fresh config.epochs=4 "
    "config.lr=0.02": [
        "--limit", "16", "config.epochs=1",
    ],
    "ismn train --dataset cifar10 --data-dir DIR --system lad --limit 8000 config.width=128 config.generator_epochs=4 "
    "config.per_class=100 config.svm_images=100 config.epochs=3": [
        "--limit", "40", "config.width=16", "config.per_class=2", "config.svm_images=6", "config.eps_max=2",
    ],
    "ismn train --dataset cifar10 --data-dir DIR --system prn --limit 8000 config.maps=32 config.epochs=3": [
        "--limit", "16", "config.maps=4", "config.perturbations=3", "config.seeds=3", "config.detector_images=10",
    ],
    "ismn train --dataset cifar10 --data-dir DIR --system hgd --limit 8000 config.maps=32 config.epochs=3": [
        "--limit", "16", "config.maps=4", "config.epochs=1",
    ],
    'ismn run matrix-cifar10 --limit 100 --data-dir DIR "defence=[none,trades,lad,prn,hgd]" "optional=[]" '
    "attack.eps=8/255": [
        # Where this one runs alone, nothing was trained before.
        "--limit", "2", "optional=[trades,lad,prn,hgd]", "knowledge=[gray,white]", "attack.method_at={}",
        "attack.params={}",
    ],
    "ismn run train-ismn-cifar10": ["--limit", "20", "config.mapping_epochs=1", "config.target_epochs=1", "epochs=1"],
}
"""Command as printed -> what is added to it here."""
MODEL = """
import torch
from torch import nn
from ismn_models.classifiers.table1 import Table1

class Undone(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Table1(10)
    def forward(self, x):
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in ([.485, .456, .406], [.229, .224, .225]))
        return self.net(x * std + mean)

def resnet20():
    return Undone()
"""
PLACES = {"DIR": "data", "FACES": "faces", "DIGITS": "digits"}
"""What a reader puts his own folder in place of, and what stands there here."""
RUNS = {"RUN_A": "none", "RUN_B": "ismn"}
"""What a reader puts a run of his own in place of, and the defence that is attacked in it here."""
VERDICTS = ("ismn audit", "ismn doctor")
"""Exit with 1 where a check fails, which is a result too."""
ELSEWHERE = ("pip install", "python -m venv", "pytest", "ruff", "git ")
"""Run by .ci/run itself, or by nobody but a person."""


def printed_commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            found += [line[2:].split("  #")[0].strip() for line in block.splitlines() if line.startswith("$ ")]
    return list(dict.fromkeys(c for c in found if not c.startswith(ELSEWHERE)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with a home for results, and made-up images in CIFAR-10's layout."""
    folder = tmp_path_factory.mktemp("reader")
    write_batches(folder / "data" / "cifar-10-batches-bin")
    write_faces(folder / "faces")
    write_digits(folder / "digits")
    write_model(folder)
    tracker = re.findall(r"```python\n(.*?)```", (ROOT / "docs/trackers.md").read_text(), re.DOTALL)
    (folder / "lines.py").write_text("".join(tracker))
    return folder


def write_model(folder: Path) -> None:
    """Write a package `models` and a checkpoint: the released classifier, asked for normalised pixels."""
    from safetensors.torch import load_file
    from torch import save

    (folder / "models").mkdir()
    (folder / "models/resnet.py").write_text(MODEL)
    released = load_file(ROOT / "models/ismn_models/weights/classifier.safetensors")
    base = {k.removeprefix("base."): v.float() for k, v in released.items() if k.startswith("base.")}
    save({"state_dict": {f"module.net.{k}": v for k, v in base.items()}}, folder / "weights.th")


def write_faces(folder: Path) -> None:
    """Write small images of noise, a folder for each of two classes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(1)
    for split, count in (("train", 24), ("validation", 12), ("test", 12)):
        for shade, name in ((0, "dark"), (128, "light")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(shade, shade + 128, (40, 36, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def write_digits(folder: Path) -> None:
    """Write random images with random labels in MNIST's format and number."""
    import numpy as np

    folder.mkdir(parents=True)
    generator = np.random.default_rng(2)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        pixels, labels = generator.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        for name, code, array in (("images-idx3", 2051, pixels), ("labels-idx1", 2049, labels)):
            head = np.array([code, *array.shape], ">i4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())


def write_batches(folder: Path) -> None:
    """Write random images with random labels: six files of 10,000 records, as the original has them."""
    import numpy as np

    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        records = generator.integers(0, 256, (10_000, 3073), np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")


def test_the_pages_print_commands() -> None:
    commands = printed_commands()
    assert "ismn run quickstart" in commands
    for wanted in ("train --dataset cifar10", "attack --method pgd --eps 0.3", "report --format markdown"):
        assert f"ismn {wanted}" in commands
    assert set(SHORTER) <= set(commands), "SHORTER names a command that is printed nowhere"


@pytest.fixture(scope="module")
def runs(place: Path) -> dict[str, Path]:
    """The folders of two runs on the same few images, in the home that the commands use."""
    found = {}
    for name, defence in RUNS.items():
        before = set((place / "home" / "runs").glob("*"))
        words = ["attack", "--method", "fgsm", "--eps", "8/255", "--limit", "12", "--defence", defence]
        code = "from ismn_cli.cli.app import main; main()"
        environment = os.environ | {"ISMN_HOME": str(place / "home")}
        subprocess.run([sys.executable, "-c", code, *words], cwd=place, env=environment, check=True, timeout=300)
        (found[name],) = set((place / "home" / "runs").glob("attack-fgsm-*")) - before
    return found


def written(word: str, place: Path, runs: dict[str, Path]) -> str:
    """Return what a reader would write for ``word``: a folder or a run of his own."""
    run, slash, file = word.partition("/")
    if run in runs:
        return str(runs[run] / file) if slash else runs[run].name
    return str(place / PLACES[word]) if word in PLACES else word


@pytest.mark.parametrize("command", printed_commands())
def test_command_runs_as_printed(command: str, place: Path, runs: dict[str, Path]) -> None:
    words = shlex.split(command) + SHORTER.get(command, [])
    words = [written(word, place, runs) for word in words]
    starts = {
        "ismn": [sys.executable, "-c", "from ismn_cli.cli.app import main; main()"],
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    }
    environment = os.environ | {"ISMN_HOME": str(place / "home"), "COLUMNS": "100", "OMP_NUM_THREADS": "2"}
    environment.pop("ISMN_DATA_DIR", None)
    if {"train", "train-ismn-cifar10"} & set(words):
        environment["ISMN_DATA_DIR"] = str(place / "data")
    done = subprocess.run(
        starts[words[0]] + words[1:], cwd=place, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode in ((0, 1) if command.startswith(VERDICTS) else (0,)), done.stderr[-2000:]
    if "-o" in words:
        assert (place / words[words.index("-o") + 1]).stat().st_size
    else:
        assert done.stdout.strip() or any(part in command for part in ("train", " cp ", "--shard"))
