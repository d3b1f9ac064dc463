"""What a coded file is worth: decodes it, reads the test set, and holds that against what was published of it.

python engine/evaluate.py figures/models/digits-teacher-imp-int8.slnc [--dataset digits]
"""

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from studylib import codec, data, models, restore, store, train

SHAPES = {"digits": (1, 8), "cifar10": (3, 32)}  # of images: channels, pixels a side
LIST = restore.LIST  # beside the files: name → bytes, sha256, test_accuracy, dataset, node, seed, profile
ROUNDING = 3, 0.001  # how many test images another machine may see otherwise, or which share of them if that is more


def evaluate(path: Path, dataset: str) -> tuple[str, float, int]:
    """Name of the data set, share of its test images that are got right, and how many there are.

    Raises:
        codec.CodecError: not a coded model.
        models.SpecError: the file does not say how images are scaled.
        ValueError: no data set has images of its size, or ``dataset`` has others.
    """
    model = codec.decode(path.read_bytes())
    shape = (model.spec["args"].get("in_channels", 3), model.spec["args"].get("image_size", 32))
    fits = [name for name, known in SHAPES.items() if known == shape]
    dataset = dataset or (fits[0] if fits else "")
    if dataset not in fits:
        raise ValueError(
            f"images of {shape[0]} × {shape[1]} × {shape[1]}: expected {' or '.join(fits) or 'none'}"
            f" for the data set, found {dataset or 'none'!r}"
        )
    test = data.load(dataset, 0).test
    with torch.no_grad():
        parts = [
            model(models.normalize(model, images)).float() for images in test.images.split(train.batch_of(test.images))
        ]
    return dataset, train.scores(torch.cat(parts), test.labels)["accuracy"], len(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--dataset", default="", help="default: the one whose images fit")
    args = parser.parse_args()
    if not args.model.is_file():
        sys.exit(f"MODEL={args.model}: No such file; expected a coded file, such as those in figures/models/")
    try:
        dataset, accuracy, count = evaluate(args.model, args.dataset.strip())
    except (OSError, ValueError) as error:
        sys.exit(f"{args.model}: {error}")
    content = args.model.read_bytes()
    print(f"{args.model}: {len(content):,} bytes, {accuracy:.2%} of the {count:,} test images of {dataset} right")
    known = args.model.parent / LIST
    cited = store.read_json(known).get(args.model.name) if known.exists() else None
    if cited is None:
        return
    if cited["sha256"] != hashlib.sha256(content).hexdigest():
        sys.exit(f"{args.model}: not the file that was published, its checksum is another")
    print(f"published: {cited['bytes']:,} bytes, {cited['test_accuracy']:.2%}")
    allowed = max(ROUNDING[0] / count, ROUNDING[1])
    if abs(accuracy - cited["test_accuracy"]) > allowed + 1e-9:
        sys.exit(f"{args.model}: {accuracy:.2%}, expected {cited['test_accuracy']:.2%} to within {allowed:.2%}")


if __name__ == "__main__":
    main()
