"""The two sides of a federation, what each keeps on disk, and how a round survives a kill. No network is needed here.

Both sides hold the same shared weights. The server sends the difference to them, and both add what is decoded. What one
round leaves out is in the next one's difference. A client that has missed a round gets all the weights.
"""

import contextlib
import re
from pathlib import Path

import torch

from studylib.disk import files
from studylib.federated import messages
from studylib.federated.job import Job, train, with_logits
from studylib.federated.messages import MessageError, State, minus, plus
from studylib.federated.splits import LEAST

WHOLE = -1  # in place of the round that a difference is to: the message has all weights


class Client:
    """A client in a round: it keeps the shared weights of two rounds, and what its messages left out.

    Args:
        home: its folder; what it keeps is written whole, so that a kill loses the round at most.
    """

    def __init__(self, job: Job, number: int, home: Path):
        self.job, self.number, self.home = job, number, home

    def examples(self) -> int:
        """How many images it trains with; 0 of one that has too few."""
        count = len(self.job.parts()[1][self.number])
        return count if count >= LEAST else 0

    def train(self, start: State, round_: int, mu: float = 0.0) -> State:
        """Its weights after a round from ``start`` on."""
        kept = self.home / "logits.safetensors"
        teacher = self.job.taught_by if self.job.federation.teaching else None
        data = with_logits(self.job.of_client(self.number), teacher, kept)
        return train(self.job, data, start, self.job.seed_of(self.number, round_), mu)

    def answer(self, message: bytes, base: int, round_: int, mu: float = 0.0) -> bytes:
        """The coded difference of a round, for a coded ``message``; ``base``: the round that it is to.

        Raises:
            MessageError: "no base": it does not have that round's weights. Or what :func:`messages.decode` raises.
        """
        form, pruned = self.job.federation.form, self.job.federation.pruned
        shared = messages.decode(message, self._start())
        if base != WHOLE:
            shared = plus(self._kept(base)[0], shared)
        left_out = self._left_out(before=round_)
        given = plus(minus(self.train(shared, round_, mu), shared), left_out)
        messages.check(given, shared)
        sent = messages.encode(given, form, pruned)
        rest = minus(given, messages.decode(sent, given))
        self._keep(round_, shared, rest)
        return sent

    def _start(self) -> State:
        return messages.floats(self.job.model().state_dict())

    def _kept(self, round_: int) -> tuple[State, State]:
        """Shared weights of a round, and what its message left out."""
        start = self._start()
        if round_ == 0:
            return start, {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        try:
            tensors, _ = files.read_tensors(self._file(round_))
        except files.CheckpointError as error:
            raise MessageError("no base", f"client {self.number}: {error}") from error
        halves = [{n.removeprefix(p): t for n, t in tensors.items() if n.startswith(p)} for p in ("shared ", "rest ")]
        for half in halves:
            messages.check(half, start)
        return halves[0], halves[1]

    def _left_out(self, before: int) -> State:
        earlier = [number for number in self._rounds() if number < before]
        return self._kept(max(earlier, default=0))[1]

    def _keep(self, round_: int, shared: State, rest: State) -> None:
        named = {f"shared {n}": t for n, t in shared.items()} | {f"rest {n}": t for n, t in rest.items()}
        files.write_tensors(self._file(round_), named)
        for old in sorted(self._rounds())[:-2]:
            self._file(old).unlink()

    def _rounds(self) -> list[int]:
        found = (re.fullmatch(r"round-(\d+)\.safetensors", path.name) for path in self.home.glob("round-*"))
        return [int(match[1]) for match in found if match]

    def _file(self, round_: int) -> Path:
        return self.home / f"round-{round_}.safetensors"


class Server:
    """The server between rounds: weights, what clients have, a row for each round. Goes on where a killed one was.

    Attributes:
        weights: the mean of the clients' (Flower's strategy makes it).
        rows: of each round its number, "asked", "used", bytes "down" and "up"; of clients left out how many by kind.
    """

    def __init__(self, job: Job):
        self.job, self.file = job, job.folder / "server.safetensors"
        start = messages.floats(job.model().state_dict())
        self.weights, self.shared, self.has, self.rows = start, start, {}, []
        if self.file.exists():
            tensors, about = files.read_tensors(self.file)
            if about.get("of") != job.about():
                raise files.CheckpointError(f"{self.file}: of other settings; delete the folder to start anew")
            for prefix in ("weights", "shared"):
                found = {n.removeprefix(f"{prefix} "): t for n, t in tensors.items() if n.startswith(f"{prefix} ")}
                messages.check(found, start)
                setattr(self, prefix, found)
            self.has = {int(client): number for client, number in about["has"].items()}
            self.rows = about["rows"]

    @property
    def round(self) -> int:
        """The last round that is done."""
        return len(self.rows)

    def chosen(self, examples: dict[int, int]) -> list[int]:
        """The clients of the next round, drawn by seed and round among those that have images."""
        able = sorted(client for client, count in examples.items() if count)
        draw = torch.Generator().manual_seed(self.job.seed_of(-1, self.round + 1))
        count = max(1, round(self.job.federation.share * len(able)))
        return sorted(able[i] for i in torch.randperm(len(able), generator=draw)[:count].tolist())

    def offer(self, clients: list[int]) -> dict[int, tuple[bytes, int]]:
        """Client → the message of the next round and the round that it is a difference to, or :data:`WHOLE`.

        From then on :attr:`shared` is what they have decoded.
        """
        form, pruned = self.job.federation.form, self.job.federation.pruned
        difference = messages.encode(minus(self.weights, self.shared), form, pruned)
        self.shared = plus(self.shared, messages.decode(difference, self.shared))
        knows = [client for client in clients if self.has.get(client, 0) == self.round]
        whole = messages.encode(self.shared) if set(clients) - set(knows) else b""
        return {c: (difference, self.round) if c in knows else (whole, WHOLE) for c in clients}

    def take(self, message: bytes) -> State:
        """The weights of the client that sent ``message``; MessageError where it cannot be used."""
        difference = messages.decode(message, self.shared)
        messages.check(difference, self.shared)
        return plus(self.shared, difference)

    def finish(self, weights: State | None, row: dict, used: list[int], asked: list[int]) -> None:
        """Ends a round with the mean ``weights``, None if no client's could be used, and writes it all down."""
        self.weights = self.weights if weights is None else weights
        self.rows.append({"round": self.round + 1, "asked": len(asked), "used": len(used), **row})
        for client in asked:
            self.has.pop(client, None)
        self.has |= dict.fromkeys(used, self.round)
        named = {f"weights {n}": t for n, t in self.weights.items()}
        named |= {f"shared {n}": t for n, t in self.shared.items()}
        about = {"of": self.job.about(), "has": self.has, "rows": self.rows}
        files.write_tensors(self.file, named, about)


def forget(folder: Path) -> None:
    """Removes what the sides keep of a federation that is done; rows and settings stay."""
    for path in [folder / "server.safetensors", *folder.glob("clients/*/*.safetensors")]:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
