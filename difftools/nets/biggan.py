"""BigGAN, generator and critic, natively in the names of BigGAN-PyTorch's state dicts.

Written from a description of the architecture (Brock et al. 2019). Spectral norm belongs to
training: a network that runs has it folded into its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import interpolate


def doubled(x: Tensor) -> Tensor:
    """x (B, C, H, W) -> (B, C, 2H, 2W), nearest."""
    return interpolate(x, scale_factor=2)


class Norm(nn.Module):
    """Batch norm whose gain and bias come from a condition, or are learned (cond = 0).

    The gain is 1 + a linear map of the condition: without the 1 training fails.
    """

    def __init__(self, c: int, cond: int = 0):
        super().__init__()
        self.conditional = bool(cond)
        self.gain = nn.Linear(cond, c, bias=False) if cond else nn.Parameter(torch.ones(c))
        self.bias = nn.Linear(cond, c, bias=False) if cond else nn.Parameter(torch.zeros(c))
        self.register_buffer("stored_mean", torch.zeros(c))
        self.register_buffer("stored_var", torch.ones(c))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        x = F.batch_norm(x, self.stored_mean, self.stored_var, training=self.training)
        if not self.conditional:
            return x * self.gain[:, None, None] + self.bias[:, None, None]
        gain, bias = 1 + self.gain(cond), self.bias(cond)  # (B, C)
        return x * gain[:, :, None, None] + bias[:, :, None, None]


class Attention(nn.Module):
    """Self-attention of SAGAN: queries of 1/8 of the channels, keys and values max-pooled.

    names: of the four convolutions; gamma: shape of the branch's weight.
    """

    def __init__(self, c: int, names=("theta", "phi", "g", "o"), gamma: tuple[int, ...] = ()):
        super().__init__()
        pairs = (c, c // 8), (c, c // 8), (c, c // 2), (c // 2, c)
        for name, (cin, cout) in zip(names, pairs, strict=True):
            self.add_module(name, nn.Conv2d(cin, cout, 1, bias=False))
        self.names, self.gamma = names, nn.Parameter(torch.zeros(gamma))

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g, o = (getattr(self, name) for name in self.names)
        q = theta(x).flatten(2)  # (B, c/8, HW)
        k = F.max_pool2d(phi(x), 2).flatten(2)  # (B, c/8, HW/4)
        v = F.max_pool2d(g(x), 2).flatten(2)  # (B, c/2, HW/4)
        weight = (q.transpose(1, 2) @ k).softmax(-1)  # (B, HW, HW/4)
        h = (v @ weight.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * o(h)


class GBlock(nn.Module):
    """Doubling residual block of the generator."""

    def __init__(self, cin: int, cout: int, cond: int):
        super().__init__()
        self.bn1, self.bn2 = Norm(cin, cond), Norm(cout, cond)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_sc = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        h = self.conv1(doubled(F.relu(self.bn1(x, cond))))
        h = self.conv2(F.relu(self.bn2(h, cond)))
        return h + doubled(self.conv_sc(x))  # a 1×1 convolution and the doubling commute


class BigGAN(nn.Module):
    """The generator. forward: z (B, z) ~ N(0, I), labels y (B,) -> images (B, 3, size, size) in
    [-1, 1].

    channels: widths at 4, 8, …, size. z is cut into one chunk for 4×4 and one a block, which its
    norms see beside the class embedding e (B, shared). attention: pixels a side after which
    self-attention stands, 0 for none. Source: Brock et al. 2019, appendix B.
    Built in: inversion_tables.
    """

    def __init__(
        self, channels: Sequence[int], z: int = 120, shared: int = 128, classes: int = 1000,
        attention: int = 0,
    ):
        super().__init__()
        blocks = len(channels) - 1
        if z % (blocks + 1):
            raise ValueError(f"z has {z} numbers, expected a multiple of {blocks + 1} chunks")
        self.chunk = z // (blocks + 1)
        self.z, self.classes, self.e, self.size = z, classes, shared, 4 * 2**blocks
        self.shared = nn.Embedding(classes, shared)
        self.linear = nn.Linear(self.chunk, channels[0] * 16)
        self.blocks = nn.ModuleList()
        for i, (cin, cout) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            block = [GBlock(cin, cout, shared + self.chunk)]
            if attention == 8 * 2**i:
                block.append(Attention(cout))
            self.blocks.append(nn.ModuleList(block))
        c = channels[-1]
        self.output_layer = nn.Sequential(Norm(c), nn.ReLU(), nn.Conv2d(c, 3, 3, padding=1))

    def embed(self, y: Tensor) -> Tensor:
        """Class embedding e (B, shared) of labels (B,) or of weights over the labels
        (B, classes).
        """
        return y @ self.shared.weight if y.is_floating_point() else self.shared(y)

    def synthesise(self, z: Tensor, e: Tensor) -> Tensor:
        """Images of z (B, z) and class embeddings e (B, shared)."""
        first, *rest = z.split(self.chunk, 1)
        x = self.linear(first).unflatten(1, (-1, 4, 4))
        for block, chunk in zip(self.blocks, rest, strict=True):
            x = block[0](x, torch.cat([e, chunk], 1))
            for attention in block[1:]:
                x = attention(x)
        return self.output_layer(x).tanh()

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.synthesise(z, self.embed(y))


class DBlock(nn.Module):
    """Residual block of the critic; all but the last halve, the first reads the picture."""

    def __init__(self, cin: int, cout: int, first: bool, down: bool):
        super().__init__()
        self.first, self.down = first, down
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_sc = nn.Conv2d(cin, cout, 1) if down or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.down:
            return h + self.conv_sc(x)
        return F.avg_pool2d(h, 2) + self.conv_sc(F.avg_pool2d(x, 2))


class Critic(nn.Module):
    """The projection critic. forward: images (B, 3, size, size) in [-1, 1], labels y (B,) ->
    logits (B, 1), high for real.

    channels: widths at 4, 8, …, size / 2, as the generator's without the last. Source: Miyato &
    Koyama 2018; Brock et al. 2019.
    """

    def __init__(self, channels: Sequence[int], classes: int):
        super().__init__()
        down = [3, *list(channels)[::-1]]
        last = len(channels)
        pairs = [*zip(down[:-1], down[1:], strict=True), (down[-1], down[-1])]
        self.blocks = nn.ModuleList(
            nn.ModuleList([DBlock(a, b, i == 0, i < last)]) for i, (a, b) in enumerate(pairs)
        )
        self.linear = nn.Linear(channels[0], 1)
        self.embed = nn.Embedding(classes, channels[0])

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        x = images
        for block in self.blocks:
            x = block[0](x)
        h = F.relu(x).sum((2, 3))  # (B, C)
        return self.linear(h) + (self.embed(y) * h).sum(1, keepdim=True)
