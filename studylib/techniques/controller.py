"""Controller-guided pruning: a second network learns which channels to keep while the first trains, from scratch.

Auto-Train-Once (Wu et al. 2024). The weights train with all gates open. At intervals the controller learns which
gates to close within a budget of multiply-adds. It does so on images of its own. Groups whose gates are closed shrink
to zero. At the end their channels are taken out, and nothing is tuned. Unlike the authors' code, no noise is
drawn when channels are chosen, and gates stand behind depthwise convolutions (:mod:`studylib.networks.gates`). The last
choice meets the budget as nearly as channels allow. A group that is zero when its gate opens again starts anew. Else
it would stay dead, as ReLU has no slope at 0.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call

from studylib.data.datasets import Data
from studylib.data.sources import Split, stratified
from studylib.networks import filters, spec
from studylib.networks.gates import Gates
from studylib.networks.layers import duplicate
from studylib.settings import record
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.training.step import Plain, Step

INPUT, HIDDEN = 64, 128  # numbers a layer that the controller reads, and of its state in each direction
OFFSET, TEMPERATURE = 3.0, 0.4  # of a gate: it starts open
SLACK = 0.005  # no pull within this of the budget, a share of all multiply-adds


@record
class Guidance:
    """How channels are chosen and shrunk; the defaults are the authors', those of ``share`` and ``batch_size`` ours."""

    budget: Annotated[float, Field(gt=0, lt=1, description="share of the multiply-adds that is left")] = 0.5
    share: Annotated[
        float,
        Field(gt=0, lt=1, description="of the training images, for the controller alone; weights do not see them"),
    ] = 0.1
    every: Annotated[int, Field(ge=1, description="steps of the weights for one of the controller")] = 20
    batch_size: Annotated[int, Field(ge=2, description="images of a step of the controller")] = 128
    lr: Annotated[float, Field(gt=0, description="learning rate of the controller, by AdamW")] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, description="decoupled decay of the controller's weights")] = 1e-2
    pull: Annotated[float, Field(ge=0, description="γ: twice it weighs the distance to the budget")] = 4.0
    warm: Annotated[float, Field(ge=0, le=1, description="share of the epochs before groups are shrunk")] = 0.3
    freeze: Annotated[float, Field(gt=0, le=1, description="share of the epochs after which the choice is final")] = 0.5
    strength: Annotated[float, Field(ge=0, description="λ until then: how fast groups shrink")] = 10.0
    final_strength: Annotated[float, Field(gt=0, description="λ from then on")] = 1000.0
    projection: Annotated[
        Literal["proximal", "half_space"],
        Field(description="how a group shrinks; half_space: and is zero once it has turned away from where it was"),
    ] = "proximal"
    epsilon: Annotated[float, Field(ge=0, lt=1, description="ε of half_space: how far it may turn")] = 0.1
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="of the weights' loss, where labels are classes")
    ] = 0.1


class Controller(nn.Module):
    """From fixed orthogonal inputs, one a family of channels, to a logit a channel; it reads no image.

    A GRU in both directions (64 → 2 × 128), layer normalization, ReLU and a linear layer without bias a family.

    Args:
        sizes: channels of each family.
        seed: of its inputs and weights.
    """

    def __init__(self, sizes: list[int], seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.register_buffer("inputs", nn.init.orthogonal_(torch.empty(len(sizes), INPUT))[:, None])
            self.gru = nn.GRU(INPUT, HIDDEN, bidirectional=True)
            self.norm = nn.LayerNorm(2 * HIDDEN)
            self.heads = nn.ModuleList(nn.Linear(2 * HIDDEN, size, bias=False) for size in sizes)

    def forward(self) -> torch.Tensor:
        """Logits (channels,), family by family; a channel is kept where its logit is above −3."""
        states = self.norm(self.gru(self.inputs)[0][:, 0]).relu()
        return torch.cat([head(state) for head, state in zip(self.heads, states, strict=True)])


def soft(logits: torch.Tensor, noise: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Gates in 0…1: σ((logit + noise + 3) / 0.4) (Jang et al. 2017; two classes)."""
    return torch.sigmoid((logits + noise + OFFSET) / TEMPERATURE)


def gumbel(count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` numbers from the Gumbel distribution, (count,) float32 on the CPU."""
    return -(-torch.rand(count, generator=generator).clamp_min(1e-20).log()).log()


def distance(share: torch.Tensor, budget: float) -> torch.Tensor:
    """|log(share / budget)|, and 0 without a gradient where they differ by at most :data:`SLACK`."""
    found = (share / budget).log().abs()
    return torch.where((share - budget).abs() <= SLACK, torch.zeros_like(found), found)


class Guided(Step):
    """A step of :func:`studylib.training.loop.fit` that shrinks groups, and at intervals has the controller learn.

    Which gates are open is drawn once an epoch, without noise, and final after the share ``freeze`` of them. The bound
    on the logits then moves until the multiply-adds are nearest to the budget.

    An epoch's row has ``share`` (of multiply-adds with the gates as drawn), ``closed`` and ``turned`` (gates, and how
    many changed). ``zero`` is the share of closed groups that are exactly zero. ``controller_loss`` is the mean of its
    losses, None without one. ``moved`` is how many gates the bound's moving changed, ``anew`` how many groups start so.

    Args:
        gates: of the model that is trained.
        seen: the controller's images, none of them the weights'.
        epochs: of the training.
        seed: of the controller, of its batches and its noise; the k-th step draws from (seed, k) alone.
    """

    label = "the loss, guided by a controller"

    def __init__(self, gates: Gates, data: Data, seen: Split, guidance: Guidance, *, epochs: int, seed: int):
        self.gates, self.data, self.seen, self.guidance, self.seed = gates, data, seen, guidance, seed
        self.frozen_at = max(1, round(guidance.freeze * epochs))
        self.shrinks_at = max(1, round(guidance.warm * epochs))
        self.identity = ["controller", dataclasses.asdict(guidance), epochs, seed, seen.digest]

    def start(self, model: nn.Module, masks: dict[str, torch.Tensor] | None = None) -> None:
        device = next(model.parameters()).device
        self.data, self.seen = self.data.to(device), self.seen.to(device)
        self.controller = Controller(self.gates.sizes, self.seed).to(device)
        how = {"lr": self.guidance.lr, "weight_decay": self.guidance.weight_decay}
        self._optimizer = torch.optim.AdamW(self.controller.parameters(), **how)
        self.opened = torch.ones(len(self.gates), dtype=torch.bool, device=device)
        self._family = self.gates.family.to(device)
        self._steps = self._epochs = 0
        self._model, self._before, self._losses = model, {}, []
        self._first = {name: each.detach().clone() for name, each in model.named_parameters()}

    @property
    def frozen(self) -> bool:
        """Whether the choice of channels is final."""
        return self._epochs >= self.frozen_at

    def gradients(self, model, value, logits, batch) -> bool:
        value.backward()
        if self.guidance.projection == "half_space" and self._shrinks:
            self._before = {name: each.detach().clone() for name, each in model.named_parameters()}
        return True

    def after(self, model: nn.Module, lr: float) -> None:
        self._steps += 1
        if self._shrinks:
            self._shrink(dict(model.named_parameters()), lr)
        if not self.frozen and self._steps % self.guidance.every == 0:
            self._losses.append(self._learn(model))

    @property
    def _shrinks(self) -> bool:
        return self._epochs >= self.shrinks_at and not bool(self.opened.all())

    @property
    def forces(self) -> torch.Tensor:
        """λκ of each gate's group, (n,). It is 0 where the gate is open, and of all before groups shrink."""
        closed = (~self.opened).float()
        strength = self.guidance.final_strength if self.frozen else self.guidance.strength
        counts = torch.zeros(len(self.gates.sizes), device=closed.device).index_add_(0, self._family, closed)
        return strength * self._shrinks * closed * (counts / counts.sum().clamp_min(1))[self._family]

    @torch.no_grad()
    def _shrink(self, weights: dict[str, torch.Tensor], lr: float) -> None:
        """w_g ← w_g · max(0, 1 − λ κ lr / ‖w_g‖) of closed groups, κ its family's share of all that are closed."""
        norms = self.gates.products(weights).sqrt()
        factors = (1 - self.forces * lr / norms.clamp_min(1e-30)).clamp_min(0)
        if self._before:
            least = self.guidance.epsilon * self.gates.products(self._before)
            turned = factors * self.gates.products(weights, self._before) < least
            factors = torch.where(~self.opened & turned, 0.0, factors)
        self.gates.scale(weights, factors)

    def _learn(self, model: nn.Module) -> float:
        """One step of the controller, if its loss is finite; the model and its statistics stay as they are."""
        mixed = hashlib.sha256(f"controller {self.seed} {self._steps}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big") >> 1)
        chosen = torch.randperm(len(self.seen), generator=draw)[: self.guidance.batch_size]
        batch = self.seen.take(chosen.to(self.seen.labels.device))
        noise = gumbel(len(self.gates), draw).to(self.opened.device)
        fixed = {name: each.detach() for name, each in model.named_parameters()}
        fixed |= {name: each.clone() for name, each in model.named_buffers()}
        logits = self.controller()
        with self.gates.on(model, soft(logits, noise)):
            answers = functools.partial(functional_call, model, fixed)
            loss, _ = self.data.task.loss(answers, self.data.normalize(batch.images), batch.labels)
        loss = loss + 2 * self.guidance.pull * self.off_budget(logits)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if math.isfinite(loss.item()):
            self._optimizer.step()
        return loss.item()

    def off_budget(self, logits: torch.Tensor) -> torch.Tensor:
        """:func:`distance` of what is open at ``logits`` (n,) without noise; its slope is that of the soft gates."""
        gates = soft(logits)
        hard = self._above(logits.detach(), -OFFSET).to(gates) + gates - gates.detach()  # straight through
        return distance(self._share(hard), self.guidance.budget)

    def _above(self, logits: torch.Tensor, bound: float) -> torch.Tensor:
        return (logits > bound) | self.gates.best(logits)

    def _share(self, gates: torch.Tensor) -> torch.Tensor:
        return self.gates.multiply_adds(gates) / self.gates.full

    @torch.no_grad()
    def row(self) -> dict:
        found, learns = {"turned": 0, "moved": 0, "anew": 0}, not self.frozen
        self._epochs += 1
        weights = {name: each.detach() for name, each in self._model.named_parameters()}
        norms = self.gates.products(weights)
        if learns:
            logits, before = self.controller(), self.opened
            self.opened = self._above(logits, -OFFSET)
            if self.frozen:
                drawn, self.opened = self.opened, self.gates.at_budget(logits, self.guidance.budget)
                found["moved"] = int((self.opened != drawn).sum())
            found["turned"] = int((self.opened != before).sum())
            dead = self.opened & ~before & (norms == 0)
            self.gates.copy(weights, self._first, dead)
            found["anew"] = int(dead.sum())
        closed = ~self.opened
        losses, self._losses = self._losses, []
        return found | {
            "share": float(self._share(self.opened.float())),
            "closed": int(closed.sum()),
            "zero": float((norms[closed] == 0).float().mean()) if closed.any() else 0.0,
            "controller_loss": sum(losses) / len(losses) if losses else None,
        }

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The controller and its optimizer, the gates, and how many steps and epochs are done."""
        state = {f"controller/{name}": each.clone() for name, each in self.controller.state_dict().items()}
        for i, slots in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{i}/{name}": each.clone() for name, each in slots.items()}
        return state | {"opened": self.opened.clone(), "counts": torch.tensor([self._steps, self._epochs])}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        parts: dict[str, dict] = {"controller": {}, "optimizer": {}}
        for key, each in state.items():
            part, _, name = key.partition("/")
            if part == "optimizer":
                i, _, slot = name.partition("/")
                parts[part].setdefault(int(i), {})[slot] = each
            elif part == "controller":
                parts[part][name] = each
        self.controller.load_state_dict(parts["controller"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": parts["optimizer"], "param_groups": groups})
        self.opened = state["opened"].to(self.opened.device)
        self._steps, self._epochs = state["counts"].tolist()


@dataclasses.dataclass
class Trained:
    """A network that a controller guided, before its channels are taken out.

    Attributes:
        model: with all of its channels, in evaluation mode.
        gates: of its channels.
        opened: which of them stay, (n,) bool.
        history: a row an epoch.
    """

    model: nn.Module
    gates: Gates
    opened: torch.Tensor
    history: list[dict]

    @property
    def masked(self) -> nn.Module:
        """The same layers, the channels that go held at zero."""
        return filters.masked(self.model, self.gates.found, self.gates.closed(self.opened))

    def sliced(self) -> tuple[nn.Module, dict]:
        """The dense network without them, and the structure for its spec."""
        return filters.removed(self.model, self.gates.found, self.gates.closed(self.opened))


def split(data: Data, share: float, seed: int) -> tuple[Data, Split]:
    """``data`` with the rest of its training images, and the share of them that is the controller's, each class alike.

    ValueError: there are too few images that each part has one of every class.
    """
    labels, classes = data.train.labels, len(data.classes)
    if not data.task.classes:  # labels are no classes
        labels, classes = labels.new_zeros(len(data.train)), 1
    count = round(share * len(labels))
    if not classes <= count <= len(labels) - classes:
        found = f"share={share!r}: {count} of {len(labels)} training images"
        raise ValueError(f"{found}; expected one of each of {classes} classes at least, and as many left")
    rest, held = stratified(labels, count, seed)
    return dataclasses.replace(data, train=data.train.take(rest)), data.train.take(held)


def train(
    model: nn.Module,
    data: Data,
    *,
    recipe: Recipe,
    seed: int,
    guidance: Guidance | None = None,
    scratch: Path | None = None,
    watch: Callable[[Guided, nn.Module], dict] | None = None,
) -> Trained:
    """Trains a copy of ``model`` and chooses its channels; see :func:`apply` for the arguments.

    ``watch`` gives what is added to each epoch's row; it decides nothing.
    """
    guidance = guidance or Guidance()
    new, gates = duplicate(model), Gates(model)
    gates.at_budget(torch.zeros(len(gates)), guidance.budget)  # refuses what no choice of channels meets
    shown, seen = split(data, guidance.share, seed)
    step = Guided(gates, data, seen, guidance, epochs=recipe.epochs, seed=seed)
    for name in ("warm", "freeze"):  # groups have to shrink after both
        if (at := {"warm": step.shrinks_at, "freeze": step.frozen_at}[name]) >= recipe.epochs:
            found = f"{name}={getattr(guidance, name)!r}: epoch {at} of {recipe.epochs}"
            raise ValueError(f"{found}; expected one before the last, as what is shut shrinks after it")
    if guidance.every > (steps := step.frozen_at * math.ceil(len(shown.train) / recipe.batch_size)):
        raise ValueError(f"every={guidance.every!r}: expected at most {steps}, the steps until the choice is final")
    smoothing = {"smoothing": guidance.label_smoothing} if data.task.classes else {}
    loss = Plain(functools.partial(data.task.loss, **smoothing), smoothing)
    checkpoint = scratch / "controller.safetensors" if scratch else None
    how = {"loss": loss, "step": step, "watch": functools.partial(watch, step) if watch else None}
    history = loop.fit(new, shown, recipe, seed=seed, checkpoint=checkpoint, keep="last", **how)
    return Trained(new.eval(), gates, step.opened.cpu(), history)


def apply(
    model: nn.Module,
    data: Data,
    *,
    recipe: Recipe,
    seed: int,
    guidance: Guidance | None = None,
    scratch: Path | None = None,
) -> nn.Module:
    """Trains ``model`` and takes out the channels that the controller closes (Wu et al. 2024, algorithm 1).

    The network that is left is dense, and is not tuned. It has the weights of the last epoch.

    Args:
        model: untrained, or to be trained on; it stays as it is.
        recipe: of the weights; its label smoothing must be 0, as ``guidance`` has its own.
        seed: of the images' order, the controller's share of them, and the controller.
        guidance: the defaults of :class:`Guidance` where None.
        scratch: folder for the checkpoint of an interrupted training.

    Raises:
        ValueError: a channel a family takes more than the budget. The controller has too few images or too many, or
            never learns. No epoch is left to shrink what it shuts. Labels are smoothed by the recipe, too. Else as
            :func:`studylib.networks.filters.of`.
        FloatingPointError: the loss is no longer finite.
    """
    guidance = guidance or Guidance()
    trained = train(model, data, recipe=recipe, seed=seed, guidance=guidance, scratch=scratch)
    new, structure = trained.sliced()
    did = {"budget": guidance.budget, "epochs": len(trained.history), "of": len(trained.gates)}
    return spec.with_change(new.eval(), "controller", did, structure, trained.history)
