"""Models: the networks of :mod:`studylib.networks`, each built from a small spec that is stored beside its weights.

A spec is plain JSON data::

    {"format": 1, "name": "densenet", "args": {"depth": 22, ...}, "changes": [...],
     "input": {"mean": [...], "std": [...]}}

``input``, of a model that a stage has made, is what :func:`normalize` brings images to.
``changes`` lists, in order, what each technique did to the model.  A change that altered the structure
(factorized a layer, say) names the module of studylib that can do so again; :func:`build` asks it.
"""

import copy
import importlib
import re

import torch
from torch import nn

from studylib.data import Data
from studylib.networks import ARCHITECTURES, ConvNet, ConvUnit, DenseNet, SpecError, described

__all__ = ["ConvNet", "ConvUnit", "DenseNet", "SpecError", "described"]
__all__ += [
    "build",
    "check_as_built",
    "create",
    "duplicate",
    "fold_batch_norm",
    "normalize",
    "replace_module",
    "weight_layers",
    "with_change",
]

SPEC_FORMAT = 1
SHAPES = {"in_channels", "out_channels", "in_features", "out_features", "num_features", "inplace"}  # and no matter


def create(name: str, seed: int, *, data: Data | None = None, **args) -> nn.Module:
    """A new model, drawn from ``seed``: He-normal convolutions (fan in), linear layers as PyTorch starts them.

    Args:
        data: whose training images the first layer of "whitened" starts from; others need none.

    Fan in keeps the classifier's weights nearer the size of the last convolutions' than fan out does, so that
    global magnitude pruning leaves more of the classifier.

    Raises:
        SpecError: unknown name or arguments that do not fit.
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
    """The model that ``spec`` describes, its weights still to be loaded; ``model.spec`` is a copy of it.

    Raises:
        SpecError: a format, name, argument or change that this version does not know.
    """
    if not isinstance(spec, dict) or spec.get("format") != SPEC_FORMAT:
        found = spec.get("format") if isinstance(spec, dict) else spec
        raise SpecError(f"spec format {found!r}: expected {SPEC_FORMAT}")
    if not isinstance(spec.get("name"), str) or spec["name"] not in ARCHITECTURES:
        raise SpecError(f"model name {spec.get('name')!r}: expected one of {sorted(ARCHITECTURES)}")
    try:
        model = ARCHITECTURES[spec["name"]](**spec["args"])
        for change in spec["changes"]:
            if "structure" in change:
                restructure = _restructurer(change["structure"]["module"])
                restructure(model, change["structure"])
    except SpecError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise SpecError(f"spec of {spec['name']!r} does not build: {type(error).__name__}: {error}") from error
    model.spec, model.history = copy.deepcopy(spec), []
    return model


def check_as_built(model: nn.Module) -> None:
    """Sees that each module of ``model`` is of the kind that its spec builds, with the attributes it computes with.

    Those are torch's ``__constants__`` (stride, padding, slope, …); how wide a layer is, its tensors say.

    Raises:
        SpecError: one that differs, is missing or is not in the spec: another network would be read back.
    """
    with torch.device("meta"):
        built = dict(build(model.spec).named_modules())
    found, remedy = dict(model.named_modules()), "give it to the architecture, or its arguments"
    for name in dict.fromkeys([*built, *found]):
        here, there = (type(each[name]).__name__ if name in each else "nothing" for each in (found, built))
        if here != there:
            raise SpecError(f"{name or 'the network'} is {here}, its spec builds {there}: {remedy}")
        for key in sorted(set(getattr(found[name], "__constants__", ())) - SHAPES):
            here, there = (getattr(each[name], key, None) for each in (found, built))
            if here != there:
                raise SpecError(f"{name}: {key} is {here!r}, its spec builds {there!r}: {remedy}")


def _restructurer(module: str):
    if not isinstance(module, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", module):
        raise SpecError(f"change by module {module!r}: expected the name of a module of studylib")
    try:
        return importlib.import_module(f"{__package__}.{module}").restructure
    except (ImportError, AttributeError) as error:
        raise SpecError(f"change by module {module!r}: studylib has none that can restructure a model") from error


def with_change(
    model: nn.Module, technique: str, did: dict, structure: dict | None = None, history: list[dict] | None = None
) -> nn.Module:
    """``model`` with one more entry in ``model.spec["changes"]``: the technique, and what it did.

    Args:
        did: a few JSON values; they are stored with the model and count in its bytes.
        structure: given if the technique changed which layers there are. Rebuilding the model calls
            ``restructure(model, structure)`` of the module of studylib that its key ``module`` names.
        history: rows of the training that the technique did, left in ``model.history`` and not in the spec.
    """
    change = {"technique": technique, **did}
    if structure is not None:
        change["structure"] = structure
    model.spec = {**model.spec, "changes": [*copy.deepcopy(model.spec["changes"]), change]}
    model.history = list(history or [])
    return model


def normalize(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images as ``model`` wants them: pixels of mean 0 and deviation 1 a channel, by the numbers in its spec.

    Args:
        images: (n, c, h, w), 0…255, of any type.

    Returns:
        float32 (n, c, h, w), bit for bit what :meth:`studylib.data.Data.normalize` gives for the same data set.

    Raises:
        SpecError: the spec does not say: the model was not made by a stage of the study.
    """
    try:
        mean, std = (torch.tensor(model.spec["input"][name], dtype=torch.float32) for name in ("mean", "std"))
        shaped = mean.to(images.device)[:, None, None], std.to(images.device)[:, None, None]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        found = model.spec.get("input")
        raise SpecError(f"input {found!r} in the spec: expected mean and std, a number a channel") from error
    return (images - 255 * shaped[0]) / (255 * shaped[1])


def duplicate(model: nn.Module) -> nn.Module:
    """An independent copy, spec included; techniques change copies, never the model they are given."""
    return copy.deepcopy(model)


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name → module of each convolution and linear layer, float or int8, in the order of the spec."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) or getattr(module, "is_weight_layer", False)
    }


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts ``new`` where ``name`` (dotted) stands in ``model``."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy whose batch norms are folded into the convolutions before them: what inference needs, no more."""
    folded = duplicate(model).eval()
    for unit in folded.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.conv = nn.utils.fuse_conv_bn_eval(unit.conv, unit.norm)
            unit.norm = nn.Identity()
    return folded
