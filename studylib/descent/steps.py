"""Descending several objectives at once: TorchJD's aggregators turn their gradients into one direction.

Each objective of a network's outputs takes a backward pass; gradients of the weights alone are taken directly. They are
the rows of a matrix J (objectives × weights) that an aggregator (Quinton and Rey 2024) reads.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torchjd.aggregation import Aggregator

from studylib.descent import aggregators
from studylib.descent.objectives import Objective
from studylib.training.checkpoint import function_digest
from studylib.training.step import Step

STATIONARY = 1e-5  # a direction shorter than this, of rows of norm 1, is zero up to rounding


class Descent(Step):
    """A step of :func:`studylib.training.loop.fit` that follows the aggregate of several objectives' gradients.

    ``objectives[0]`` is the primary, the task. A step is skipped where a value or gradient is not finite. Weights,
    optimizer and buffers (running statistics) stay as before the batch. A step is a fallback, and follows the primary's
    gradient, where the aggregator gives no direction (:class:`studylib.descent.aggregators.Runner`). So it is with
    ``normalize`` where the primary's gradient is zero. Of other zero or opposed gradients the aggregator makes a step.

    An epoch's row counts ``skipped`` and ``fallbacks``. For every objective o it has ``value_o``, the mean. With
    gradient g, ``ascends_o`` is the share of steps d with ⟨d, g⟩ < 0 beyond rounding. They raise o to first order. All
    but the primary have ``cosine_o``, the mean cosine of g and the primary's gradient, 0 where one is zero.

    Args:
        objectives: one or more, of different names.
        aggregator: a name of :func:`studylib.descent.aggregators.available`, or an instance, copied for each training.
        normalize: divides rows by their norms; zero rows stay. The direction gets the norm of the primary's gradient,
            so that a learning rate means the same.
        seed: of aggregators that draw: the k-th step draws from ``seed`` + k, apart from all other draws.
        options: of the aggregator, by name.

    Raises:
        TypeError: something that is no objective, such as a plain function.
        ValueError: no objectives, two of one name, or an aggregator that cannot be made or not for so many.
        ImportError: a package that the aggregator needs is missing.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        aggregator: str | Aggregator,
        *,
        normalize: bool = False,
        seed: int = 0,
        **options,
    ):
        if wrong := [o for o in objectives if not isinstance(o, Objective)]:
            raise TypeError(f"{wrong[0]!r}: expected an objective, made by the decorator objectives.objective")
        names = [o.name for o in objectives]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"objectives {names}: expected one or more, of different names")
        if isinstance(aggregator, str):
            aggregator = aggregators.make(aggregator, len(names), **options)
        elif options:
            raise ValueError(f"options {options}: expected none beside an aggregator that is made already")
        self.objectives, self.normalize = list(objectives), normalize
        self._aggregator, self._model = aggregators.Runner(aggregator, len(names), seed), None
        known = [[o.name, o.identity, function_digest(o.function)] for o in objectives]
        self.identity = ["descent", known, aggregators.describe(aggregator), normalize, seed]
        self.label = f"{', '.join(names)} by {type(aggregator).__name__}"

    def start(self, model: nn.Module, masks: dict[str, torch.Tensor] | None = None) -> None:
        """Forgets everything; the rows of J are zero where ``masks`` are False."""
        named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._model, self._weights = model, list(named.values())
        self._sizes = [weight.numel() for weight in self._weights]
        self._matrix = self._weights[0].new_zeros(len(self.objectives), sum(self._sizes))
        self._dead = None
        if masks:
            dead = [~masks[name] if name in masks else torch.zeros_like(w, dtype=bool) for name, w in named.items()]
            self._dead = torch.cat([mask.flatten() for mask in dead])
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._aggregator.start()
        self._clear()
        if sum(not o.weights_only for o in self.objectives) > 1:
            torch._functorch.config.donated_buffer = False  # a compiled graph must outlive its first backward pass

    def gradients(self, model: nn.Module, value: torch.Tensor, logits: torch.Tensor, batch: tuple) -> bool:
        if self._model is not model:
            self.start(model)
        values = self._fill(model, batch, logits.float())
        matrix, norms = self._matrix, self._matrix.norm(dim=1)
        if not torch.cat([values, norms, value.detach().reshape(1).to(values)]).isfinite().all():
            for buffer, kept in self._buffers:
                buffer.copy_(kept)
            self._counts["skipped"] += 1
            return False
        direction = self._direction(matrix, norms)
        for weight, part in zip(self._weights, direction.split(self._sizes), strict=True):
            weight.grad = part.reshape(weight.shape)
        products = torch.stack([matrix @ matrix[0] / norms[0].clamp_min(1e-30), matrix @ direction])
        products /= norms.clamp_min(1e-30)
        ascends = products[1] < -aggregators.ROUNDING * direction.norm()
        self._totals += torch.stack([values, products[0], ascends])
        self._counts["steps"] += 1
        return True

    def after(self, model: nn.Module, lr: float) -> None:
        for buffer, kept in self._buffers:
            kept.copy_(buffer)

    def row(self) -> dict:
        steps = self._counts["steps"]
        means = (self._totals / max(steps, 1)).tolist()
        row = {}
        for i, o in enumerate(self.objectives):
            row |= {f"value_{o.name}": means[0][i], f"ascends_{o.name}": means[2][i]}
            row |= {f"cosine_{o.name}": means[1][i]} if i else {}
        row |= {name: self._counts[name] for name in ("skipped", "fallbacks")}
        self._clear()
        return row

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The aggregator's state, and the sums and counts of the epoch's row."""
        state = {f"aggregator/{key}": value for key, value in self._aggregator.state_dict().items()}
        return state | {"totals": self._totals.clone(), "counts": torch.tensor(list(self._counts.values()))}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.after(self._model, 0.0)  # the buffers are those of the weights that have been taken up
        self._totals.copy_(state["totals"])
        self._counts = dict(zip(self._counts, state["counts"].tolist(), strict=True))
        parts = {key.partition("/")[2]: value for key, value in state.items() if key.startswith("aggregator/")}
        self._aggregator.load_state_dict(parts)

    def _clear(self) -> None:
        self._totals = torch.zeros(3, len(self.objectives), dtype=torch.float64, device=self._matrix.device)
        self._counts = {"steps": 0, "skipped": 0, "fallbacks": 0}

    def _fill(self, model, batch, outputs) -> torch.Tensor:
        """Writes J; returns the objectives' values (m,)."""
        values, left = [], sum(not o.weights_only for o in self.objectives)
        for o, row in zip(self.objectives, self._matrix, strict=True):
            if o.direct:
                value, slopes = o.closed_form(model)
                slopes = [slopes.get(weight) for weight in self._weights]
            else:
                value = o(model, None, None) if o.weights_only else o(model, batch, outputs)
                if not isinstance(value, torch.Tensor) or value.numel() != 1:
                    raise ValueError(f"objective {o.name!r}: expected a scalar tensor, got {value!r}")
                left -= not o.weights_only
                slopes = [None] * len(self._weights)
                if value.requires_grad:
                    keep = left > 0 and not o.weights_only
                    slopes = torch.autograd.grad(value, self._weights, retain_graph=keep, allow_unused=True)
            parts = [w.new_zeros(w.numel()) if s is None else s.flatten() for w, s in zip(self._weights, slopes)]  # noqa: B905
            torch.cat(parts, out=row)
            values.append(value.detach().reshape(()).to(self._matrix))
        if self._dead is not None:
            self._matrix.masked_fill_(self._dead, 0)
        return torch.stack(values)

    def _direction(self, matrix: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """(n,): the aggregate of the rows, or the first row."""
        rows = matrix / torch.where(norms > 0, norms, 1)[:, None] if self.normalize else matrix
        direction = self._aggregator(rows)
        if direction is None or (self.normalize and norms[0] == 0):
            self._counts["fallbacks"] += 1
            return matrix[0].clone()
        if self.normalize:
            length = direction.norm()
            return direction * torch.where(length > STATIONARY, norms[0] / length.clamp_min(STATIONARY), 0)
        return direction
