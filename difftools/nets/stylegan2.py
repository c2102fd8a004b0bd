"""StyleGAN2, generator and discriminator, natively in the names of NVIDIA's PyTorch state dicts.

Written from a description of the architecture (Karras et al. 2020). Plain PyTorch: no compiled op,
no grouped convolution per sample. An official network and the small sibling are configurations of
one class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import code

EPS = 1e-8
TAPS = (1.0, 3.0, 3.0, 1.0)


def low_pass() -> Tensor:
    """The binomial filter (4, 4), [1 3 3 1] ⊗ [1 3 3 1] / 64; its sum is 1."""
    taps = torch.tensor(TAPS)
    return torch.outer(taps, taps) / sum(TAPS) ** 2


def blur(x: Tensor, kernel: Tensor, pad: int, stride: int = 1) -> Tensor:
    """Convolution of every channel of x (B, C, H, W) with one kernel (4, 4)."""
    c = x.shape[1]
    taps = kernel.to(x.dtype).flip(0, 1).expand(c, 1, 4, 4)
    return F.conv2d(x, taps, stride=stride, padding=pad, groups=c)


def doubled(x: Tensor, kernel: Tensor) -> Tensor:
    """x (B, C, H, W) -> (B, C, 2H, 2W): zeros between the pixels, then the kernel (4, 4) at gain 4.

    The gain gives back the mean that three zeros of four pixels take.
    """
    c = x.shape[1]
    taps = 4 * kernel.to(x.dtype).expand(c, 1, 4, 4)
    return F.conv_transpose2d(x, taps, stride=2, padding=1, groups=c)


def activate(x: Tensor, gain: float = math.sqrt(2), clamp: float | None = None) -> Tensor:
    """Leaky ReLU (0.2) times √2, which keeps the second moment; clamped as fp16 training needs."""
    x = F.leaky_relu(x, 0.2) * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


class Dense(nn.Module):
    """Linear layer at equalised learning rate: the stored weight has unit variance, the gain
    lr / √cin is applied when it is used. forward: (B, cin) -> (B, cout).
    """

    def __init__(self, cin: int, cout: int, lr: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.lr, self.gain = lr, lr / math.sqrt(cin)
        self.weight = nn.Parameter(torch.randn(cout, cin) / lr)
        self.bias = nn.Parameter(torch.full((cout,), bias))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias * self.lr)


def unit(x: Tensor) -> Tensor:
    """x (B, k) at unit second moment."""
    return x * (x.square().mean(1, keepdim=True) + EPS).rsqrt()


class Mapping(nn.Module):
    """z (B, z) -> w (B, w): normalised to unit second moment, then `layers` dense layers.

    psi: truncation, w_avg + psi (w − w_avg). classes: a label y (B,), or weights over the labels
    (B, classes), is embedded, normalised and set beside z. Source: Karras et al. 2019, sections 2
    and 4; Karras et al. 2020 (ADA) for the labels.
    """

    def __init__(
        self, z: int = 512, w: int = 512, layers: int = 8, lr: float = 0.01, classes: int = 0
    ):
        super().__init__()
        if classes:
            self.embed = Dense(classes, w)
        for i in range(layers):
            cin = z + (w if classes else 0) if i == 0 else w
            self.add_module(f"fc{i}", Dense(cin, w, lr))
        self.layers, self.classes = layers, classes
        self.register_buffer("w_avg", torch.zeros(w))

    def forward(self, z: Tensor, psi: float = 1.0, y: Tensor | None = None) -> Tensor:
        if (y is None) == bool(self.classes):
            raise ValueError(f"a mapping of {self.classes} classes was given labels {y}")
        x = unit(z)
        if y is not None:
            y = y if y.is_floating_point() else F.one_hot(y, self.classes).to(z)
            x = torch.cat([x, unit(self.embed(y))], 1)
        for i in range(self.layers):
            x = activate(getattr(self, f"fc{i}")(x))
        return x if psi == 1 else torch.lerp(self.w_avg, x, psi)

    @torch.no_grad()
    def track(self, w: Tensor, beta: float = 0.995) -> None:
        """Move `w_avg` towards the mean of w (B, w); the training loop calls it."""
        self.w_avg.lerp_(w.mean(0), 1 - beta)


class StyledConv(nn.Module):
    """Modulated, demodulated 3×3 convolution; noise, bias, leaky ReLU. `up` doubles the size.

    forward: x (B, cin, h, h), w (B, w), noise (1 or B, 1, size, size), the stored map if None ->
    (B, cout, size, size). Scaling the weights per sample, W s, equals scaling the activations by
    s, convolving once with W, and scaling by the demodulation: no weight per sample is built.
    Source: Karras et al. 2020, section 2 and equations 1-3.
    """

    def __init__(self, cin: int, cout: int, w: int, size: int, up: bool, clamp: float | None):
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = Dense(w, cin, bias=1.0)
        self.weight = nn.Parameter(torch.randn(cout, cin, 3, 3))
        self.bias = nn.Parameter(torch.zeros(cout))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.register_buffer("resample_filter", low_pass())

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        s = self.affine(w)  # (B, cin)
        power = self.weight.square().sum((2, 3))  # (cout, cin)
        demodulate = (s.square() @ power.T + EPS).rsqrt()  # (B, cout)
        x = x * s[:, :, None, None]
        if self.up:  # gives 2h + 1 pixels, of which the filter leaves 2h
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = blur(x, 4 * self.resample_filter, pad=1)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        noise = self.noise_const if noise is None else noise
        x = x * demodulate[:, :, None, None] + noise * self.noise_strength
        return activate(x + self.bias[:, None, None], clamp=self.clamp)


class ToRGB(nn.Module):
    """Modulated 1×1 convolution without demodulation, styles over √cin; bias, no activation."""

    def __init__(self, cin: int, w: int, clamp: float | None):
        super().__init__()
        self.gain, self.clamp = 1 / math.sqrt(cin), clamp
        self.affine = Dense(w, cin, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, cin, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.affine(w) * self.gain
        x = F.conv2d(x * s[:, :, None, None], self.weight, self.bias)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """One resolution: (doubling convolution,) convolution, and its share of the picture.

    cin: 0 for the 4×4 block, which starts from a learned constant.
    """

    def __init__(self, cin: int, cout: int, w: int, size: int, clamp: float | None):
        super().__init__()
        if cin:
            self.conv0 = StyledConv(cin, cout, w, size, True, clamp)
        else:
            self.const = nn.Parameter(torch.randn(cout, size, size))
        self.conv1 = StyledConv(cout, cout, w, size, False, clamp)
        self.torgb = ToRGB(cout, w, clamp)
        self.register_buffer("resample_filter", low_pass())


class Synthesis(nn.Module):
    """w+ (B, num_ws, w) -> images (B, 3, size, size), about [-1, 1], not clamped.

    Rows of w+: 4×4 takes rows 0 and 1 (colour); block j takes 2j − 1, 2j and, for its colour,
    2j + 1, which is also the first of the next block. activations: a list that receives what each
    of `convs` gives, (B, C, r, r).
    """

    def __init__(self, channels: Sequence[int], w: int = 512, clamp: float | None = None):
        super().__init__()
        self.sizes = [4 * 2**i for i in range(len(channels))]
        for cin, cout, size in zip((0, *channels), channels, self.sizes, strict=False):
            self.add_module(f"b{size}", Block(cin, cout, w, size, clamp))

    def convs(self) -> list[StyledConv]:
        """The layers that take noise, in order."""
        blocks = [getattr(self, f"b{size}") for size in self.sizes]
        pairs = [(getattr(b, "conv0", None), b.conv1) for b in blocks]
        return [conv for pair in pairs for conv in pair if conv is not None]

    def forward(
        self,
        ws: Tensor,
        noise: Sequence[Tensor | None],
        content: Tensor | None,
        activations: list[Tensor] | None = None,
    ) -> Tensor:
        maps, image = iter(noise), None
        keep = (lambda x: None) if activations is None else activations.append
        for j, size in enumerate(self.sizes):
            b = getattr(self, f"b{size}")
            if j == 0:
                x = (b.const[None] if content is None else content).expand(len(ws), -1, -1, -1)
            else:
                x = b.conv0(x, ws[:, 2 * j - 1], next(maps))
                keep(x)
            x = b.conv1(x, ws[:, 2 * j], next(maps))
            keep(x)
            rgb = b.torgb(x, ws[:, 2 * j + 1])
            image = rgb if image is None else doubled(image, b.resample_filter) + rgb
        return image


class StyleGAN2(nn.Module):
    """The generator. forward: z (B, z) ~ N(0, I) -> images (B, 3, size, size), about [-1, 1].

    channels: widths at 4, 8, …, size. z, w, layers, lr: of the mapping network. clamp: bound on
    activations that networks trained in fp16 carry. classes: of a conditional network, whose
    forward takes labels y (B,). Skip architecture.
    Source: Karras et al. 2020. Built in: inversion_tables.
    """

    def __init__(
        self,
        channels: Sequence[int],
        z: int = 512,
        w: int = 512,
        layers: int = 8,
        lr: float = 0.01,
        clamp: float | None = None,
        classes: int = 0,
    ):
        super().__init__()
        self.mapping = Mapping(z, w, layers, lr, classes)
        self.synthesis = Synthesis(channels, w, clamp)
        self.z, self.w, self.classes, self.size = z, w, classes, self.synthesis.sizes[-1]
        self.num_ws = 2 * len(channels)
        self.content_shape = (channels[0], 4, 4)
        self.noise_shapes = [(1, *c.noise_const.shape) for c in self.synthesis.convs()]

    def w_plus(self, w: Tensor) -> Tensor:
        """w (B, w) -> w+ (B, num_ws, w), one row per layer; w+ stays as it is."""
        return w[:, None].expand(-1, self.num_ws, -1) if w.ndim == 2 else w

    def constants(self) -> list[Tensor]:
        """The stored noise maps, a copy of each, (1, 1, r, r)."""
        return [c.noise_const.detach().clone()[None, None] for c in self.synthesis.convs()]

    def noise(self, seeds: Sequence[int]) -> list[Tensor]:
        """Noise maps (len(seeds), 1, r, r), N(0, 1), each sample's from its own seed."""
        counts = [math.prod(s) for s in self.noise_shapes]
        drawn = code.noise(seeds, (sum(counts),), "ancestral").to(self.mapping.w_avg)
        maps = zip(drawn.split(counts, 1), self.noise_shapes, strict=True)
        return [v.reshape(len(v), *s) for v, s in maps]

    def synthesise(
        self,
        w: Tensor,
        noise: Sequence[Tensor | None] | None = None,
        content: Tensor | None = None,
        activations: list[Tensor] | None = None,
    ) -> Tensor:
        """Images of w (B, w) or w+ (B, num_ws, w).

        noise: one map (1 or B, 1, r, r) per layer, None for the stored one; zeros switch it off.
        content: (1 or B, C, 4, 4) in place of the learned constant. activations: a list that
        receives the output (B, C, r, r) of each layer that takes noise. Raises ValueError on a
        wrong shape.
        """
        ws = self.w_plus(w)
        noise = [None] * len(self.noise_shapes) if noise is None else list(noise)
        if ws.shape[1:] != (self.num_ws, self.w):
            given, rows = tuple(w.shape), (self.num_ws, self.w)
            raise ValueError(f"given w {given}, expected (B, {self.w}) or (B, {rows})")
        if len(noise) != len(self.noise_shapes):
            raise ValueError(f"given {len(noise)} noise maps, expected {len(self.noise_shapes)}")
        for i, (v, s) in enumerate(zip(noise, self.noise_shapes, strict=True)):
            if v is not None and (v.shape[1:] != s or len(v) not in (1, len(ws))):
                raise ValueError(f"noise map {i} is {tuple(v.shape)}, expected (1 or B, {s})")
        if content is not None and content.shape[1:] != self.content_shape:
            got = tuple(content.shape)
            raise ValueError(f"given content {got}, expected (1 or B, {self.content_shape})")
        return self.synthesis(ws, noise, content, activations)

    def forward(
        self,
        z: Tensor,
        psi: float = 1.0,
        noise: Sequence[Tensor | None] | None = None,
        content: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        return self.synthesise(self.mapping(z, psi, y), noise, content)


class Conv(nn.Module):
    """Convolution at equalised learning rate; `down` filters, then strides by 2."""

    def __init__(self, cin, cout, kernel, down=False, bias=True, clamp=None):
        super().__init__()
        self.gain, self.down, self.clamp = 1 / math.sqrt(cin * kernel**2), down, clamp
        self.weight = nn.Parameter(torch.randn(cout, cin, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(cout)) if bias else None
        self.register_buffer("resample_filter", low_pass())

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """gain: of the branch, applied to the activation and to its clamp."""
        k, weight = self.weight.shape[-1], self.weight * self.gain
        if self.down and k == 1:  # the filter may stride itself: the convolution sees a pixel each
            x = F.conv2d(blur(x, self.resample_filter, 1, stride=2), weight)
        elif self.down:
            x = F.conv2d(blur(x, self.resample_filter, 2), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=k // 2)
        if self.bias is None:  # a skip: no activation either
            return x * gain
        clamp = None if self.clamp is None else self.clamp * gain
        return activate(x + self.bias[:, None, None], math.sqrt(2) * gain, clamp)


class CriticBlock(nn.Module):
    """(branch + skip) / √2 at half the size; the first block reads the picture."""

    def __init__(self, cin: int, cout: int, first: bool, clamp: float | None):
        super().__init__()
        if first:
            self.fromrgb = Conv(3, cin, 1, clamp=clamp)
        self.conv0 = Conv(cin, cin, 3, clamp=clamp)
        self.conv1 = Conv(cin, cout, 3, down=True, clamp=clamp)
        self.skip = Conv(cin, cout, 1, down=True, bias=False)
        self.register_buffer("resample_filter", low_pass())

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        gain = math.sqrt(0.5)
        return self.skip(x, gain) + self.conv1(self.conv0(x), gain)


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """x (B, C, H, W) -> (B, C + 1, H, W): one more channel, the mean standard deviation over a
    group. Sample i shares a group with i + B/group, i + 2B/group, …

    A batch smaller than a group is one group. Raises ValueError if groups do not fill the batch.
    """
    B, _, H, W = x.shape
    g = min(group, B)
    if B % g:
        raise ValueError(f"given a batch of {B}, expected a multiple of the group of {g}")
    spread = x.reshape(g, B // g, *x.shape[1:]).var(0, unbiased=False)  # (B/g, C, H, W)
    spread = (spread + EPS).sqrt().mean((1, 2, 3))
    return torch.cat([x, spread.repeat(g)[:, None, None, None].expand(B, 1, H, W)], 1)


class CriticHead(nn.Module):
    """4×4 features -> one number: deviation channel, 3×3 convolution, then two dense layers
    ("flat") or one on the sum over positions ("sum", for small critics).
    """

    def __init__(self, c: int, head: str, group: int, clamp: float | None):
        super().__init__()
        self.group = group
        self.conv = Conv(c + 1, c, 3, clamp=clamp)
        if head == "flat":
            self.fc = Dense(16 * c, c)
        self.out = Dense(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(minibatch_deviation(x, self.group))
        x = activate(self.fc(x.flatten(1))) if hasattr(self, "fc") else x.sum((2, 3))
        return self.out(x)


class Discriminator(nn.Module):
    """The critic. forward: images (B, 3, size, size) in [-1, 1] -> logits (B, 1), high for real.

    channels: widths at 4, 8, …, size, as the generator's. head: "flat" as published, or "sum".
    group: of the minibatch deviation. Residual architecture, unconditional.
    Source: Karras et al. 2020; Karras et al. 2018 for the deviation. Built in: few_shot.
    """

    def __init__(
        self,
        channels: Sequence[int],
        head: str = "flat",
        group: int = 4,
        clamp: float | None = None,
    ):
        super().__init__()
        if head not in ("flat", "sum"):
            raise ValueError(f"head must be 'flat' or 'sum', got {head!r}")
        self.sizes = [4 * 2**i for i in range(len(channels))][::-1]
        down = list(channels)[::-1]
        for i, size in enumerate(self.sizes[:-1]):
            self.add_module(f"b{size}", CriticBlock(down[i], down[i + 1], i == 0, clamp))
        self.b4 = CriticHead(channels[0], head, group, clamp)

    def features(self, images: Tensor, last: int = 4) -> list[Tensor]:
        """What each block gives, from large to small: (B, C, size / 2, size / 2), …, (B, C, last,
        last).

        A patch critic or a feature loss reads them.
        """
        out = [images]
        for size in self.sizes[: self.sizes.index(last)]:
            out.append(getattr(self, f"b{size}")(out[-1]))
        return out[1:]

    def forward(self, images: Tensor) -> Tensor:
        return self.b4(self.features(images)[-1])
