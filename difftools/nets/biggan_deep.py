"""BigGAN-deep's generator, natively in the names of the pytorch-pretrained-BigGAN state dicts.

Written from a description of the architecture (Brock et al. 2019, appendix B). Spectral norm
belongs to training: a network that runs has it folded into its weights (`official.biggan_deep`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .biggan import Attention, doubled

EPS = 1e-4
ATTENTION = tuple(f"snconv1x1_{name}" for name in ("theta", "phi", "g", "o_conv"))


def at(table: Tensor, truncation: float) -> Tensor:
    """Row of a table (rows, C) over truncations 0, …, 1, linear between two rows.

    The original's weights of the two are swapped: at 0.58 it takes row 28 of 51, we row 29.
    """
    place = truncation * (len(table) - 1)
    i = min(int(place), len(table) - 2)
    return torch.lerp(table[i], table[i + 1], place - i)


class Norm(nn.Module):
    """Batch norm by stored statistics, which depend on the truncation; gain (1 + a linear map) and
    bias come from a condition, or are learned (cond = 0).
    """

    def __init__(self, c: int, cond: int, rows: int):
        super().__init__()
        self.conditional = bool(cond)
        self.register_buffer("running_means", torch.zeros(rows, c))
        self.register_buffer("running_vars", torch.ones(rows, c))
        if cond:
            self.scale = nn.Linear(cond, c, bias=False)
            self.offset = nn.Linear(cond, c, bias=False)
        else:
            self.weight = nn.Parameter(torch.ones(c))
            self.bias = nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor, truncation: float, cond: Tensor | None = None) -> Tensor:
        mean, var = at(self.running_means, truncation), at(self.running_vars, truncation)
        x = F.batch_norm(x, mean, var, eps=EPS)
        if not self.conditional:
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        gain, bias = 1 + self.scale(cond), self.offset(cond)  # (B, C)
        return x * gain[:, :, None, None] + bias[:, :, None, None]


class Block(nn.Module):
    """Bottleneck of four convolutions at a quarter of the channels; `up` doubles the size.

    The shortcut has no weights: it doubles the nearest way and drops the channels too many.
    """

    def __init__(self, cin: int, cout: int, cond: int, rows: int, up: bool):
        super().__init__()
        self.up, self.cout, c = up, cout, cin // 4
        for i, width in enumerate((cin, c, c, c)):
            self.add_module(f"bn_{i}", Norm(width, cond, rows))
        self.conv_0 = nn.Conv2d(cin, c, 1)
        self.conv_1 = nn.Conv2d(c, c, 3, padding=1)
        self.conv_2 = nn.Conv2d(c, c, 3, padding=1)
        self.conv_3 = nn.Conv2d(c, cout, 1)

    def forward(self, x: Tensor, truncation: float, cond: Tensor) -> Tensor:
        h = self.conv_0(F.relu(self.bn_0(x, truncation, cond)))
        h, skip = F.relu(self.bn_1(h, truncation, cond)), x[:, : self.cout]
        if self.up:
            h, skip = doubled(h), doubled(skip)
        h = self.conv_2(F.relu(self.bn_2(self.conv_1(h), truncation, cond)))
        return skip + self.conv_3(F.relu(self.bn_3(h, truncation, cond)))


class Generator(nn.Module):
    """cond (B, cond) -> images (B, 3, size, size) in [-1, 1]: two blocks a size, the second of
    which doubles.
    """

    def __init__(self, channels: Sequence[int], cond: int, rows: int, attention: int):
        super().__init__()
        self.gen_z = nn.Linear(cond, 16 * channels[0])
        self.layers = nn.ModuleList()
        for i, (cin, cout) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            if attention == 4 * 2**i:
                self.layers.append(Attention(cin, ATTENTION, (1,)))
            self.layers.append(Block(cin, cin, cond, rows, up=False))
            self.layers.append(Block(cin, cout, cond, rows, up=True))
        c = channels[-1]
        self.bn = Norm(c, 0, rows)
        self.conv_to_rgb = nn.Conv2d(c, c, 3, padding=1)  # of which the first three are colours

    def forward(self, cond: Tensor, truncation: float) -> Tensor:
        x = self.gen_z(cond).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)  # its channels are last
        for layer in self.layers:
            x = layer(x) if isinstance(layer, Attention) else layer(x, truncation, cond)
        x, rgb = F.relu(self.bn(x, truncation)), self.conv_to_rgb
        return F.conv2d(x, rgb.weight[:3], rgb.bias[:3], padding=1).tanh()


class BigGANDeep(nn.Module):
    """The generator. forward: z (B, z) ~ N(0, I), labels y (B,) -> images (B, 3, size, size) in
    [-1, 1].

    channels: widths at 4, 8, …, size. z: width of the latent and of the class embedding e.
    attention: pixels a side at which self-attention stands, 0 for none. rows: of the statistics'
    tables, for truncations 0, …, 1; 1 is the whole normal distribution, and what inversion uses.
    Source: Brock et al. 2019, appendix B. Built in: inversion_tables.
    """

    def __init__(
        self,
        channels: Sequence[int],
        z: int = 128,
        classes: int = 1000,
        attention: int = 0,
        rows: int = 51,
    ):
        super().__init__()
        self.embeddings = nn.Linear(classes, z, bias=False)
        self.generator = Generator(channels, 2 * z, rows, attention)
        self.z, self.e, self.classes, self.size = z, z, classes, 2 * 2 ** len(channels)

    def embed(self, y: Tensor) -> Tensor:
        """Class embedding e (B, z) of labels (B,) or of weights over the labels (B, classes)."""
        return self.embeddings(y) if y.is_floating_point() else self.embeddings.weight.T[y]

    def synthesise(self, z: Tensor, e: Tensor, truncation: float = 1.0) -> Tensor:
        """Images of z (B, z) and class embeddings e (B, z). Raises ValueError on a wrong shape or
        a truncation outside [0, 1].
        """
        if z.shape[1:] != (self.z,) or e.shape != z.shape:
            given = tuple(z.shape), tuple(e.shape)
            raise ValueError(f"given z and e {given}, expected (B, {self.z}) for both")
        if not 0 <= truncation <= 1:
            raise ValueError(f"given truncation {truncation}, expected a number in [0, 1]")
        return self.generator(torch.cat([z, e], 1), truncation)

    def forward(self, z: Tensor, y: Tensor, truncation: float = 1.0) -> Tensor:
        return self.synthesise(z, self.embed(y), truncation)
