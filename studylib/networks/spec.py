"""Networks from a small spec, JSON data that is stored beside their weights::

    {"format": 1, "name": "densenet", "args": {"depth": 22, …}, "changes": […], "input": {"mean": […], "std": […]}}

``changes`` lists, in order, what each technique did. One that altered the structure names a kind of
:data:`RESTRUCTURE`, which :func:`build` does again. ``input``, of what a stage has made, is for :func:`normalize`.
"""

import copy
import inspect
import json
import re

import torch
from torch import nn

from studylib.data.datasets import Data, normalized
from studylib.networks import (
    chains,
    channels,
    densenet,
    factors,
    fixed_layers,
    gated,
    gpt,
    int8_layers,
    mobilenet,
    resnet,
    vae,
    vgg,
)
from studylib.networks.blocks import SpecError
from studylib.networks.layers import check_units, check_untouched

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "convnet": chains.ConvNet,
    "densenet": densenet.DenseNet,
    "gated": gated.Gated,
    "gpt": gpt.GPT,
    "mobilenetv2": mobilenet.MobileNetV2,
    "resnet": resnet.ResNet,
    "vae": vae.VAE,
    "vgg": chains.VGG,
    "vgg16": vgg.VGG16,
    "whitened": chains.Whitened,
}
RESTRUCTURE = {  # the words that stored specs use → what alters a network so, in place
    "fixed": fixed_layers.restructure,
    "inference": channels.restructure,
    "lowrank": factors.restructure,
    "quantize": int8_layers.restructure,
    "channels": channels.narrow,
    "factors": factors.factorize,
}
WIDE = "resnet", "vgg", "whitened", "gated", "mobilenetv2", "vgg16", "gpt"  # as their argument "width" says
BREADTH = {"densenet": "growth"} | dict.fromkeys(WIDE, "width")  # the argument for it
SPEC_FORMAT = 1
PLAIN = {  # what torch hangs on a layer, by the names of its tensors → what makes the layer plain again
    r"\bparametrizations\.": "torch.nn.utils.parametrize.remove_parametrizations(layer, tensor) first",
    r"(weight|bias)_mask$": "torch.nn.utils.prune.remove(layer, tensor) first",
    r"(weight|bias)_g$": "torch.nn.utils.remove_weight_norm(layer) first",
    r"(weight|bias)_u$": "torch.nn.utils.remove_spectral_norm(layer) first",
}
REMEDY = "create the model so, or record what was done to it (studylib.networks.spec.with_change with a structure)"


def create(name: str, seed: int, *, data: Data | None = None, **args) -> nn.Module:
    """A new model, drawn from ``seed``: He-normal convolutions (fan in), linear layers as PyTorch starts them.

    Fan in keeps the classifier's weights nearer the size of the last convolutions' than fan out does. Global magnitude
    pruning so leaves more of it. "whitened" starts from the training images of ``data``. SpecError as :func:`build`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build({"format": SPEC_FORMAT, "name": name, "args": args, "changes": []})
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if hasattr(model, "start"):
            model.start(data)
    return model


def build(spec: dict) -> nn.Module:
    """The model of ``spec`` (copied to ``model.spec``), weights to be loaded; SpecError: a part that is not known."""
    if not isinstance(spec, dict) or spec.get("format") != SPEC_FORMAT:
        found = spec.get("format") if isinstance(spec, dict) else spec
        raise SpecError(f"spec format {found!r}: expected {SPEC_FORMAT}")
    if not isinstance(spec.get("name"), str) or spec["name"] not in ARCHITECTURES:
        raise SpecError(f"model name {spec.get('name')!r}: expected one of {sorted(ARCHITECTURES)}")
    try:
        model = ARCHITECTURES[spec["name"]](**spec["args"])
        for change in spec["changes"]:
            if "structure" in change:
                word = change["structure"]["module"]
                if not isinstance(word, str) or word not in RESTRUCTURE:
                    raise SpecError(f"change of structure {word!r}: expected one of {', '.join(RESTRUCTURE)}")
                RESTRUCTURE[word](model, change["structure"])
        model.spec, model.history = copy.deepcopy(spec), []
    except (SpecError, MemoryError):
        raise
    except Exception as error:  # a spec may break any constructor
        raise SpecError(f"spec of {spec['name']!r} does not build: {type(error).__name__}: {error}") from error
    return model


def rebuilt(model: nn.Module) -> nn.Module:
    """What a reader will build from the spec of ``model``, without memory for tensors. It is seen to be of like layers.

    Its spec is that of ``model`` as JSON gives it back. SpecError, with the remedy: no spec, or one that is not JSON or
    does not build. So is a tensor or layer not as the spec builds it. That is another width, type or class, one more or
    less, a hook, or what torch prunes or normalizes by. So is a unit that cannot be folded (:func:`check_units`).
    """
    _check_spec(model)
    try:
        spec = json.loads(json.dumps(model.spec, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"the spec is not JSON data: {error}") from error
    with torch.device("meta"):
        built = build(spec)
    for parts in (_tensors, _modules):
        found, expected = parts(model), parts(built)
        if wrong := [name for name in found | expected if found.get(name) != expected.get(name)]:
            raise SpecError(_misfit(wrong, found, expected))
    if moved := [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]:
        raise SpecError(f"{moved[0][0]} stands where {moved[0][1]} is expected, as its spec builds it; {REMEDY}")
    modules = dict(built.named_modules())
    for name, module in model.named_modules():
        if (found := type(module)) is not (expected := type(modules[name])):
            found, expected = (f"{kind.__module__}.{kind.__qualname__}" for kind in (found, expected))
            raise SpecError(f"{name or 'the model'} is {found}: expected {expected}, as its spec builds it; {REMEDY}")
    check_untouched(model, built)
    check_units(model)
    return built


def with_change(
    model: nn.Module, technique: str, did: dict, structure: dict | None = None, history: list[dict] | None = None
) -> nn.Module:
    """``model`` with one more entry in ``model.spec["changes"]``: the technique, and what it did.

    Args:
        did: a few JSON values, which count in the model's bytes.
        structure: how layers changed, if they did; its key ``module`` is a word of :data:`RESTRUCTURE`.
        history: rows of the technique's training, left in ``model.history`` and not in the spec.

    SpecError where the model has no spec, as one of your own has none.
    """
    _check_spec(model)
    change = {"technique": technique, **did}
    if structure is not None:
        change["structure"] = structure
    model.spec = {**model.spec, "changes": [*copy.deepcopy(model.spec["changes"]), change]}
    model.history = list(history or [])
    return model


def normalize(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images (n, c, h, w), 0…255, as ``model`` wants them: of mean 0 and deviation 1 a channel, float32.

    The numbers are in its spec, bit for bit those of Data.normalize of studylib.data.datasets. SpecError where they are
    not, as no stage of the study made the model.
    """
    try:
        mean, std = (torch.tensor(model.spec["input"][name], dtype=torch.float32) for name in ("mean", "std"))
        if not mean.shape == std.shape == images.shape[1:2]:
            raise ValueError("as many numbers as channels")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        found = model.spec.get("input")
        raise SpecError(f"input {found!r} in the spec: expected mean and std, a number a channel") from error
    return normalized(images, mean.to(images.device), std.to(images.device))


def described(text: str, like: dict, model_args: dict) -> tuple[str, dict]:
    """Name and arguments, for :func:`create`, of a network in words: its kind and how wide it is.

    "densenet 6" adds 6 channels a layer, "vgg 12" has a stem of 12, "whitened 64" first stages of 64. "resnet 8-16" is
    8 layers deep and starts with 16 channels, "mobilenetv2 0.5" has half of the paper's. They are otherwise as
    ``like``, a spec, if it is of their kind. "convnet 16" has 16, 32 and 64 channels, 32 and 16 features.
    ``model_args`` fit it to the data. ValueError: another kind, or no whole numbers of at least 1 after it.
    """
    kind, _, size = text.partition(" ")
    kinds, numbers = ["convnet", *BREADTH], size.split("-")
    most = 2 if "depth" in inspect.signature(ARCHITECTURES.get(kind, nn.Module)).parameters else 1
    form, number = (r"\d+(\.\d+)?", float) if kind == "mobilenetv2" else (r"\d+", int)
    if kind not in kinds or len(numbers) > most or not all(re.fullmatch(form, n) and float(n) > 0 for n in numbers):
        expected = f"one of {', '.join(kinds)}, and a number of at least 1"
        such = "such as vgg 20, mobilenetv2 0.5, or with depth resnet 20-16"
        raise ValueError(f"network {text!r}: expected {expected}, {such}")
    *depth, w = map(number, numbers)
    if kind == "convnet":
        return kind, {**model_args, "widths": [w, 2 * w, 4 * w], "hidden": [2 * w, w]}
    same = like["args"] if like["name"] == kind else {}
    return kind, {**same, **({"depth": depth[0]} if depth else {}), **model_args, BREADTH[kind]: w}


def _check_spec(model: nn.Module) -> None:
    if not isinstance(getattr(model, "spec", None), dict):
        raise SpecError(f"{type(model).__name__} has no spec: expected a model of studylib.networks.spec")


def _tensors(model: nn.Module) -> dict[str, str]:
    """Name → type and shape of every tensor, those that are not stored included."""
    held = model.state_dict() | dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: _described(tensor) for name, tensor in held.items()}


def _described(tensor) -> str:
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _modules(model: nn.Module) -> dict[str, str]:
    """Name → kind and settings of every module; whether it works in place is not one of them."""
    found = {name: (type(module).__name__, module.extra_repr()) for name, module in model.named_modules()}
    return {name: f"{kind}({re.sub('(, )?inplace=True', '', about)})" for name, (kind, about) in found.items()}


def _misfit(wrong: list[str], found: dict[str, str], expected: dict[str, str]) -> str:
    """One sentence on the first of ``wrong`` and how many more there are."""
    name, more = wrong[0], f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    is_, should = found.get(name, "not there"), expected.get(name, "none")
    added = [each for each in wrong if each not in expected]
    remedies = [remedy for mark, remedy in PLAIN.items() if any(re.search(mark, each) for each in added)]
    if is_.split()[1:] == should.split()[1:] != []:  # a tensor of another type
        remedies.append("model.float() first")
    remedy = [*remedies, REMEDY][0]
    return f"{name or 'the model'} is {is_}: expected {should}, as its spec builds it{more}; {remedy}"
