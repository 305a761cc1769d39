"""Models by name from libraries of them: timm, and the Hugging Face hub through it, torchvision, RobustBench."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ismn_cli.core.errors import UsageError
from ismn_cli.core.recipes import ModelChoice
from ismn_cli.core.references import called
from ismn_cli.stages.loaders.code import class_sources, loaded
from ismn_cli.stages.loaders.made import Made, no_such

if TYPE_CHECKING:
    from torch import nn


def timm_model(choice: ModelChoice, name: str) -> Made:
    """Return a model of timm by its name there, pretrained unless a checkpoint is given."""
    timm = _library("timm", "pip install 'ismn-cli[timm]'")
    if not timm.is_model(name):
        raise no_such("timm", name.partition(".")[0], timm.list_models(), "timm.list_models()")
    return _of_timm(choice, timm, name)


def hub_model(choice: ModelChoice, name: str) -> Made:
    """Return a model of the Hugging Face hub that timm can build, by OWNER/NAME."""
    timm = _library("timm", "pip install 'ismn-cli[timm]'")
    return _of_timm(choice, timm, f"hf-hub:{name}")


def torchvision_model(choice: ModelChoice, name: str) -> Made:
    """Return a model of torchvision by its name there, with its default weights unless a checkpoint is given."""
    from torchvision import models

    if name not in models.list_models():
        raise no_such("torchvision", name, models.list_models(), "torchvision.models.list_models()")
    arguments = {"weights": None if choice.checkpoint else "DEFAULT"} | choice.arguments
    if str(arguments["weights"]).lower() == "none":
        arguments["weights"] = None
    net = _fetched(choice, models.get_model, {"name": name, **arguments})
    said = loaded(net, choice)
    if said or arguments["weights"] is None:
        return _made(choice, net, said)
    weights = models.get_model_weights(name)
    chosen = weights[str(arguments["weights"]).rpartition(".")[2]]
    scaling = chosen.transforms()
    mean, std = getattr(scaling, "mean", ()), getattr(scaling, "std", ())
    return _made(choice, net, f"torchvision's {chosen}", tuple(mean), tuple(std))


def robustbench_model(choice: ModelChoice, name: str) -> Made:
    """Return a model of RobustBench's zoo; ``dataset`` and ``threat_model`` are arguments. Takes pixels of [0, 1]."""
    library = _library("robustbench", "pip install robustbench")
    arguments = {"dataset": "cifar10", "threat_model": "Linf"} | choice.arguments
    entry = _entry(name, arguments)
    if choice.checkpoint is not None:
        net = entry["model"]()
        return _made(choice, net, loaded(net, choice))
    from torch import hub

    # By itself it would make a folder `models` in the current one.
    wanted = {"model_name": name, "model_dir": f"{hub.get_dir()}/robustbench"} | arguments
    net = _fetched(choice, library.load_model, wanted)
    return _made(choice, net, f"RobustBench, {arguments['dataset']} {arguments['threat_model']}")


def _entry(name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the zoo knows of a model. Raises UsageError."""
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    try:
        zoo = model_dicts[BenchmarkDataset(arguments["dataset"])][ThreatModel(arguments["threat_model"])]
    except (KeyError, ValueError):
        told = f"{arguments['dataset']}, {arguments['threat_model']}"
        raise UsageError(
            f"RobustBench has no models for {told}.",
            "Give others, such as: --model-arg dataset=cifar10 --model-arg threat_model=L2",
        ) from None
    if name not in zoo:
        raise no_such("RobustBench", name, zoo, "https://robustbench.github.io")
    found: Mapping[str, Any] = zoo[name]
    return found


def _of_timm(choice: ModelChoice, timm: Any, name: str) -> Made:
    arguments = {"pretrained": choice.checkpoint is None} | choice.arguments
    net = _fetched(choice, timm.create_model, {"model_name": name, **arguments})
    said = loaded(net, choice)
    if said or not arguments["pretrained"]:
        return _made(choice, net, said)
    config = getattr(net, "pretrained_cfg", {})
    return _made(choice, net, f"{name}, pretrained", tuple(config.get("mean", ())), tuple(config.get("std", ())))


def _fetched(choice: ModelChoice, make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """Return what a library makes, its weights downloaded if need be. Raises UsageError."""
    try:
        return called(choice.reference, make, arguments, "--model-arg")
    except UsageError as error:
        if not isinstance(error.__cause__, OSError):  # as all that comes from the network is
            raise
        hint = "Where there is no network, give the weights as a file: --checkpoint FILE"
        raise UsageError(error.message, hint) from error


def _made(
    choice: ModelChoice, net: nn.Module, said: str, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> Made:
    net.eval()
    code = repr([choice.reference, sorted(choice.arguments.items()), class_sources(net)])
    return Made(net, code, said or "untrained (no --checkpoint)", mean, std)


def _library(name: str, install: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = error.name == name
        told = f"{name} is not installed." if absent else f"{name} cannot be imported: {error}."
        raise UsageError(told, f"Install {'it' if absent else 'what it needs'}: {install}") from None
