"""What the networks of profiles are called, for tables and figures of several profiles."""

from pathlib import Path

from engine.settings import chapters, check, parameters
from engine.settings.reading import FOLDER, ROOT
from studylib.coding import restore
from studylib.results import claims
from studylib.techniques.teacher import Network
from studylib.tree import names

DENSENET = "DenseNet"  # of networks, the one that the paper's goals are about
KINDS = {"densenet": DENSENET, "vgg": "VGG", "whitened": "whitened VGG", "convnet": "ConvNet"}
TRAINED_ON = ", trained on"
RESTORED = "restored network"  # one that a profile takes from a published file and does not train


def teacher_kind(profile: str) -> str:
    """What network the teacher of a published run is, by the profile as it stands."""
    network = _teacher(profile)
    if network is None or not network.name:
        return DENSENET
    return RESTORED if network.name.endswith(restore.ENDING) else KINDS[network.name.split()[0]]


def another_network(profile: str) -> str:
    """The profile's networks in words, if its teacher is not the paper's own; else empty."""
    if _teacher(profile) is None:
        return ""
    ours = teacher_name(profile).removesuffix(TRAINED_ON)
    return "" if ours == f"{DENSENET}-{claims.PAPER_DEPTH}" else f"{ours} and its student"


def teacher_name(profile: str) -> str:
    """The teacher of a profile: kind and depth or width; of a published file: that of the profile it is from."""
    network = _teacher(profile)
    if network is None:
        return DENSENET
    kind, _, width = network.name.partition(" ")
    if kind.endswith(restore.ENDING):
        of = restore.listed(ROOT / "figures" / "models", Path(kind).name, "profile") or {"profile": ""}
        return f"{teacher_name(of['profile']).removesuffix(TRAINED_ON)}{TRAINED_ON}"
    return f"{KINDS[kind]} of width {width}" if kind else f"{DENSENET}-{network.depth}"


def network_name(profile: str, network: str) -> str:
    """A network of chapter 8 in words, for a figure of several profiles: its name there is relative to the profile.

    Those that go on from a published file share a name, whatever the profile: their points lie on one another.
    """
    kind, _, number = network.partition(" ")
    own = {
        names.TEACHER: lambda: teacher_name(profile),
        "student": lambda: "its student",
        "growth": lambda: f"{DENSENET}, {number} channels a layer",
        "width": lambda: f"ConvNet of width {number}",
    }
    name = own[kind]() if kind in own else f"{KINDS.get(kind, kind)} {number}".strip()
    return name if name.endswith(TRAINED_ON) else f"{name} ({profile})"


def _teacher(profile: str) -> Network | None:
    """The network of the root's section of a profile or of one of its roots; None where there is no such profile."""
    base, _, root = profile.partition("-")
    if not (FOLDER / f"{base}.yaml").exists():
        return None
    return check.records_of(chapters.root(), parameters.load(base, root=root))["network"]
