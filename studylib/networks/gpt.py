"""A transformer that predicts the next character, after GPT-2 (Radford et al. 2019)."""

import torch
import torch.nn.functional as F
from torch import nn

from studylib.networks.blocks import SpecError


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, section 3.2): (batch, time, width) → the same.

    One linear layer makes queries, keys and values, another mixes what the heads found.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.queries_keys_values, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        parts = self.queries_keys_values(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return self.mix(found.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class Block(nn.Module):
    """Attention and a perceptron of two layers, a layer norm before each, each added to what came in."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.before, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.between, self.widen, self.gelu = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU()
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.before(x))
        return x + self.narrow(self.gelu(self.widen(self.between(x))))


class GPT(nn.Module):
    """``depth`` blocks between embeddings of characters and places, and a linear layer to the next character.

    An embedding is a linear layer that reads ones and zeros: its columns are the table. So whatever prunes,
    factorizes, rounds or stores a linear layer does it to embeddings as well.

    (batch, time) of numbers of characters, time at most ``context`` → logits (batch, time, characters).

    Raises:
        SpecError: nothing of something, or a width that the heads do not divide.
    """

    def __init__(self, characters=65, context=64, width=64, depth=4, heads=4):
        super().__init__()
        if min(characters, context, width, depth, heads) < 1:
            asked = f"characters={characters!r}, context={context!r}, width={width!r}, depth={depth!r}, heads={heads!r}"
            raise SpecError(f"gpt {asked}: expected at least 1 of each")
        if width % heads:
            raise SpecError(f"gpt width={width!r}: expected a multiple of heads={heads!r}")
        self.characters, self.context = characters, context
        self.token, self.place = nn.Linear(characters, width, bias=False), nn.Linear(context, width, bias=False)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters, bias=False)

    def forward(self, x):
        count, time = x.shape
        kind, device = self.norm.weight.dtype, x.device
        letters = (x[..., None] == torch.arange(self.characters, device=device)).to(kind)
        places = torch.eye(self.context, dtype=kind, device=device)[:time].expand(count, -1, -1)
        return self.head(self.norm(self.blocks(self.token(letters) + self.place(places))))
