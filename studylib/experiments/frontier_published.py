"""What the networks and files of all published studies are called."""

import inspect
import re

import pandas as pd

from studylib.coding import restore
from studylib.networks import resnet
from studylib.networks.spec import ARCHITECTURES
from studylib.results import claims
from studylib.techniques.teacher import Network
from studylib.tree import names

DENSENET = "DenseNet"  # of networks, the one that the paper's goals are about
KINDS = {"densenet": DENSENET, "vgg": "VGG", "whitened": "whitened VGG", "convnet": "ConvNet", "resnet": "ResNet"}
KINDS |= {"vae": "autoencoder", "mobilenetv2": "MobileNetV2", "vgg16": "VGG-16", "gated": "gated network"}
TRAINED_ON = ", trained on"
RESTORED = "restored network"  # one that a study takes from a published file and does not train
UNKNOWN = {"name": "densenet", "args": {}, "restored": False}  # teacher of a study that does not say


def teacher_of(spec: dict) -> dict:
    """What is published of a study's teacher, by the spec of its model."""
    restored = any(change["technique"] == "restored" for change in spec["changes"])
    return {"name": spec["name"], "args": spec["args"], "restored": restored}


def teacher_kind(about: dict) -> str:
    """What network the teacher of a published study is."""
    teacher = about.get("teacher", UNKNOWN)
    return RESTORED if teacher["restored"] else KINDS[teacher["name"]]


def teacher_name(about: dict) -> str:
    """The teacher of a published study: kind, and depth or width."""
    teacher = about.get("teacher", UNKNOWN)
    args = teacher["args"]
    size = f"-{args['depth']}" if "depth" in args else f" of width {args['width']}" if "width" in args else ""
    return f"{KINDS[teacher['name']]}{size}"


def another_network(about: dict) -> str:
    """The study's networks in words, if its teacher is known and not the paper's own; else empty."""
    ours, papers = teacher_name(about), f"{DENSENET}-{claims.PAPER_DEPTH}"
    return f"{ours} and its student" if "teacher" in about and ours != papers else ""


def network_name(study: str, about: dict, network: str) -> str:
    """A network of chapter 8 in words, for a figure of several studies: stored names are relative to the study.

    Those that go on from a published file share a name, whatever the study: their points lie on one another.
    """
    kind, _, number = network.partition(" ")
    if kind == names.TEACHER and teacher_kind(about) == RESTORED:
        return f"{teacher_name(about)}{TRAINED_ON}"
    own = {names.TEACHER: teacher_name(about), "student": "its student"}
    own |= {"growth": f"{DENSENET}, {number} channels a layer", "width": f"ConvNet of width {number}"}
    return f"{own.get(kind) or f'{KINDS[kind]} {number}'} ({study})"


def file_name(spec: dict, node: str, dataset: str) -> str:
    """A published file by its network, zeros in percent and bits: ``densenet22-z80-4bit``.

    Args:
        spec: of its model.
        node: that it holds; the name of a point ends in its bits.
        dataset: stands first, if it is another than the paper's.
    """
    usual = {name: given.default for name, given in inspect.signature(ARCHITECTURES[spec["name"]]).parameters.items()}
    args, made = usual | spec["args"], [change["technique"] for change in spec["changes"]]
    size = args.get("depth") or args.get("width") or args["widths"][0]
    growth, zeros = args.get("growth", Network.growth), max(change.get("sparsity", 0) for change in spec["changes"])
    width = args["width"] if {"width", "depth"} <= args.keys() else resnet.WIDTH  # else it is the size, if there is any
    taught = "kd" in made and args.get("classes", 0) != 0  # a generative student is of its teacher's kind
    parts = {
        re.sub(r"\W+", "_", dataset.removesuffix(".npz")): dataset != claims.PAPER_DATA,
        "student" if taught else f"{spec['name']}{'-' * spec['name'][-1].isdigit()}{size}": True,
        f"growth{growth}": growth != Network.growth,
        f"width{width}": width != resnet.WIDTH,
        f"z{round(100 * zeros, 1):g}": zeros > 0,
        "svd": "svd" in made,
    }
    bits = re.search(r"(\d+)bit$", node)
    whole = f"{bits[1] if bits else 8 if 'int8' in made else 32}bit"
    return "-".join([*(part for part, there in parts.items() if there), whole])


def files(
    nodes: dict[str, pd.DataFrame], points: dict[str, list[pd.DataFrame]], models: dict[str, dict]
) -> pd.DataFrame:
    """Every file of the networks of some studies.

    Args:
        nodes: study → a row for each node of its first seed.
        points: study → tables of its chapters with a row for each coded file.
        models: published file → what :data:`studylib.coding.restore.LIST` says of it.

    Returns:
        Rows of study, name, node, network, bytes, val_accuracy, test_accuracy (0…1). The name is that of the published
        file, else study/node. Points also have bits, sparsity, val_accuracy_pruned.
    """
    known = {(of.get("profile"), of.get("node")): name.removesuffix(restore.ENDING) for name, of in models.items()}
    parts = [pd.DataFrame(columns=["study", "node", "network", "bytes", "val_accuracy", "test_accuracy"])]
    for study, rows in nodes.items():
        own = rows.rename(columns={"bytes_file": "bytes"})[["node", "val_accuracy", "test_accuracy", "bytes"]]
        made = [table.rename(columns={"name": "node"}) for table in points[study] if len(table)]
        parts += [table.assign(study=study) for table in (own, *made)]
    every = pd.concat(parts[1:] or parts, ignore_index=True)
    pairs = zip(every["study"], every["node"], strict=True)
    return every.assign(name=[known.get(pair, "/".join(pair)) for pair in pairs])
