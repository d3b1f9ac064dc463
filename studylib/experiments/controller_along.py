"""Along a training that a controller guides: the objective, its envelope, the projected gradient, and the gates.

While choice and λ stay, the weights descend f(w) + h(w). Here f is the loss of training images, and h(w) is Σ λκ‖w_g‖
over closed groups. A step of size γ goes from w to v = prox(w − γ∇f(w)). The norm of (w − v) / γ is 0 where no step
leads further. The envelope is f(w) − γ/2 ‖∇f(w)‖² + h(v) + ‖v − w + γ∇f(w)‖² / 2γ (Stella et al. 2017).
"""

import dataclasses
import functools
import time

import torch
from torch import nn
from torch.func import functional_call

from studylib.data.datasets import Data
from studylib.techniques.controller import Guided

IMAGES = 1024  # training images, not augmented, of which f is the mean loss
COLUMNS = [
    *("epoch", "share", "closed", "turned", "moved", "zero", "controller_loss"),
    *("loss", "objective", "envelope", "projected", "open"),
]  # that are kept of an epoch's row


@dataclasses.dataclass
class Watch:
    """What an epoch's row gets: loss, objective, envelope, projected (a norm), open (gates of each family).

    Args:
        shown: its training images are the weights'.
        size: γ, that of the step.
        seconds: of a processor that it has taken so far.
    """

    shown: Data
    size: float
    seconds: float = 0.0

    def __call__(self, step: Guided, model: nn.Module) -> dict:
        started = time.process_time()
        row = self._row(step, model)
        self.seconds += time.process_time() - started
        return row

    def _row(self, step: Guided, model: nn.Module) -> dict:
        loss, weights, slopes = self._slopes(step, model)
        forces, gates = step.forces, step.gates
        plain = {name: weights[name] - self.size * slopes[name] for name in weights}
        norms = gates.products(plain).sqrt()
        new = {name: each.clone() for name, each in plain.items()}
        gates.scale(new, (1 - self.size * forces / norms.clamp_min(1e-30)).clamp_min(0))
        steepness, moved, pushed = (_squares(a, b) for a, b in ((slopes, None), (weights, new), (new, plain)))
        envelope = loss - self.size / 2 * steepness + (forces * gates.products(new).sqrt()).sum()
        return {
            "loss": float(loss),
            "objective": float(loss + (forces * gates.products(weights).sqrt()).sum()),
            "envelope": float(envelope + pushed / (2 * self.size)),
            "projected": float(moved.sqrt()) / self.size,
            "open": [int(part.sum()) for part in step.opened.split(gates.sizes)],
        }

    def _slopes(self, step: Guided, model: nn.Module) -> tuple[torch.Tensor, dict, dict]:
        """f, the weights and their gradient; batch norms use the images' own statistics, as in training."""
        weights = {name: each.detach().requires_grad_() for name, each in model.named_parameters()}
        state = weights | {name: each.clone() for name, each in model.named_buffers()}
        device, task = next(iter(weights.values())).device, self.shown.task
        images = self.shown.normalize(self.shown.train.images[:IMAGES]).to(device)
        smoothing = {"smoothing": step.guidance.label_smoothing} if task.classes else {}
        trains = model.training
        model.train()
        answers = functools.partial(functional_call, model, state)
        loss, _ = task.loss(answers, images, self.shown.train.labels[:IMAGES].to(device), **smoothing)
        slopes = torch.autograd.grad(loss, list(weights.values()))
        model.train(trains)
        plain = {name: each.detach() for name, each in weights.items()}
        return loss.detach(), plain, dict(zip(weights, slopes, strict=True))


def _squares(first: dict, second: dict | None) -> torch.Tensor:
    return sum((each - (second[name] if second else 0)).square().sum() for name, each in first.items())
