"""TorchJD's aggregators by name, and one of them at work: seeded, guarded, its state stored and taken up."""

import contextlib
import copy
import inspect
import logging
import re
import warnings
from collections.abc import Iterator

import numpy as np
import torch
import torchjd.aggregation
from torch import nn
from torchjd.aggregation import PCD, Aggregator

log = logging.getLogger(__name__)
ROUNDING = 1e-6  # cosine; scalar products of float32 vectors that are closer to zero count as zero


def available() -> dict[str, type[Aggregator]]:
    """Name → class of every aggregator that TorchJD has."""
    concrete = [name for name in torchjd.aggregation.__all__ if not name.endswith("Aggregator")]
    found = {name: getattr(torchjd.aggregation, name) for name in concrete}
    return {name: cls for name, cls in found.items() if issubclass(cls, Aggregator)}


def make(name: str, count: int, **options) -> Aggregator:
    """TorchJD's aggregator ``name`` for ``count`` objectives.

    ``options`` are the class's own. Demanded ones have defaults: c = 0.5 (CAGrad), α = 1 (FairGrad), weights of 1
    (Constant), as many tasks as objectives (NashMTL). Krum takes none as byzantine. TrimmedMean trims one at each end
    where that leaves any.

    Raises:
        ValueError: an unknown name, or options that do not fit.
        ImportError: a package that it needs is missing; the message names it.
    """
    known = available()
    if name not in known:
        raise ValueError(f"aggregator {name!r}: expected one of {', '.join(sorted(known))}")
    demanded = {"n_tasks": count, "c": 0.5, "alpha": 1.0, "n_byzantine": 0, "trim_number": int(count > 2)}
    demanded["weights"] = torch.ones(count)
    parameters = inspect.signature(known[name]).parameters.values()
    given = {p.name: demanded[p.name] for p in parameters if p.default is p.empty and p.name in demanded}
    if "weights" in options:
        options["weights"] = torch.as_tensor(options["weights"], dtype=torch.float32)
        if not options["weights"].isfinite().all():
            raise ValueError(f"aggregator {name!r} with weights {options['weights'].tolist()}: expected finite numbers")
    try:
        return known[name](**given | options)
    except ImportError as error:
        raise ImportError(f"aggregator {name!r}: {error}") from error
    except TypeError as error:
        raise ValueError(f"aggregator {name!r} with options {options}: {error}") from error


def describe(aggregator: Aggregator) -> str:
    """Its class and options, the same in every process; tensors among them in all their digits."""
    values = [value for module in aggregator.modules() for value in [*vars(module).values(), *module.buffers(False)]]
    exact = [value.tolist() for value in values if isinstance(value, torch.Tensor)]
    return re.sub(r" at 0x[0-9a-f]+", "", repr(aggregator)) + (f" {exact}" if exact else "")


class Runner:
    """An aggregator that always answers the same: a direction (n,) or None for the rows of J (m, n).

    None says to follow the primary's gradient (the first row). Then the aggregator raised, or its numbers are not
    finite. PCD also gives None where its constraints contradict each other or its primary row is zero.

    Args:
        aggregator: copied at each :meth:`start`, so that each training begins with it as it is given.
        count: m.
        seed: the k-th call draws from ``seed`` + k; the global generator is left as it was.

    Raises:
        ValueError: it raises for m rows, orthogonal and of length 1.
    """

    def __init__(self, aggregator: Aggregator, count: int, seed: int = 0):
        self._fresh, self.seed = aggregator, seed
        self.start()
        try:
            self._aggregate(torch.eye(count, count + 1))
        except Exception as error:
            raise ValueError(f"{aggregator!r} does not aggregate {count} objectives: {error}") from error
        self.start()

    def start(self) -> None:
        """Forgets every call."""
        self.aggregator, self.calls = copy.deepcopy(self._fresh), 0
        self._stored, self._warned = None, False

    def __call__(self, rows: torch.Tensor) -> torch.Tensor | None:
        if self._stored is not None:
            self._restore(rows)
        try:
            direction, weights = self._aggregate(rows)
        except Exception as error:  # solvers raise what they like, and a step without them is better than none
            if not self._warned:
                log.warning("%r raised %s: %s; the primary objective is followed", self._fresh, type(error), error)
                self._warned = True
            return None
        finally:
            self.calls += 1
        if not direction.isfinite().all() or (weights is not None and _dropped(rows, weights)):
            return None
        return direction

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The number of calls, and every buffer, number and array of the aggregator and its parts."""
        state = {"calls": torch.tensor(self.calls)}
        values = {key: getattr(module, name) for key, module, name in _slots(self.aggregator)}
        return state | {key: _tensor(value) for key, value in values.items() if value is not None}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up what :meth:`state_dict` gave, at the next call."""
        self.calls = int(state["calls"])
        self._stored = {key: value.clone() for key, value in state.items()} if self.calls else None

    def _aggregate(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The direction, and the weights of the rows if the aggregator is PCD."""
        found, hook = [], contextlib.nullcontext()
        if isinstance(self.aggregator, PCD):
            hook = self.aggregator.weighting.register_forward_hook(lambda _m, _i, output: found.append(output))
        devices = [rows.device] if rows.is_cuda else []
        with torch.random.fork_rng(devices), warnings.catch_warnings(), torch.no_grad(), hook:
            warnings.simplefilter("ignore")  # solvers warn of inaccurate solutions, at every step
            torch.default_generator.manual_seed(self.seed + self.calls)
            if devices:
                torch.cuda.manual_seed(self.seed + self.calls)
            return self.aggregator(rows), found[0] if found else None

    def _restore(self, rows: torch.Tensor) -> None:
        """Sets the aggregator to what was stored, after rows that make what is not: shapes, a solver's problem."""
        with contextlib.suppress(Exception):
            self._aggregate(rows)
        for key, module, name in _slots(self.aggregator):
            old, new = getattr(module, name), self._stored.get(key)
            if isinstance(old, np.ndarray):
                new = new.numpy()
            elif isinstance(old, (int, float)):
                new = type(old)(new.item())
            elif new is not None and old is not None:
                new = new.to(old.device)
            setattr(module, name, new)
        self._stored = None


def _slots(aggregator: Aggregator) -> Iterator[tuple[str, nn.Module, str]]:
    """Key, module and attribute name of everything in ``aggregator`` that may change from call to call."""
    ordinary = vars(nn.Module()).keys()
    for path, module in aggregator.named_modules():
        own = [k for k, v in vars(module).items() if isinstance(v, (int, float, np.ndarray)) and k not in ordinary]
        yield from ((f"{path}/{name}", module, name) for name in [*module._buffers, *own])


def _tensor(value: torch.Tensor | np.ndarray | float) -> torch.Tensor:
    """A copy; a Python number keeps its 64 bits."""
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else torch.as_tensor(value).clone()


def _dropped(rows: torch.Tensor, weights: torch.Tensor) -> bool:
    """Whether PCD's ``weights`` answer none of its constraints: the primary row is zero, or followed alone.

    Alone though it ascends another objective: a direction that meets the constraints has a weight for that one's row.
    """
    if not weights[0]:
        return not rows[0].any()
    products, lengths = rows[1:] @ rows[0], rows[0].norm() * rows[1:].norm(dim=1)
    return not weights[1:].any() and bool((products < -ROUNDING * lengths).any())
