"""A training step that descends two objectives by PCD, over one that descends their weighted sum, optimizers included.

moo_step_over_weighted_sum: ours, which takes L1's gradient directly.
autojac_step_over_weighted_sum: TorchJD's general way, a backward pass for each objective.
DenseNet-40, 32 × 32, cross-entropy + L1, one thread.
"""

import torch
from harness import pair, seconds
from torchjd.aggregation import PCD
from torchjd.autojac import backward, jac_to_grad

from studylib.data import tasks
from studylib.descent import objectives
from studylib.descent.steps import Descent
from studylib.networks import spec

BATCH, REPEATS, WEIGHT = 32, 7, 1e-4
PAIR = [objectives.cross_entropy, objectives.l1]


def run() -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        summed = _timer(_weighted_sum)
        return {
            "moo_step_over_weighted_sum": pair(_timer(_descent), summed, REPEATS, "s"),
            "autojac_step_over_weighted_sum": pair(_timer(_autojac), summed, REPEATS, "s"),
        }
    finally:
        torch.set_num_threads(threads)


def _timer(way):
    """Seconds of one step, forward pass and optimizer included, of a network of its own; warmed up."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, generator=draw).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,), generator=draw)
    model = spec.create("densenet", 0, depth=40).train()
    optimizer, fill = torch.optim.Adam(model.parameters()), way(model)

    def step():
        optimizer.zero_grad(set_to_none=True)
        after = fill(images, labels)
        optimizer.step()
        after()

    step()
    return lambda: seconds(step)


def _weighted_sum(model):
    def fill(images, labels):
        batch, logits = (images, labels), model(images)
        sum(weight * o(model, batch, logits) for o, weight in zip(PAIR, (1, WEIGHT), strict=True)).backward()
        return lambda: None

    return fill


def _descent(model):
    descent = Descent(PAIR, "PCD")
    descent.start(model)

    def fill(images, labels):
        value, logits = tasks.cross_entropy(model, images, labels)
        descent.gradients(model, value, logits, (images, labels))
        return lambda: descent.after(model, 0.0)

    return fill


def _autojac(model):
    weights, aggregator = list(model.parameters()), PCD()

    def fill(images, labels):
        norm = sum(w.abs().sum() for w in objectives.weights(model))
        backward([objectives.cross_entropy(model, (images, labels), model(images)), norm], inputs=weights)
        jac_to_grad(weights, aggregator)
        return lambda: None

    return fill
