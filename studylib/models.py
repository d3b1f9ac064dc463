"""The networks of the study, each built from a small spec that is stored beside its weights.

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

SPEC_FORMAT = 1
ARCHITECTURES: dict[str, type[nn.Module]] = {}
BREADTH = {
    "densenet": "growth",
    "vgg": "width",
    "whitened": "width",
}  # the argument that says how wide
WHITENING_IMAGES, WHITENING_EPS = 5000, 5e-4  # whose patches are whitened; added to each variance


class SpecError(ValueError):
    """A spec that cannot be built; the message names the value and what was expected."""


def architecture(name: str):
    """Class decorator: lets :func:`create` and :func:`build` make the class under ``name``."""

    def register(cls):
        ARCHITECTURES[name] = cls
        return cls

    return register


class ConvUnit(nn.Sequential):
    """Convolution → batch norm → ReLU, the order in which the three fuse into one (int8) layer."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int | None = None):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()


class DenseBlock(nn.Module):
    """Each layer reads everything before it and adds ``growth`` channels (Huang et al. 2017, eq. 2)."""

    def __init__(self, in_channels: int, layers: int, growth: int):
        super().__init__()
        self.layers = nn.ModuleList(ConvUnit(in_channels + i * growth, growth, 3) for i in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


@architecture("densenet")
class DenseNet(nn.Module):
    """DenseNet without bottlenecks: three dense blocks of (depth − 4) / 3 layers (Huang et al. 2017).

    The layers run convolution → batch norm → ReLU instead of the original pre-activation order, so that
    they fuse for int8, as in the paper (section 3.6).  Depth 40 and growth 12 give 1.0 M parameters.
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, depth=40, growth=12, stem=16):
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise SpecError(f"densenet depth={depth!r}: expected 3·n + 4 with n ≥ 1, such as 22 or 40")
        if image_size < 4:
            raise SpecError(f"densenet image_size={image_size!r}: expected at least 4, it is halved twice")
        layers, channels = (depth - 4) // 3, stem
        self.features = nn.Sequential()
        self.features.add_module("stem", ConvUnit(in_channels, stem, 3))
        for i in (1, 2, 3):
            self.features.add_module(f"block{i}", DenseBlock(channels, layers, growth))
            channels += layers * growth
            if i < 3:
                self.features.add_module(f"transition{i}", ConvUnit(channels, channels, 1))
                self.features.add_module(f"pool{i}", nn.AvgPool2d(2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))

    def wiring(self) -> list[tuple[str, list[str]]]:
        """Each layer, and the layers whose channels it reads, in the order of its columns; [] reads the image."""
        found, read = [("features.stem.conv", [])], ["features.stem.conv"]
        for name, part in self.features.named_children():
            if isinstance(part, DenseBlock):
                for i in range(len(part.layers)):
                    layer = f"features.{name}.layers.{i}.conv"
                    found.append((layer, list(read)))
                    read.append(layer)
            elif name.startswith("transition"):
                found.append((f"features.{name}.conv", read))
                read = [f"features.{name}.conv"]
        return [*found, ("classifier", read)]


@architecture("convnet")
class ConvNet(nn.Module):
    """The student: three convolutions with batch norm, then three linear layers, ReLU between all.

    Each convolution is followed by a 2 × 2 maximum.  ``widths`` are the channels of the convolutions,
    ``hidden`` the features of the first two linear layers (the paper states neither; they are ours).
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, widths=(32, 64, 128), hidden=(128, 64)):
        super().__init__()
        if len(widths) != 3 or len(hidden) != 2:
            raise SpecError(f"convnet widths={widths!r} hidden={hidden!r}: expected 3 and 2 numbers")
        if image_size < 8:
            raise SpecError(f"convnet image_size={image_size!r}: expected at least 8, it is halved three times")
        channels = [in_channels, *widths]
        self.features = nn.Sequential()
        for i in range(3):
            self.features.append(ConvUnit(channels[i], channels[i + 1], 3))
            self.features.append(nn.MaxPool2d(2))
        self.fc1 = nn.Linear(widths[2] * (image_size // 8) ** 2, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], classes)

    def forward(self, x):
        x = self.features(x).flatten(1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))

    def wiring(self) -> list[tuple[str, list[str]]]:
        """Each layer, and the layers whose channels it reads, in the order of its columns; [] reads the image."""
        return _chain(["features.0.conv", "features.2.conv", "features.4.conv", "fc1", "fc2", "fc3"])


class Chain(nn.Module):
    """A first convolution, stages of a convolution, a 2 × 2 maximum and a convolution, what pools, and a linear layer.

    Args:
        stem: the first.
        stages: channels of each, 3 × 3 convolutions with batch norm.
        pool: brings (batch, channels, height, width) to (batch, channels, 1, 1).
    """

    def __init__(self, stem: ConvUnit, stages: tuple[int, int, int], pool: nn.Module, classes: int):
        super().__init__()
        self.features = nn.Sequential(stem)
        for channels in stages:
            self.features.append(ConvUnit(self.features[-1].conv.out_channels, channels, 3))
            self.features.append(nn.MaxPool2d(2))
            self.features.append(ConvUnit(channels, channels, 3))
        self.pool = pool
        self.classifier = nn.Linear(stages[-1], classes)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))

    def wiring(self) -> list[tuple[str, list[str]]]:
        """Each layer, and the layers whose channels it reads, in the order of its columns; [] reads the image."""
        units = (name for name, part in self.features.named_children() if isinstance(part, ConvUnit))
        return _chain([*(f"features.{name}.conv" for name in units), "classifier"])


@architecture("vgg")
class VGG(Chain):
    """3 × 3 convolutions with batch norm in three stages, without shortcuts (after Simonyan and Zisserman 2015).

    A stem of ``width`` channels, then stages of 2, 4 and 8 times as many, each a convolution, a 2 × 2 maximum and a
    convolution; then a mean over what is left of the image, and a linear layer. Width 24 gives 0.66 M parameters.
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=24):
        if width < 1:
            raise SpecError(f"vgg width={width!r}: expected at least 1")
        if image_size < 8:
            raise SpecError(f"vgg image_size={image_size!r}: expected at least 8, it is halved three times")
        stages = (2 * width, 4 * width, 8 * width)
        super().__init__(ConvUnit(in_channels, width, 3), stages, nn.AdaptiveAvgPool2d(1), classes)


@architecture("whitened")
class Whitened(Chain):
    """A VGG that learns in few epochs: its first layer starts as the whitening of the images' patches (Jordan 2024).

    A 2 × 2 convolution without padding, whose channels are the principal components of 2 × 2 patches, each divided by
    its deviation, and their negatives (section 3.2; it trains on, there it does not); then three stages of ``width``,
    4 and 4 times as many channels, each a 3 × 3 convolution, a 2 × 2 maximum and another convolution, which start as
    the identity as far as they go (section 3.3); then the maximum over what is left of the image, and a linear layer.
    Width 64 gives 2.0 M parameters.  Batch norm comes before the maximum, and ReLU is in GELU's place, for int8.
    An image smaller than 9 pixels is padded by one.
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=64):
        if width < 1:
            raise SpecError(f"whitened width={width!r}: expected at least 1")
        if image_size < 7:
            raise SpecError(f"whitened image_size={image_size!r}: expected at least 7, it is halved three times")
        stem = ConvUnit(in_channels, 8 * in_channels, 2, padding=int(image_size < 9))
        super().__init__(stem, (width, 4 * width, 4 * width), nn.AdaptiveMaxPool2d(1), classes)

    def start(self, images: torch.Tensor | None) -> None:
        """The weights of a new model where they are not drawn; ``images`` as :func:`create` takes them."""
        for unit in [part for part in self.features if isinstance(part, ConvUnit)][1:]:
            nn.init.dirac_(unit.conv.weight.data[: unit.conv.in_channels])
        if images is not None:
            whitening = whitening_filters(images[:WHITENING_IMAGES])
            self.features[0].conv.weight.data.copy_(torch.cat([whitening, -whitening]))


def whitening_filters(images: torch.Tensor) -> torch.Tensor:
    """Filters (4 c, c, 2, 2) whose answers to patches of ``images`` (n, c, h, w) have second moments near the identity.

    The eigenvectors of the patches' second moments, each over the root of its eigenvalue and :data:`WHITENING_EPS`,
    the least first, the largest entry of each positive (Jordan 2024, section 3.2).
    """
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values.clamp(min=0) + WHITENING_EPS).sqrt()).T
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    return (filters * largest.sign()).float().unflatten(1, (images.shape[1], 2, 2))


def _chain(layers: list[str]) -> list[tuple[str, list[str]]]:
    return [(layer, layers[i - 1 : i] if i else []) for i, layer in enumerate(layers)]


def create(name: str, seed: int, *, images: torch.Tensor | None = None, **args) -> nn.Module:
    """A new model, drawn from ``seed``: He-normal convolutions (fan in), linear layers as PyTorch starts them.

    Args:
        images: training images (n, c, h, w), normalized, of which "whitened" learns its first layer; the first
            :data:`WHITENING_IMAGES` are enough. Others need none.

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
            model.start(images)
    return model


def described(text: str, like: dict, model_args: dict) -> tuple[str, dict]:
    """Name and arguments, for :func:`create`, of a network in words: its kind and how wide it is.

    Args:
        text: "densenet 6" adds 6 channels a layer, "vgg 12" has a stem of 12, "whitened 64" first stages of 64; they
            are otherwise as ``like``, if it is of their kind. "convnet 16" has 16, 32 and 64 channels, 32 and 16
            features.
        like: a spec, or its name and args.
        model_args: what a network needs to fit the data.

    Raises:
        ValueError: another kind, or no whole number of at least 1 after it.
    """
    kind, _, number = text.partition(" ")
    kinds = ["convnet", *BREADTH]
    if kind not in kinds or not number.isdecimal() or int(number) < 1:
        raise ValueError(f"network {text!r}: expected one of {', '.join(kinds)}, and a number of at least 1")
    w = int(number)
    if kind == "convnet":
        return kind, {**model_args, "widths": [w, 2 * w, 4 * w], "hidden": [2 * w, w]}
    same = like["args"] if like["name"] == kind else {}
    return kind, {**same, **model_args, BREADTH[kind]: w}


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
