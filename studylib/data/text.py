"""Text as blocks of characters, what is learnt of it, and text that a model writes.

- pydoc: the help pages that come with Python, 465,048 characters in Python 3.11; another Python has another text.
- tinyshakespeare: 1,115,394 characters of Shakespeare's plays (Karpathy 2015).

The first 90 % train, 5 % validate and the last 5 % are the test set, whatever the seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from studylib.data import sources
from studylib.data.augmentation import Augmentation
from studylib.data.datasets import Data
from studylib.data.scoring import batch_of
from studylib.data.sources import Split
from studylib.data.tasks import Task, cross_entropy
from studylib.settings import nearest, record

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
BITS = "bits per character"
LEAST = 3  # blocks of each part, for an interval


def _pydoc() -> str:
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs))  # pages share many: a test of what was learnt by heart is none


def _tinyshakespeare() -> str:
    folder = sources.data_folder()
    file = folder / "tinyshakespeare.txt"
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(SHAKESPEARE, str(file), hash_prefix=SHA256, progress=False)
        except Exception as error:
            raise FileNotFoundError(
                f"tinyshakespeare is not on this machine. Either set STUDY_DATA to a folder with {file.name}, or let "
                f"it be downloaded from {SHAKESPEARE} to {folder}, which just failed: {type(error).__name__}: {error}"
            ) from error
    content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(f"{file}: SHA-256 {found}: expected {SHA256}; delete the file and have it downloaded again")
    return content.decode()


SOURCES: dict[str, Callable[[], str]] = {"pydoc": _pydoc, "tinyshakespeare": _tinyshakespeare}


@record
class Corpus:
    """Which text, and how it is cut."""

    name: Annotated[str, Field(description="of a text: pydoc, tinyshakespeare")] = "pydoc"
    context: Annotated[int, Field(ge=2, le=1024, description="characters of a block, the most that a model sees")] = 64
    characters: Annotated[
        int, Field(ge=0, le=100_000_000, description="only so many from the start of the text; 0: all of it")
    ] = 0

    def check(self) -> None:
        if self.name not in SOURCES:
            raise ValueError(f"name={self.name!r}{nearest(self.name, list(SOURCES))}")
        if 0 < self.characters < (least := 20 * LEAST * (self.context + 1)):
            raise ValueError(f"characters={self.characters!r}: expected 0 or at least {least}, for {LEAST} test blocks")


class Text(Data):
    """Blocks of text in memory: ``images`` uint8 (n, context), numbers of characters; ``labels`` those that follow.

    ``classes`` are the characters in their order. Nothing is normalized or augmented. The seed changes nothing.
    """

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """``images`` as they are."""
        return images

    @property
    def scaling(self) -> dict[str, str]:
        """What a reader of a file needs: the characters, each at its number."""
        return {"alphabet": "".join(self.classes)}

    @property
    def model_args(self) -> dict:
        return {"characters": len(self.classes), "context": self.train.images.shape[1]}


def load(corpus: Corpus, seed: int = 0) -> Text:
    """The text of ``corpus`` in blocks without overlap; a last one is left out unless it is full.

    Raises:
        ValueError: the text has more than 256 different characters. The file is another one than expected.
        FileNotFoundError: it is neither in ``STUDY_DATA`` nor downloadable (names both ways).
    """
    text = SOURCES[corpus.name]()
    text = text[: corpus.characters] if corpus.characters else text
    alphabet = sorted(set(text))
    if len(alphabet) > 256:
        raise ValueError(f"{corpus.name}: {len(alphabet)} different characters: expected at most 256")
    number = {letter: i for i, letter in enumerate(alphabet)}
    numbers = torch.tensor([number[letter] for letter in text], dtype=torch.uint8)
    first, second = 9 * len(numbers) // 10, 19 * len(numbers) // 20
    parts = numbers[:first], numbers[first:second], numbers[second:]
    splits = [_blocks(part, corpus.context) for part in parts]
    none = torch.zeros(1), torch.ones(1)
    return Text(corpus.name, seed, tuple(alphabet), *splits, *none, Augmentation(), TASK)


def _blocks(numbers: torch.Tensor, context: int) -> Split:
    count = (len(numbers) - 1) // context
    inputs, targets = (numbers[i : i + count * context].view(count, context) for i in (0, 1))
    return Split(inputs.contiguous(), targets.long())


@torch.no_grad()
def bits(model: nn.Module, split: Split, data: Data) -> torch.Tensor:
    """−log₂ of the probability that ``model`` gives each character of ``split``: float32 (n, context)."""
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    split, found = split.to(device), []
    model.eval()
    size = max(1, batch_of(split.images) // 8)
    for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
        logits = model(data.normalize(images)).float()
        found.append(F.cross_entropy(logits.transpose(1, 2), labels, reduction="none") / math.log(2))
    return torch.cat(found)


def _batch_score(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    each = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
    return each / (labels.shape[1] * math.log(2))


TASK = Task(
    name="characters",
    numbers=("bits_per_char",),
    val_loss="bits_per_char",
    loss=cross_entropy,
    scores=lambda outputs, labels: {"bits_per_char": outputs.double().mean().item()},
    batch_score=_batch_score,
    lower_is_better=True,
    predict=bits,
)


@torch.no_grad()
def sampled(model: nn.Module, prompt: str, count: int, seed: int, temperature: float = 1.0) -> str:
    """``count`` characters that ``model`` writes after ``prompt``, drawn by ``seed``.

    Two models get the same uniform numbers, one a character. Where they agree, so they write the same. The model sees
    the last characters alone, as many as its context has.

    Args:
        temperature: logits are divided by it; 0: always the likeliest character.

    Raises:
        ValueError: an empty prompt, a character that is not in the text it learnt, or a temperature below 0.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature!r}: expected at least 0")
    alphabet, context = model.spec["input"]["alphabet"], model.context
    if wrong := [letter for letter in prompt if letter not in alphabet] or ([] if prompt else [""]):
        raise ValueError(f"prompt={prompt!r}: {wrong[0]!r}: expected characters of {alphabet!r}")
    device = next(t.device for t in model.state_dict().values())
    numbers, model = [alphabet.index(letter) for letter in prompt], model.eval()
    draws = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()
    for draw in draws:
        logits = model(torch.tensor([numbers[-context:]], device=device))[0, -1].double().cpu()
        if temperature:
            below = (logits / temperature).softmax(0).cumsum(0)
            number = int((below < draw * below[-1]).sum())
        else:
            number = int(logits.argmax())
        numbers.append(number)
    return "".join(alphabet[number] for number in numbers[len(prompt) :])
