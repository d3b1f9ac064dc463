"""How workers add their numbers: one alone, processes by torch.distributed, threads by shared memory.

Each has ``rank``, ``size``, ``sent`` (bytes that it handed to ``calls`` all-reduces), ``sum``, ``gather``, ``share``.
"""

import os
import threading
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

GRACE = 4.0  # seconds in which the living say so after one has died
SILENT = "rank {} died or was stopped: the others end too; start again to go on from the last λ that was finished"


BACKENDS = ("gloo", "nccl")


def _device(backend: str) -> torch.device:
    """Where all-reduces of the ``backend`` take place; nccl's own GPU is made the current one."""
    if backend != "nccl":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


class WorkerDied(RuntimeError):
    """A worker ended before the others; the message names its rank."""


class Alone:
    """One worker."""

    rank, size, sent, calls = 0, 1, 0, 0

    def sum(self, *arrays):
        """The sums over the workers of ``arrays`` (float64), as one all-reduce; the same bits on each rank."""
        return [np.asarray(array, dtype=float) for array in arrays]

    def gather(self, value) -> list:
        """The ``value`` of each worker, by rank."""
        return [value]

    def share(self, array):
        """Rank 0's ``array``, which all threads may write; only threads have one."""
        return array


class Processes(Alone):
    """Workers that are processes, on one machine or many, of torch.distributed's default group.

    Its backend is gloo or nccl. Numbers are in main memory; nccl's sums go through each process's GPU, the one of its
    LOCAL_RANK.

    Raises:
        ValueError: the group is not there, or its backend is another one.
    """

    def __init__(self):
        if not dist.is_initialized():
            raise ValueError("torch.distributed has no group: expected a start by torchrun and init_process_group")
        if dist.get_backend() not in BACKENDS:
            raise ValueError(f"backend {dist.get_backend()!r}: expected one of {', '.join(BACKENDS)}")
        self._device = _device(dist.get_backend())
        self.rank, self.size, self.sent = dist.get_rank(), dist.get_world_size(), 0
        self._store = dist.distributed_c10d._get_default_store()

    def sum(self, *arrays):
        arrays = [np.asarray(array, dtype=float) for array in arrays]
        flat = np.concatenate([array.ravel() for array in arrays])
        self.sent, self.calls = self.sent + flat.nbytes, self.calls + 1
        there = torch.from_numpy(flat).to(self._device)  # itself where it is in main memory
        self._try(lambda: dist.all_reduce(there))
        flat = there.cpu().numpy()
        parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
        return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]

    def gather(self, value) -> list:
        found = [None] * self.size
        self._try(lambda: dist.all_gather_object(found, value))
        return found

    def _try(self, action) -> None:
        try:
            action()
        except RuntimeError as error:
            raise WorkerDied(SILENT.format(self._missing())) from error

    def _missing(self) -> str:
        """The ranks that do not say within seconds: I live. Closing our ends wakes those who wait for us."""
        try:
            self._store.set(f"lives/{self.rank}", "1")
            threading.Thread(target=dist.destroy_process_group, daemon=True).start()
            end, missing = time.monotonic() + GRACE, list(range(self.size))
            while missing and time.monotonic() < end:
                missing = [rank for rank in missing if not self._store.check([f"lives/{rank}"])]
                time.sleep(0.05)
            return ", ".join(map(str, missing)) or "unknown (its connection broke)"
        except RuntimeError:  # the store lives in rank 0, unless torchrun holds it
            return "0"


class Threads(Alone):
    """Workers that are threads of one process; :func:`in_threads` makes them. They send nothing."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, slots: list):
        self.rank, self.size, self.sent = rank, size, 0
        self._barrier, self._slots = barrier, slots

    def sum(self, *arrays):
        found = self.gather([np.asarray(array, dtype=float) for array in arrays])
        return [np.sum(parts, axis=0) for parts in zip(*found, strict=True)]

    def gather(self, value) -> list:
        self._slots[self.rank] = value
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found

    def share(self, array):
        return self.gather(array)[0]


def in_threads(size: int, work: Callable) -> list:
    """``work(worker)`` in ``size`` threads, each with its own :class:`Threads`: their results by rank.

    Raises:
        WorkerDied: a thread raised an error, which is the cause; the others are ended.
    """
    barrier, slots = threading.Barrier(size), [None] * size
    results, errors = [None] * size, {}

    def run(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, size, barrier, slots))
        except threading.BrokenBarrierError:
            pass
        except Exception as error:
            errors[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        rank, error = next(iter(errors.items()))
        if isinstance(error, ValueError | TypeError):
            raise error
        raise WorkerDied(f"rank {rank} ended with {type(error).__name__}: {error}") from error
    return results


def current() -> Alone:
    """The workers that there are: processes where torch.distributed has a group, else one alone."""
    return Processes() if dist.is_available() and dist.is_initialized() else Alone()
