"""A network of your own as files: bytes and accuracy before and after, and layer by layer what went in.

python -m studylib.tree.compress torchvision.models:resnet18 --images own.npz --forms float32 int8

Nothing is trained. Rounded and pruned are weights alone (:mod:`studylib.coding.state`). Each file is read back into a
network built anew, and its numbers and accuracy are of that.
"""

import argparse
import math
import pkgutil
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from studylib.coding import state
from studylib.data import datasets, scoring, sources
from studylib.disk import files

FORMS = {  # of a file → how weights are in it, and whether they are pruned
    "float32": ("float32", False),
    "int8": ("int8", False),
    "pruned": ("float32", True),
    "pruned-int8": ("int8", True),
}
ENDING = ".slns"
NESTED = "state_dict"  # the key under which trainers keep the weights in a file of more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="module:build, a function without arguments that returns an nn.Module")
    parser.add_argument("--weights", default="", help="a safetensors file, or one of torch.save; default: as built")
    parser.add_argument("--images", default="", help="an .npz of x_train, …, y_test, or the name of a data set")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="default: all")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of weights that pruning makes zero")
    parser.add_argument(
        "--mean", nargs="*", type=float, help="a number a channel, of pixels in 0…1; default: x_train's"
    )
    parser.add_argument("--std", nargs="*", type=float, help="alike")
    parser.add_argument("--out", type=Path, default=Path("runs/compress"), help="folder of the files")
    try:
        run(**vars(parser.parse_args()))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error.filename2 or error.filename}: {error.strerror}")


def run(network: str, weights: str, images: str, forms: list[str], sparsity: float, mean, std, out: Path) -> None:
    """Writes a file of each of ``forms`` and prints what became of the network; ValueError, in words, what is wrong."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"SPARSITY={sparsity!r}: expected a share from 0 to below 1, such as 0.8 for 80 %")
    if (mean or std) and not images:
        raise ValueError(f"MEAN={mean} STD={std}: pixels are normalized by them: expected IMAGES, too")
    model = built(network)
    if not model.state_dict():
        raise ValueError(f"NETWORK={network}: it has no weights and no buffers: expected some to put into a file")
    if weights:
        load(model, weights)
    model.eval()
    test, scale = test_images(images, mean, std) if images else (None, ())
    made = {}
    for form in forms:
        kind, pruned = FORMS[form]
        made[form] = state.compress(model, weights=kind, sparsity=sparsity if pruned else 0)
    scores = {"as it is": accuracy(model, test, *scale, images) if images else None}
    for form, each in made.items():
        path = out / f"{network.replace(':', '.')}.{form}{ENDING}"
        files.write_bytes(path, each.file)
        decoded = state.decode(path.read_bytes(), built(network))
        scores[form] = accuracy(decoded, test, *scale, images) if images else None
        print(f"written: {path}", flush=True)
    _print(made, scores)
    if images:
        mean, std = (", ".join(f"{x:.4g}" for x in numbers) for numbers in scale)
        print(f"accuracy: of the {len(test):,} test images of {images}; pixels / 255, less {mean}, over {std}")
    print("read one by: studylib.coding.decode(Path(…).read_bytes(), build())")


def built(text: str) -> nn.Module:
    """What the function named ``text`` (module:build) returns; ValueError where that is no nn.Module, or it fails."""
    where, colon, name = text.partition(":")
    if not (where and colon and name):
        raise ValueError(f"NETWORK={text}: expected module:build, such as torchvision.models:resnet18")
    try:
        build = pkgutil.resolve_name(text)
    except Exception as error:  # the module is the user's and may raise anything
        expected = f"expected a module that can be imported from {Path.cwd()}, and a name in it"
        raise ValueError(f"NETWORK={text}: {type(error).__name__}: {error}; {expected}") from error
    if not callable(build) or isinstance(build, nn.Module):
        found = f"{name} is {type(build).__name__}"
        raise ValueError(f"NETWORK={text}: {found}: expected a function without arguments that makes the network")
    try:
        model = build()
    except Exception as error:
        raise ValueError(f"NETWORK={text}: {name}() raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"NETWORK={text}: {name}() returned {type(model).__name__}: expected a torch.nn.Module")
    return model


def load(model: nn.Module, path: str) -> None:
    """Puts the weights in the file ``path`` into ``model``; nothing in it is run.

    ValueError: no file of tensors, or others than those of ``model``; the message names them.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        if start[8:] == b"{":
            found = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"WEIGHTS={path}: {error.strerror}") from error
    except Exception as error:  # a damaged file may break either reader
        expected = "expected a safetensors file, or torch.save(module.state_dict(), …)"
        raise ValueError(f"WEIGHTS={path}: not tensors alone ({type(error).__name__}); {expected}") from error
    found = found.get(NESTED, found) if isinstance(found, dict) else found
    tensors = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(each, torch.Tensor) and each.layout == torch.strided for each in tensors):
        raise ValueError(f"WEIGHTS={path}: expected dense tensors by name, or these under the name {NESTED}")
    here = model.state_dict()
    places = {here[name].data_ptr() for name in found if name in here}
    shapes = [{name: str(tuple(t.shape)) for name, t in each.items()} for each in (found, here)]
    for name, tensor in here.items():  # a file may have a tensor that two layers share once
        if name not in found and tensor.data_ptr() in places:
            shapes[1].pop(name)
    if wrong := state.misfit(*shapes, "the file", "the network"):
        raise ValueError(f"WEIGHTS={path}: {wrong}")
    model.load_state_dict(found, strict=False)
    for name, tensor in model.state_dict().items():
        wanted = found[name].to(tensor.dtype) if name in found else tensor
        if not ((tensor == wanted) | (wanted != wanted)).all():
            raise ValueError(f"WEIGHTS={path}: {name} is tied to another tensor: expected equal numbers of the two")


def test_images(name: str, mean=None, std=None) -> tuple[datasets.Split, tuple[torch.Tensor, torch.Tensor]]:
    """The test images of an ``.npz`` or a data set's, and what pixels are normalized by: mean and deviation (c,).

    Both are of pixels in 0…1. Unless given they are a study's, of train + validation: of all training images of an
    ``.npz``. ValueError as those who read them raise it.
    """
    if name in sources.SOURCES:
        data = datasets.load(name)
        test, ours = data.test, (data.mean, data.std)
    else:
        train, test = sources.own_images(Path(name.removeprefix(sources.OWN)).absolute())
        ours = datasets.moments(train.images)
    mean, std = (torch.tensor(each) if each else our for each, our in zip((mean, std), ours, strict=True))
    fit = len(mean) == len(std) == test.images.shape[1]
    if not fit or not ((std > 0) & std.isfinite() & mean.isfinite()).all():
        found, count = f"IMAGES={name}: MEAN={mean.tolist()} STD={std.tolist()}", test.images.shape[1]
        raise ValueError(f"{found}: expected a finite number for each of {count} channels, of STD above 0")
    return test, (mean, std)


@torch.no_grad()
def accuracy(model: nn.Module, test: datasets.Split, mean: torch.Tensor, std: torch.Tensor, name: str) -> float:
    """Share of ``test`` that ``model`` gets right; ValueError: it does not take these images, or gives no logits."""
    shape = " × ".join(map(str, test.images.shape[1:]))
    try:
        parts = [model(datasets.normalized(x, mean, std)) for x in test.images.split(scoring.batch_of(test.images))]
        logits = torch.cat(parts) if isinstance(parts[0], torch.Tensor) else parts[0]
    except Exception as error:  # of a network that is the user's
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"IMAGES={name}: on images of {shape} (channels × h × w) the network raised {said}") from error
    high = int(test.labels.max())
    plain = isinstance(logits, torch.Tensor)
    if plain and not logits.isfinite().all():
        raise ValueError(f"IMAGES={name}: the network gives outputs that are not finite: expected numbers to compare")
    if not plain or logits.dim() != 2 or logits.shape[1] <= high:
        found = f"outputs of shape {tuple(logits.shape)}" if plain else f"outputs of type {type(logits).__name__}"
        raise ValueError(f"IMAGES={name}: {found}: expected n × classes, more than the label {high}")
    return (logits.argmax(1) == test.labels).double().mean().item()


def _print(made: dict[str, state.Compressed], scores: dict) -> None:
    """Three tables: bytes layer by layer, what was left as it is and why, bytes and accuracy of each file."""
    rows = next(iter(made.values())).rows
    layers: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        layers.setdefault(row["name"].rpartition(".")[0] or row["name"], []).append(i)
    table = [["layer", "class", "rounded, pruned", "as before", "before", *made]]
    for layer, held in layers.items():
        fields = [[rows[i]["name"].rpartition(".")[2] for i in held if rows[i]["changed"] == each] for each in (1, 0)]
        counts = [sum(each.rows[i]["bytes"] for i in held) for each in made.values()]
        before = sum(rows[i]["before"] for i in held)
        table.append([layer, rows[held[0]]["layer"], *map(", ".join, fields), before, *counts])
    rest = [len(each.file) - sum(row["bytes"] for row in each.rows) for each in made.values()]
    table.append(["names, shapes", "", "", "", 0, *rest])
    _table(table)
    left = [row for row in rows if row["why"]]
    print("\nnot rounded and not pruned, for want of support: " + ("" if left else "nothing"))
    for row in left:
        print(f"  {row['name']} ({row['before']:,} bytes): {row['why']}")
    for form, each in made.items():
        dead = [row["name"] for row in each.rows if 0 < row["zeros"] == math.prod(row["shape"])]
        if dead:
            print(f"nothing but zeros in {form}: {', '.join(dead)}")
    before = sum(row["before"] for row in rows)
    table = [["", "bytes", "of before", "accuracy", ""]]
    for form, score in scores.items():
        size = len(made[form].file) if form in made else before
        what = [f"{_zeros(made[form].rows):.0%} of what can be pruned is zero"] if form.startswith("pruned") else []
        what += ["weights alone, a scale a row; inputs are float32"] if form.endswith("int8") else []
        table.append([form, size, f"{size / before:.1%}", "" if score is None else f"{score:.2%}", "; ".join(what)])
    print()
    _table(table)


def _zeros(rows: list[dict]) -> float:
    """Share of zeros among the weights that can be pruned; of none, 0."""
    held = [row for row in rows if row["changed"]]
    return sum(row["zeros"] for row in held) / max(1, sum(math.prod(row["shape"]) for row in held))


def _table(rows: list[list]) -> None:
    """Prints ``rows`` in columns, numbers to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    right = [
        all(not isinstance(row[i], str) or row[i][-1:] in ("", "%") for row in rows[1:]) for i in range(len(widths))
    ]
    for row in cells:
        line = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        print("  ".join(line).rstrip())


if __name__ == "__main__":
    main()
