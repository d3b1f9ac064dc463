"""Which of torchvision's classifiers the zoo measures: lists of twelve, and each by its name with random weights."""

from collections.abc import Iterable

from torch import nn
from torchvision import models
from torchvision.models import quantization

from studylib.settings import nearest

REGNETS = "regnet"  # they cannot be built without memory for their weights
PREFIX = "quantized_"  # of the names that torchvision gives its quantizable models
FAMILIES = (  # a list as the survey's, which names no model: twelve, no family more than twice
    *("alexnet", "vgg16", "resnet18", "resnet50", "densenet121", "squeezenet1_1", "mobilenet_v2"),
    *("mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "swin_t", "vit_b_16"),
)
SMALL = ("squeezenet1_1", "mobilenet_v3_small", f"{PREFIX}shufflenet_v2_x0_5")  # what a chapter runs in a minute
HEAVY = "AlexNet, every VGG, three light ones"
VGGS = ("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn")
LISTS = {  # of twelve, or all
    "twelve of many families": FAMILIES,
    HEAVY: ("alexnet", *VGGS, "resnet18", "mobilenet_v2", "squeezenet1_1"),
}


def classifiers() -> list[str]:
    """torchvision's classifiers, in float32."""
    return models.list_models(module=models)


def quantizable() -> tuple[str, ...]:
    """torchvision's twelve models with a static int8 form of their own."""
    return tuple(models.list_models(module=quantization))


def lists() -> dict[str, tuple[str, ...]]:
    """Two lists of twelve by name: twelve of many families, and those that torchvision quantizes."""
    return {"families": FAMILIES, "quantizable": quantizable()}


def named(names: Iterable[str]) -> list[str]:
    """``names`` with the lists of :func:`lists` spelt out; ValueError for a model that torchvision has not."""
    found = list(dict.fromkeys(model for name in names for model in lists().get(name, (name,))))
    check_names(found)
    return found


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError for a model that torchvision has not, and for a RegNet."""
    known = [*classifiers(), *quantizable()]
    for name in names:
        if name not in known:
            close = nearest(str(name), [*lists(), *known])
            raise ValueError(f"model {name!r}: expected families, quantizable or a classifier of torchvision{close}")
        if name.startswith(REGNETS):
            raise ValueError(f"model {name!r}: expected another than a RegNet, which takes memory to be built")


def built(name: str, **given) -> nn.Module:
    """A model of random weights in evaluation mode, by its name in torchvision; ValueError for one that it has not."""
    check_names([name])
    if name.removeprefix(PREFIX) in ("googlenet", "inception_v3"):  # as they come with weights: no second classifiers
        given |= {"aux_logits": False, "init_weights": False}
    return models.get_model(name, weights=None, **given).eval()
