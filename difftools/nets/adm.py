"""The OpenAI/ADM U-Net, natively in its checkpoints' names: DiffAE, LDM, iDDPM and ADM in one
class.

Module names are those of the official state dicts, so that loading needs no key mapping beyond a
prefix. What differs between the systems is an argument: FiLM or additive time embedding, resampling
inside a residual block or by a convolution, head count or head width, and DiffAE's second scale.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PERIOD = 10_000


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (B, width) of times t (B,): cosines first, then sines.

    Frequencies 10000^(−i / half), i < half: the denominator is half, not half − 1 as in the Ho
    dialect. Source: Dhariwal & Nichol 2021.
    """
    half = width // 2
    freq = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=t.device) / half)
    angle = t.float()[:, None] * freq
    return F.pad(torch.cat([angle.cos(), angle.sin()], 1), (0, width % 2))


class ResBlock(nn.Module):
    """Residual block: norm, SiLU, conv, then (time and condition), norm, SiLU, conv; plus a skip.

    embed: width of the time embedding, None for DiffAE's encoder, whose blocks end after the first
    convolution. cond: width of DiffAE's semantic code, a scale without shift, after the time's
    FiLM. resample: None, "up" (nearest) or "down" (average pool), inside the block. """

    def __init__(self, cin, cout, embed, film=True, cond=None, resample=None, groups=32):
        super().__init__()
        self.film, self.resample = film, resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1)
        )
        if embed:
            width = 2 * cout if film else cout
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embed, width))
            if cond:
                self.cond_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(cond, cout))
            last = nn.Conv2d(cout, cout, 3, padding=1)
            nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
            self.out_layers = nn.Sequential(
                nn.GroupNorm(groups, cout), nn.SiLU(), nn.Identity(), last
            )
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, emb: Tensor | None, z: Tensor | None = None) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resample == "up":
            h, x = (F.interpolate(v, scale_factor=2.0, mode="nearest") for v in (h, x))
        h = self.in_layers[2](h)
        if hasattr(self, "emb_layers"):
            norm, *rest = self.out_layers
            e = self.emb_layers(emb)[:, :, None, None]
            if self.film:
                scale, shift = e.chunk(2, 1)
                h = norm(h) * (1 + scale) + shift
            else:
                h = norm(h + e)
            if hasattr(self, "cond_emb_layers"):
                h = h * (1 + self.cond_emb_layers(z)[:, :, None, None])
            for layer in rest:
                h = layer(h)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    """Self-attention over pixels. The legacy order keeps [q | k | v] per head, the new order all q,
    all k, all v.
    """

    def __init__(self, channels: int, heads: int, new_order: bool = False, groups: int = 32):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight), nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, *_) -> Tensor:
        B, C, H, W = x.shape
        h = self.qkv(self.norm(x).reshape(B, C, H * W))
        order = (B, 3, self.heads, -1, H * W) if self.new_order else (B, self.heads, 3, -1, H * W)
        q, k, v = h.reshape(order).unbind(1 if self.new_order else 2)
        h = F.scaled_dot_product_attention(*(u.transpose(-1, -2) for u in (q, k, v)))
        return x + self.proj_out(h.transpose(-1, -2).reshape(B, C, H * W)).reshape(x.shape)


class Downsample(nn.Module):
    """Strided 3×3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, *_) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, *_) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stack(nn.Sequential):
    """A sequence whose residual blocks also get the time embedding and the semantic code."""

    def forward(self, x: Tensor, emb: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb, z)
        return x


class HalfUNet(nn.Module):
    """The way down of a U-Net and its middle; alone, with `out`, DiffAE's semantic encoder.

    forward: images (B, in_channels, size, size) -> code (B, out) for `out` > 0. attention: the
    resolutions (pixels, not downsampling factors) that carry self-attention besides the middle.
    """

    def __init__(
        self,
        size: int,
        base: int,
        mult: tuple[float, ...],
        blocks: int = 2,
        attention: tuple[int, ...] = (16,),
        in_channels: int = 3,
        heads: int = 1,
        head_width: int | None = None,
        film: bool = True,
        resample_in_block: bool = True,
        new_order: bool = False,
        groups: int = 32,
        embed: int | None = None,
        cond: int | None = None,
        out: int = 0,
    ):
        super().__init__()
        self._res = partial(ResBlock, embed=embed, film=film, cond=cond, groups=groups)
        self._heads = (heads, head_width, new_order, groups)
        c = int(base * mult[0])
        self.input_blocks = nn.ModuleList([Stack(nn.Conv2d(in_channels, c, 3, padding=1))])
        self._skips = [c]
        for level, m in enumerate(mult):
            for _ in range(blocks):
                layers, c = [self._res(c, int(base * m))], int(base * m)
                self.input_blocks.append(
                    Stack(*layers, *([self._attend(c)] if size in attention else []))
                )
                self._skips.append(c)
            if level < len(mult) - 1:
                down = self._res(c, c, resample="down") if resample_in_block else Downsample(c)
                self.input_blocks.append(Stack(down))
                self._skips.append(c)
                size //= 2
        self.middle_block = Stack(self._res(c, c), self._attend(c), self._res(c, c))
        self._width, self._size = c, size
        if out:
            head = nn.Conv2d(c, out, 1)
            self.out = nn.Sequential(
                nn.GroupNorm(groups, c), nn.SiLU(), nn.AdaptiveAvgPool2d(1), head, nn.Flatten()
            )

    def _attend(self, c: int) -> Attention:
        heads, head_width, new_order, groups = self._heads
        return Attention(c, c // head_width if head_width else heads, new_order, groups)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.input_blocks:
            x = block(x)
        return self.out(self.middle_block(x))


class UNet(HalfUNet):
    """ADM U-Net. forward: x (B, in_channels, size, size), t (B,), z (B, cond) or None -> (B,
    out_channels, size, size).

    embed: width of the time embedding, 4·base unless given. cond: width of DiffAE's semantic code.
    nested_time: DiffAE's name for its time network. Source: Dhariwal & Nichol 2021; Preechakul et
    al. 2022 for `cond`; Rombach et al. 2022 for film=False. Built in: exact_inversion.
    """

    def __init__(
        self,
        size: int,
        base: int,
        mult: tuple[float, ...],
        blocks: int = 2,
        attention: tuple[int, ...] = (16,),
        in_channels: int = 3,
        out_channels: int = 3,
        embed: int | None = None,
        resample_in_block: bool = True,
        nested_time: bool = False,
        **options,
    ):
        embed = embed or 4 * base
        super().__init__(
            size,
            base,
            mult,
            blocks,
            attention,
            in_channels,
            resample_in_block=resample_in_block,
            embed=embed,
            **options,
        )
        self.base = base
        time = nn.Sequential(nn.Linear(base, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.time_embed = nn.Sequential(OrderedDict(time_embed=time)) if nested_time else time
        c, size, skips = self._width, self._size, list(self._skips)
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(mult))):
            for i in range(blocks + 1):
                layers, c = [self._res(c + skips.pop(), int(base * m))], int(base * m)
                if size in attention:
                    layers.append(self._attend(c))
                if level and i == blocks:
                    layers.append(
                        self._res(c, c, resample="up") if resample_in_block else Upsample(c)
                    )
                    size *= 2
                self.output_blocks.append(Stack(*layers))
        last = nn.Conv2d(c, out_channels, 3, padding=1)
        nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
        self.out = nn.Sequential(nn.GroupNorm(options.get("groups", 32), c), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        emb = self.time_embed(timestep_embedding(t, self.base).to(x.dtype))
        skips = []
        for block in self.input_blocks:
            skips.append(x := block(x, emb, z))
        x = self.middle_block(x, emb, z)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], 1), emb, z)
        return self.out(x)


class LatentMLP(nn.Module):
    """DiffAE's denoiser over the semantic code: an MLP that sees its input again in every layer.

    forward: z (B, width), t (B,) -> eps (B, width). Each hidden layer is linear, times (1 + time),
    LayerNorm, SiLU; the last is linear. Source: Preechakul et al. 2022, appendix A.
    """

    def __init__(self, width=512, hidden=2048, layers=10, time=64):
        super().__init__()
        self.time = time
        self.time_embed = nn.Sequential(nn.Linear(time, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList()
        for i in range(layers):
            cin = width if i == 0 else hidden + width
            last = i == layers - 1
            layer = {"linear": nn.Linear(cin, width if last else hidden)}
            if not last:
                layer |= {"linear_emb": nn.Linear(width, hidden), "norm": nn.LayerNorm(hidden)}
            self.layers.append(nn.ModuleDict(layer))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        time = F.silu(self.time_embed(timestep_embedding(t, self.time).to(z.dtype)))
        h = z
        for i, layer in enumerate(self.layers):
            h = layer["linear"](h if i == 0 else torch.cat([h, z], 1))
            if "norm" in layer:
                h = F.silu(layer["norm"](h * (1 + layer["linear_emb"](time))))
        return h


class DiffAE(UNet):
    """DiffAE's network: a U-Net conditioned on `cond` numbers and the encoder that reads them off
    an image.

    encoder: options of `HalfUNet` for the encoder, its `out` is `cond`. Source: Preechakul et al.
    2022. Built in: exact_inversion.
    """

    def __init__(self, size: int, base: int, mult, cond: int, encoder: dict, **options):
        super().__init__(size, base, mult, cond=cond, nested_time=True, **options)
        shared = {"groups": options.get("groups", 32)}
        self.encoder = HalfUNet(size, out=cond, **shared | encoder)
