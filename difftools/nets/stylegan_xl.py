"""StyleGAN-XL's generator, natively in the names of its official state dicts.

Written from a description of the architecture: StyleGAN3's alias-free layers (Karras et al. 2021)
on a ladder of resolutions, with pretrained class embeddings (Sauer et al. 2022). Plain PyTorch, no
compiled op. A configuration says all that the layers need and the weights file brings the filters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stylegan2 import EPS, Dense, activate, unit

# How StyleGAN3 lays out its layers: bands of the first layer, stopband of the last one over its
# cutoff, taps of a filter per pixel of the coarser grid, pixels around the picture.
CUTOFF, STOPBAND, RELATIVE, TAPS, MARGIN = 2.0, 2**2.1, 2**0.3, 6, 10


def _bands(size: int, n: int, start: tuple, base: int, most: int, critical: int) -> list[dict]:
    """Signal after each of n + 1 layers that lead from start = (cutoff, stopband) to `size` px.

    Bands grow geometrically; the last `critical` layers and the colours use the whole spectrum.
    """
    out, stop = [], (size / 2, size / 2 * RELATIVE)
    for i in range(n + 1):
        t = min(i / (n - critical), 1)
        cutoff, stopband = (a * (b / a) ** t for a, b in zip(start, stop, strict=True))
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, size)))
        out.append(
            {
                "cutoff": cutoff,
                "edge": max(stopband, rate / 2),
                "rate": rate,
                "size": size if i >= n - 1 else rate + 2 * MARGIN,
                "channels": 3 if i == n else round(min(base / 2 / cutoff, most)),
            }
        )
    return out


def _row(index: int, a: dict, b: dict, rgb: bool) -> dict:
    """The layer between two signals. Its nonlinearity works at twice the finer rate."""
    fine = max(a["rate"], b["rate"]) * (1 if rgb else 2)
    kernel, up, down = 1 if rgb else 3, fine // a["rate"], fine // b["rate"]
    taps = [1 if rgb else TAPS * k for k in (up, down)]
    total = (b["size"] - 1) * down + 1 - (a["size"] + kernel - 1) * up + sum(taps) - 2
    low = (total + up) // 2  # samples sit in the middle of their pixels
    return {
        "name": f"L{index}_{b['size']}_{b['channels']}",
        "cin": a["channels"],
        "cout": b["channels"],
        "kernel": kernel,
        "up": up,
        "down": down,
        "taps": taps,
        "padding": [low, total - low] * 2,
        "rgb": rgb,
        "clamp": 256.0,
    }


def design(
    sizes: Sequence[int],
    stem: int = 10,
    head: int = 7,
    base: int = 65536,
    most: int = 1024,
    critical: int = 2,
    **settings,
) -> dict:
    """Configuration of `StyleGANXL` as the official training builds it, stage by stage.

    sizes: the stem's resolution, then that of every super-resolution stage, which cuts the layers
    at the full spectrum and adds `head` layers and its own colours; the names of the first stage
    skip a number. base, most: channels are base / (2 cutoff), at most `most`. settings: further
    arguments of `StyleGANXL`. Source: Karras et al. 2021, section 3.2; Sauer et al. 2022, 3.2.
    """
    layers, last, origin = [], None, None
    for size in sizes:
        n = head if last else stem
        start = (last["cutoff"], last["edge"]) if last else (CUTOFF, STOPBAND)
        signals = _bands(size, n, start, base, most, critical)
        if last:  # go on from the last layer that is kept
            layers, signals[0] = layers[: -critical - 1], last
        index = len(layers) + 1 if last else 0
        for i, b in enumerate(signals):
            layers.append(_row(index + i, signals[max(i - 1, 0)], b, i == n))
        last, origin = signals[n - critical - 1], origin or signals[0]
    fourier = {k: origin[k] for k in ("channels", "size", "rate")} | {"bandwidth": CUTOFF}
    return {"layers": layers, "fourier": fourier} | settings


def raised(x: Tensor, taps: Tensor | None, up: int, padding: Sequence[int]) -> Tensor:
    """up − 1 zeros after every pixel of x (B, C, H, W), padding (left, right, top, bottom), then
    the filter along both axes, at the gain that keeps the mean. Negative padding crops.
    """
    if taps is None:
        return F.pad(x, list(padding))
    c, n = x.shape[1], len(taps)
    along = up * taps.to(x.dtype).expand(c, 1, 1, n)
    x = F.conv_transpose2d(x, along, stride=(1, up), groups=c)
    x = F.conv_transpose2d(x, along.mT, stride=(up, 1), groups=c)
    # the transposed convolution is as long as can be: what padding leaves out is cut
    ends = [p - (n - 1 if i % 2 == 0 else n - up) for i, p in enumerate(padding)]
    return F.pad(x, ends)


def lowered(x: Tensor, taps: Tensor | None, down: int) -> Tensor:
    """The filter along both axes of x (B, C, H, W), and every down-th pixel of the result."""
    if taps is None:
        return x[:, :, ::down, ::down]
    c = x.shape[1]
    along = taps.to(x.dtype).flip(0).expand(c, 1, 1, len(taps))
    x = F.conv2d(x, along, stride=(1, down), groups=c)
    return F.conv2d(x, along.mT, stride=(down, 1), groups=c)


def _entry(table: Tensor, y: Tensor) -> Tensor:
    """Rows of labels y (B,), or their mean under weights y (B, labels)."""
    return y @ table if y.is_floating_point() else table[y]


class Mapping(nn.Module):
    """z (B, z) and labels y (B,), or weights over the labels (B, classes) -> w (B, w).

    psi: truncation towards the class's own mean. classes = 0: unconditional.
    Source: Sauer et al. 2022, section 3.1.
    """

    def __init__(self, z: int, w: int, layers: int, lr: float, classes: int, embedding: Sequence):
        super().__init__()
        self.layers, self.classes = layers, classes
        if classes:
            self.embed = nn.Embedding(*embedding)
            self.embed_proj = Dense(embedding[1], z)
        for i in range(layers):
            self.add_module(f"fc{i}", Dense(w if i else z * (2 if classes else 1), w, lr))
        self.register_buffer("w_avg", torch.zeros(*([classes] if classes else []), w))

    def forward(self, z: Tensor, psi: float = 1.0, y: Tensor | None = None) -> Tensor:
        if (y is None) == bool(self.classes):
            raise ValueError(f"a mapping of {self.classes} classes was given labels {y}")
        x, mean = unit(z), self.w_avg
        if y is not None:
            e = activate(self.embed_proj(_entry(self.embed.weight[: self.classes], y)))
            x, mean = torch.cat([x, unit(e)], 1), _entry(mean, y)
        for i in range(self.layers):
            x = activate(getattr(self, f"fc{i}")(x))
        return x if psi == 1 else torch.lerp(mean.expand_as(x), x, psi)


class Fourier(nn.Module):
    """w (B, w) -> (B, channels, size, size): waves of fixed random frequencies, which w rotates
    and shifts, mixed by a learned matrix.

    size: pixels a side, margins included. rate: pixels per unit of the picture. bandwidth: waves
    above it, which only a user's `transform` can make, are dampened.
    Source: Karras et al. 2021, section 3.2 and appendix F.
    """

    def __init__(self, w: int, channels: int, size: int, rate: float, bandwidth: float):
        super().__init__()
        self.size, self.rate, self.bandwidth = size, rate, bandwidth
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = Dense(w, 4)
        with torch.no_grad():  # no rotation, no shift
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        waves = torch.randn(channels, 2)
        radius = waves.norm(dim=1, keepdim=True)
        waves = waves / (radius * radius.square().exp() ** 0.25)  # uniform in the unit disc
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", waves * bandwidth)
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        moved = [cos, -sin, sin * y - cos * x, sin, cos, -sin * x - cos * y, zero, zero, one]
        m = torch.stack(moved, 1).unflatten(1, (3, 3)) @ self.transform  # (B, 3, 3)
        phases = self.phases + (self.freqs @ m[:, :2, 2:]).squeeze(2)  # (B, C)
        freqs = self.freqs @ m[:, :2, :2]  # (B, C, 2)
        over = (freqs.norm(dim=2) - self.bandwidth) / (self.rate / 2 - self.bandwidth)
        u = torch.arange(self.size, device=w.device, dtype=w.dtype) + 0.5 - self.size / 2
        u = u / self.rate
        fx, fy, phases, over = (v[..., None, None] for v in (*freqs.unbind(2), phases, over))
        waves = (2 * math.pi * (fx * u + fy * u[:, None] + phases)).sin()  # (B, C, size, size)
        mix = self.weight / math.sqrt(len(self.weight))
        return F.conv2d(waves * (1 - over).clamp(0, 1), mix[:, :, None, None])


class Layer(nn.Module):
    """Modulated convolution, bias, and a leaky ReLU between two changes of rate; rgb: the colours,
    neither demodulated nor bent.

    forward: x (B, cin, h, h), w (B, w) -> (B, cout, size, size). taps, padding: of the filter
    before the nonlinearity and the one after; see `raised`. Source: Karras et al. 2021, section 3.
    """

    def __init__(
        self,
        w: int,
        cin: int,
        cout: int,
        kernel: int,
        up: int,
        down: int,
        taps: Sequence[int],
        padding: Sequence[int],
        rgb: bool,
        clamp: float | None,
    ):
        super().__init__()
        self.up, self.down, self.padding, self.rgb, self.clamp = up, down, padding, rgb, clamp
        self.affine = Dense(w, cin, bias=1.0)
        self.weight = nn.Parameter(torch.randn(cout, cin, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(cout))
        self.register_buffer("magnitude_ema", torch.ones(()))
        for name, n in zip(("up_filter", "down_filter"), taps, strict=True):
            # a box until the file brings the designed one
            self.register_buffer(name, torch.full((n,), 1 / n) if n > 1 else None)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight, s = self.weight, self.affine(w)
        if self.rgb:
            s, after = s / math.sqrt(weight[0].numel()), 1.0
        else:  # unit weights and styles, each sample's its own: demodulation undoes either scale
            weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
            s = s * s.square().mean(1, keepdim=True).rsqrt()
            after = (s.square() @ weight.square().sum((2, 3)).T + EPS).rsqrt()[:, :, None, None]
        s = s * self.magnitude_ema.rsqrt()
        x = F.conv2d(x * s[:, :, None, None], weight, padding=weight.shape[-1] - 1) * after
        x = raised(x + self.bias[:, None, None], self.up_filter, self.up, self.padding)
        if not self.rgb:
            x = activate(x, clamp=self.clamp)
        elif self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp)
        return lowered(x, self.down_filter, self.down)


class Synthesis(nn.Module):
    """w+ (B, num_ws, w) -> images (B, 3, size, size), about [-1, 1], not clamped.

    Row 0 moves the Fourier waves, every layer takes one of the others. scale: of the output.
    """

    def __init__(self, w: int, layers: Sequence[dict], fourier: dict, scale: float):
        super().__init__()
        self.scale, self.names = scale, [row["name"] for row in layers]
        self.input = Fourier(w, **fourier)
        for row in layers:
            given = {k: v for k, v in row.items() if k != "name"}
            self.add_module(row["name"], Layer(w, **given))

    def forward(self, ws: Tensor) -> Tensor:
        first, *rest = ws.unbind(1)
        x = self.input(first)
        for name, w in zip(self.names, rest, strict=True):
            x = getattr(self, name)(x, w)
        return x * self.scale


class StyleGANXL(nn.Module):
    """The generator. forward: z (B, z) ~ N(0, I), labels y (B,) -> images (B, 3, size, size), about
    [-1, 1].

    layers, fourier: as `design` or `pickles.stylegan_xl_configuration` give them. z, w: widths.
    mapping, lr: its dense layers. classes, embedding: labels, and rows and columns of the table of
    class embeddings; classes = 0 for an unconditional network. scale: of the output. There are no
    noise maps. Source: Sauer et al. 2022. Built in: inversion_tables.
    """

    def __init__(
        self,
        layers: Sequence[dict],
        fourier: dict,
        z: int = 64,
        w: int = 512,
        mapping: int = 2,
        lr: float = 0.01,
        classes: int = 1000,
        embedding: Sequence[int] = (1000, 320),
        scale: float = 0.25,
    ):
        super().__init__()
        self.mapping = Mapping(z, w, mapping, lr, classes, embedding)
        self.synthesis = Synthesis(w, layers, fourier, scale)
        self.z, self.w, self.classes = z, w, classes
        self.num_ws = 1 + len(layers)
        self.size = int(layers[-1]["name"].split("_")[1])

    def w_plus(self, w: Tensor) -> Tensor:
        """w (B, w) -> w+ (B, num_ws, w), one row per layer; w+ stays as it is."""
        return w[:, None].expand(-1, self.num_ws, -1) if w.ndim == 2 else w

    def synthesise(self, w: Tensor) -> Tensor:
        """Images of w (B, w) or w+ (B, num_ws, w). Raises ValueError on a wrong shape."""
        ws = self.w_plus(w)
        if ws.shape[1:] != (self.num_ws, self.w):
            given, rows = tuple(w.shape), (self.num_ws, self.w)
            raise ValueError(f"given w {given}, expected (B, {self.w}) or (B, {rows})")
        return self.synthesis(ws)

    def forward(self, z: Tensor, psi: float = 1.0, y: Tensor | None = None) -> Tensor:
        return self.synthesise(self.mapping(z, psi, y))
