"""Published files as networks again that can be trained on, or teach: a longer study starts from them."""

import hashlib
import math
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from torch import nn

from studylib.coding import codec
from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.disk import files
from studylib.networks import blocks, channels, slicing, spec
from studylib.networks.layers import fold_batch_norm, weight_layers

ENDING = ".slnc"
LIST = "models.json"  # beside published files: name → sha256, dataset, seed, …
IMAGES = 2000  # training images from which batch norms take their statistics
NORM = math.sqrt(2)  # of a filter: what He's initialization gives on average, whatever its fan in


class About(BaseModel, strict=True, extra="allow", allow_inf_nan=False):
    """What the list says of a published file; any key may be missing, others are allowed."""

    sha256: str = ""
    dataset: str = ""
    profile: str = ""
    node: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    bytes: Annotated[int, Field(ge=1, le=2**32)] = 1
    test_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.0


def listing(folder: Path) -> dict[str, dict]:
    """What :data:`LIST` in ``folder`` says: published file → keys of :class:`About`; empty where there is none.

    Raises studylib.disk.files.CheckpointError, which names value and what was expected, where it is damaged; OSError
    where the machine cannot read it.
    """
    path = Path(folder) / LIST
    known = files.read_json(path) if path.exists() else {}
    try:
        TypeAdapter(dict[str, About]).validate_python(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise files.CheckpointError(f"{path}: {where}={first['input']!r}: {first['msg']}") from error
    return known


def listed(folder: Path, name: str, *needed: str) -> dict | None:
    """What :func:`listing` has of the file ``name``; None without it, CheckpointError without a ``needed`` key."""
    about = listing(folder).get(name)
    if about is not None and (missing := sorted(set(needed) - set(about))):
        expected = f"expected all of {', '.join(sorted(needed))}"
        raise files.CheckpointError(f"{Path(folder) / LIST}: {name} without {', '.join(missing)}: {expected}")
    return about


def published(path: str | Path, data: Data) -> nn.Module:
    """The model in a published file, absolute or below the study's root, which the :data:`LIST` beside it has.

    Its seed must be that of ``data``, else it has been trained on what here are validation images.

    Raises:
        ValueError: no such file, not in the list, not the file listed, or of other data or another seed.
        studylib.disk.files.CheckpointError: the list is damaged or says too little.
        studylib.coding.codec.CodecError, studylib.networks.blocks.SpecError: not a coded model; a factorized one.
    """
    named, path = path, files.resolve(path)
    about = listed(path.parent, path.name, "sha256", "dataset", "seed")
    if about is None or not path.exists():
        raise ValueError(f"{str(named)!r}: expected a published file, one that {path.parent / LIST} lists")
    file = path.read_bytes()
    if hashlib.sha256(file).hexdigest() != about["sha256"]:
        raise ValueError(f"{path}: not the file that was published, its checksum is another")
    if (about["dataset"], about["seed"]) != (data.name, data.seed):
        expected = f"expected {data.name}, seed {data.seed}, whose validation images it has not been trained on"
        raise ValueError(f"{path}: of {about['dataset']}, seed {about['seed']}: {expected}")
    if about.get("data_sha256", data.digest) != data.digest:  # files of earlier versions do not say
        raise ValueError(f"{path}: of other images, their SHA-256 is not that of {data.name} on this machine")
    model = codec.decode(file)
    plain = set(weight_layers(spec.build({**model.spec, "changes": []})))
    if other := plain ^ set(weight_layers(model)):
        raise blocks.SpecError(f"{path}: layers {', '.join(sorted(other))}: expected a network not factorized")
    return model


def apply(path: str | Path, data: Data) -> nn.Module:
    """The network of a published file in float32, with batch norms, to be trained on; its zeros are zeros.

    Weights are those that the integers stand for; inputs are not rounded. In evaluation mode it else computes what the
    file's does. Channels that were sliced away are there again, without a weight, behind the others. Each
    batch norm, with the statistics of training images, adds the bias alone. Each filter before one is brought to
    :data:`NORM`, which decides how fast it learns and what pruning takes first. Errors are those of :func:`published`.
    """
    coded = published(path, data)
    model = _whole(coded)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(data.seed))[:IMAGES]
    _put_norms_back(model, data.normalize(data.train.images[order]).cpu())
    return spec.with_change(model, "restored", {"file": files.file_digest(files.resolve(path))[:12]})


@torch.no_grad()
def _whole(coded: nn.Module) -> nn.Module:
    """``coded`` in float32 and at the widths its arguments say, batch norms folded still."""
    plain = {name: coded.spec[name] for name in ("format", "name", "args")}
    model = fold_batch_norm(spec.build(plain | {"changes": []}))
    kept, state = weight_layers(coded), coded.state_dict()
    graph = slicing.graph_of(model) if channels.widths(coded) != channels.widths(model) else None

    def there(found: list) -> torch.Tensor:
        """The places of the channels that the file has."""
        return torch.tensor([i for i, c in enumerate(found) if c is None or c[1] < len(kept[c[0]].weight)])

    for name, tensor in model.state_dict().items():
        owner, _, what = name.rpartition(".")
        stored = kept[owner].dequantized_weight() if state[name].dtype == torch.int8 else state[name]
        if stored.shape == tensor.shape:
            tensor.copy_(stored)
            continue
        places = (there(graph.rows[owner]),)
        if owner in kept:
            tensor.zero_()
            if what == "weight" and getattr(kept[owner], "groups", 1) == 1:
                places = (places[0][:, None], there(graph.columns[owner]))
        tensor[places] = stored
    return model.eval()


@torch.no_grad()
def _put_norms_back(model: nn.Module, images: torch.Tensor) -> None:
    """Gives each convolution of ``model`` a batch norm in place of its bias; ``images`` (n, c, h, w), normalized."""
    units = {name: unit for name, unit in model.named_modules() if isinstance(unit, blocks.ConvUnit)}
    units = {name: unit for name, unit in units.items() if isinstance(unit.norm, nn.Identity)}  # where one was folded
    moments = {name: [0, 0.0, 0.0] for name in units}  # of what each convolution gives: count, sum, sum of squares

    def watch(name):
        def add(_module, _inputs, output):
            output = (output - units[name].conv.bias[:, None, None]).double()
            for i, value in enumerate((output[:, 0].numel(), output.sum((0, 2, 3)), output.square().sum((0, 2, 3)))):
                moments[name][i] = moments[name][i] + value

        return add

    hooks = [unit.conv.register_forward_hook(watch(name)) for name, unit in units.items()]
    for chunk in images.split(scoring.batch_of(images)):
        model(chunk)
    for hook in hooks:
        hook.remove()
    for name, unit in units.items():
        count, total, squares = moments[name]
        mean, conv = total / count, unit.conv
        norms = conv.weight.flatten(1).norm(dim=1)
        times = torch.where(norms > 0, NORM / norms.clamp(min=1e-30), 1.0)
        spread = (squares / count - mean.square()).clamp(min=0).float()
        mean = mean.float()
        norm = nn.BatchNorm2d(len(mean))
        norm.running_mean.copy_(times * mean)
        norm.running_var.copy_(times.square() * spread)
        norm.weight.copy_((norm.running_var + norm.eps).sqrt() / times)
        norm.bias.copy_(mean + conv.bias)
        conv.weight.mul_(times[:, None, None, None])
        conv.bias, unit.norm = None, norm.eval()
