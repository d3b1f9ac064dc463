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
import json
import re

import torch
from torch import nn

from studylib.data import Data
from studylib.networks import ARCHITECTURES, ConvNet, ConvUnit, DenseNet, SpecError, described

__all__ = ["ConvNet", "ConvUnit", "DenseNet", "SpecError", "described"]
__all__ += [
    "build",
    "check_finite",
    "check_units",
    "check_untouched",
    "create",
    "duplicate",
    "fold_batch_norm",
    "normalize",
    "rebuilt",
    "replace_module",
    "weight_layers",
    "with_change",
]

SPEC_FORMAT = 1
PLAIN = {  # what torch hangs on a layer, by the names of its tensors; and what makes the layer a plain one again
    r"\bparametrizations\.": "torch.nn.utils.parametrize.remove_parametrizations(layer, tensor) first",
    r"(weight|bias)_mask$": "torch.nn.utils.prune.remove(layer, tensor) first",
    r"(weight|bias)_g$": "torch.nn.utils.remove_weight_norm(layer) first",
    r"(weight|bias)_u$": "torch.nn.utils.remove_spectral_norm(layer) first",
}
REMEDY = "create the model so, or record what was done to it (studylib.models.with_change with a structure)"


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
        model.spec, model.history = copy.deepcopy(spec), []
    except (SpecError, MemoryError):
        raise
    except Exception as error:  # a spec may break any constructor
        raise SpecError(f"spec of {spec['name']!r} does not build: {type(error).__name__}: {error}") from error
    return model


def rebuilt(model: nn.Module) -> nn.Module:
    """What a reader will build from the spec of ``model``, without memory for its tensors; seen to be of like layers.

    Its spec is that of ``model`` as JSON gives it back.

    Raises:
        SpecError: no spec, one that is not JSON data or does not build, or a tensor or layer that is not as the spec
            builds it (a new head, another width, type or class, a tensor more or less, what torch prunes or
            normalizes by, a hook), or a unit that cannot be folded (:func:`check_units`); the message names it, what
            it is, what was expected, and the remedy.
    """
    if not isinstance(getattr(model, "spec", None), dict):
        raise SpecError(f"{type(model).__name__} has no spec: expected a model of studylib.models")
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


def check_untouched(model: nn.Module, built: nn.Module | None = None) -> None:
    """Sees that every module computes what its class does, as a reader will.

    Args:
        built: the same modules as their spec builds them; what these have is allowed.

    Raises:
        SpecError: a module with a forward hook or a ``forward`` of its own; the message names it.
    """
    allowed = dict(built.named_modules()) if built is not None else {}
    for name, module in model.named_modules():
        other = allowed.get(name, nn.Identity())
        for hooks in ("_forward_pre_hooks", "_forward_hooks"):
            if count := max(0, len(getattr(module, hooks)) - len(getattr(other, hooks))):
                what = hooks.strip("_").replace("_", " ").removesuffix("s")
                raise SpecError(f"{name or 'the model'} has a {what}, which no file holds ({count}); remove it first")
        if "forward" in vars(module) and "forward" not in vars(other):
            raise SpecError(f"{name or 'the model'} has a forward of its own: expected that of {type(module).__name__}")


def check_units(model: nn.Module) -> None:
    """Sees that every :class:`ConvUnit` runs its convolution, then its norm, then the rest: else none may be folded.

    Raises:
        SpecError: a unit with another ``forward``, with other children first than conv and norm, a convolution that
            is neither nn.Conv2d itself nor int8, or a batch norm that is not nn.BatchNorm2d itself or that has no
            running statistics; the message names the unit.
    """
    for name, unit in model.named_modules():
        if not isinstance(unit, ConvUnit):
            continue
        name, kind, parts = name or "the model", type(unit), list(unit._modules)
        if kind.forward is not nn.Sequential.forward:
            raise SpecError(f"{name} is {kind.__name__}: expected a ConvUnit, whose forward runs its children in order")
        if parts[:2] != ["conv", "norm"]:
            raise SpecError(f"{name} runs {', '.join(parts)}: expected conv, then norm, as a ConvUnit does")
        conv, norm = unit.conv, unit.norm
        if type(conv) is not nn.Conv2d and not getattr(conv, "is_weight_layer", False):
            raise SpecError(f"{name}.conv is {type(conv).__name__}: expected Conv2d in a ConvUnit")
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            if type(norm) is not nn.BatchNorm2d or type(conv) is not nn.Conv2d:
                found = f"{type(norm).__name__} behind {type(conv).__name__}"
                raise SpecError(f"{name}.norm is {found}: expected BatchNorm2d behind Conv2d")
            if norm.running_mean is None:
                raise SpecError(
                    f"{name}.norm has no running statistics: expected track_running_stats=True, to be folded"
                )


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


def check_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError, naming the tensor, where one of ``tensors``, a model's state, holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name}: holds a number that is not finite; train the model again, at a smaller lr")


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
        if not mean.shape == std.shape == images.shape[1:2]:
            raise ValueError("as many numbers as channels")
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
    """A copy whose batch norms are folded into the convolutions before them: what inference needs, no more.

    Norms of other kinds stay.

    Raises:
        SpecError: a unit that does something else than convolution, then batch norm (:func:`check_units`).
    """
    check_units(model)
    folded = duplicate(model).eval()
    for unit in folded.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.conv = nn.utils.fuse_conv_bn_eval(unit.conv, unit.norm)
            unit.norm = nn.Identity()
    return folded
