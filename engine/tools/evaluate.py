"""What a coded file is worth: decodes it, reads the test set, and compares that with the published result.

python engine/tools/evaluate.py figures/models/digits-densenet16-8bit.slnc [--dataset digits]
"""

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

from engine.run.machine import refusals
from studylib.coding import codec, restore
from studylib.data import datasets, scoring, sources
from studylib.experiments.sample import SAMPLERS
from studylib.networks import spec

ROUNDING = 3, 0.001  # test images that may differ on another machine: their number, or their share if larger


def opened(content: bytes, dataset: str, known: dict[str, sources.Source]) -> tuple[nn.Module, str]:
    """A coded model, and which ``known`` data set it fits. ValueError: no model, no scale, no such set."""
    model = codec.decode(content)
    if model.spec["name"] in SAMPLERS:
        raise ValueError(f"{model.spec['name']}: it has no accuracy; make sample draws with it")
    usual = {"in_channels": 3, "image_size": 32, "classes": 10}
    channels, side, classes = (model.spec["args"].get(name, value) for name, value in usual.items())
    fits = [name for name, source in known.items() if source.fits(channels, side, classes)]
    if not fits or dataset not in ("", *fits):
        expected = f"expected {' or '.join(fits) or 'none'} for the data set, found {dataset or 'none'!r}"
        raise ValueError(f"images of {channels} × {side} × {side}, {classes} classes: {expected}")
    spec.normalize(model, torch.zeros(1, channels, 1, 1))
    return model, dataset or fits[0]


@torch.no_grad()
def accuracy(model: nn.Module, test: datasets.Split) -> float:
    """Share of the images of ``test`` that ``model`` gets right."""
    parts = test.images.split(scoring.batch_of(test.images))
    logits = torch.cat([model(spec.normalize(model, images)).float() for images in parts])
    return scoring.scores(logits, test.labels)["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--dataset", default="", type=str.strip, help="default: the first whose images fit")
    args = parser.parse_args()
    if not args.model.is_file():
        sys.exit(f"MODEL={args.model}: expected a coded file, such as those in figures/models/")
    with refusals(args.model, "nothing was evaluated"):
        content, where = args.model.read_bytes(), ""
        try:
            known, where = sources.table(args.dataset), f"{args.model}: "
            model, dataset = opened(content, args.dataset, known)
            where = ""  # the files that are read now name themselves
            cited = restore.listed(args.model.parent, args.model.name, "bytes", "sha256", "test_accuracy")
            test = datasets.load(dataset, 0).test
        except (ValueError, RuntimeError) as error:
            sys.exit(f"{where}{error}")
    try:
        right, count = accuracy(model, test), len(test)
    except (RuntimeError, IndexError) as error:  # layers that do not fit each other, or other classes
        sys.exit(f"{args.model}: does not compute classes of images of {dataset}: {str(error)[:200]}")
    print(f"{args.model}: {len(content):,} bytes, {right:.2%} of the {count:,} test images of {dataset} right")
    if cited is None:
        return
    if cited["sha256"] != hashlib.sha256(content).hexdigest():
        sys.exit(f"{args.model}: not the file that was published, its checksum is another")
    print(f"published: {cited['bytes']:,} bytes, {cited['test_accuracy']:.2%}")
    allowed = max(ROUNDING[0] / count, ROUNDING[1])
    if abs(right - cited["test_accuracy"]) > allowed + 1e-9:
        sys.exit(f"{args.model}: {right:.2%}, expected {cited['test_accuracy']:.2%} to within {allowed:.2%}")


if __name__ == "__main__":
    main()
