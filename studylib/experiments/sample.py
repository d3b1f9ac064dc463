"""What a generative network in a coded file draws: a picture of new images, or whatever its kind writes.

``python -m studylib.experiments.sample figures/models/….slnc --seed 0``. Of a new kind of network,
:data:`SAMPLERS` gets a line.
"""

import argparse
import dataclasses
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from studylib.coding import codec
from studylib.data import text
from studylib.disk import files
from studylib.experiments import vae
from studylib.settings import MOST_SEED
from studylib.training import loop

SIDE = 8  # images in a row of a picture, and rows
FRAME, GREY = 1, 128  # around each image: pixels and their level
LEAST = 400  # pixels that a picture is wide, at least; an image's pixel is a square of them
PROMPT, COUNT = "The ", 400  # what a text goes on from unless asked, and how many characters follow


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How a kind of network is asked for something new.

    Args:
        what: it draws, in a word.
        ending: of the file that is written, with its dot.
        draw: (model, seed) → the file's content, the same for the same two; of a text also the prompt.
        printed: whether the content is a text, which goes on from a prompt and is also printed.
    """

    what: str
    ending: str
    draw: Callable[..., bytes]
    printed: bool = False


def picture(model: nn.Module, seed: int) -> bytes:
    """A PNG of :data:`SIDE` × :data:`SIDE` images that an autoencoder decodes from latent numbers drawn by ``seed``."""
    return png(vae.sampled(model, SIDE * SIDE, seed))


def png(images: torch.Tensor) -> bytes:
    """``images``, uint8 (n², 1 or 3, h, w), as a PNG of n rows, framed. Pixels repeat until it is large enough."""
    from matplotlib.image import imsave

    side = round(len(images) ** 0.5)
    framed = F.pad(images, (FRAME,) * 4, value=GREY)
    grid = framed.unflatten(0, (side, side)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).numpy()
    scale = -(-LEAST // grid.shape[1])
    whole = np.repeat(np.repeat(grid, scale, axis=0), scale, axis=1)
    content = io.BytesIO()
    imsave(content, np.broadcast_to(whole, (*whole.shape[:2], 3)), format="png")
    return content.getvalue()


def written(model: nn.Module, seed: int, prompt: str = PROMPT) -> bytes:
    """``prompt`` and the :data:`COUNT` characters that a transformer writes after it, drawn by ``seed``.

    ValueError where the file has no alphabet of its text, or the prompt a character that is not in it.
    """
    scaling = model.spec.get("input")
    alphabet = scaling.get("alphabet") if isinstance(scaling, dict) else None
    if not isinstance(alphabet, str) or len(alphabet) != model.characters:
        raise ValueError(f"alphabet {str(alphabet)[:40]!r}: expected the {model.characters} characters that it learnt")
    return (prompt + text.sampled(model, prompt, COUNT, seed)).encode()


SAMPLERS: dict[str, Sampler] = {  # name in the spec → how it is asked
    "gpt": Sampler("a text", ".txt", written, printed=True),
    "vae": Sampler("a picture", ".png", picture),
}


def sampler_of(model: nn.Module) -> Sampler:
    """How the kind of ``model`` is asked; ValueError where it draws nothing, as a classifier."""
    name = model.spec["name"]
    if name not in SAMPLERS:
        raise ValueError(f"a {name} draws nothing new: expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def seed_of(given: str) -> int:
    """A seed as it is typed; ValueError where it is none."""
    if not given.isdecimal() or int(given) > MOST_SEED:
        raise ValueError(f"SEED={given}: expected a whole number of 0 to {MOST_SEED}")
    return int(given)


def written_to(out: str, model: Path, seed: int, sampler: Sampler) -> Path:
    """The file to write: ``out``, or one below runs/sample named for model and seed.

    Raises:
        ValueError: it has another ending.
        OSError: there can be no such file.
    """
    path = files.resolve(out or f"runs/sample/{model.stem}-seed{seed}{sampler.ending}")
    if path.suffix != sampler.ending or path.is_dir():
        raise ValueError(f"expected a file whose name ends in {sampler.ending}, as it holds {sampler.what}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a coded file of a generative network")
    parser.add_argument("--seed", default="0", help="of what is drawn")
    parser.add_argument("--prompt", default="", help=f"what a text goes on from; default: {PROMPT!r}")
    parser.add_argument("--out", default="", help="file to write; default: one below runs/sample/")
    args = parser.parse_args()
    loop.set_up(device="cpu")
    path, where = Path(args.model).expanduser(), ""
    try:
        seed = seed_of(args.seed)
        where = f"MODEL={args.model}: "
        if not path.is_file():
            raise ValueError("expected a coded file, such as those in figures/models/")
        model = codec.decode(path.read_bytes())
        sampler = sampler_of(model)
        where = f"OUT={args.out}: "
        out = written_to(args.out, path, seed, sampler)
        where = f"PROMPT={args.prompt}: " if args.prompt else ""
        if args.prompt and not sampler.printed:
            raise ValueError(f"expected none, as {path.name} draws {sampler.what}")
        content = sampler.draw(model, seed, *([args.prompt] if args.prompt else []))
        where = f"OUT={args.out or out}: "
        files.write_bytes(out, content)
    except OSError as error:
        expected = "a file that can be written" if where.startswith("OUT") else "a coded file that can be read"
        sys.exit(f"{where}{error.strerror or error}: expected {expected}")
    except (ValueError, RuntimeError) as error:  # of layers that do not fit each other, too
        sys.exit(f"{where}{str(error)[:300]}")
    if sampler.printed:
        print(content.decode())
    print(f"{out}: {sampler.what} by {path.name}, seed {seed}")


if __name__ == "__main__":
    main()
