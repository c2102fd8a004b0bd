"""D2C's autoencoder: cells of a deep hierarchical VAE, here without hierarchy and without sampling.

Written from a description of the architecture (Vahdat & Kautz 2020; Sinha et al. 2021); module
names are those of the official state dict. """

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIXTURES = 10
BRANCH = 0.1  # weight of a cell's branch beside its skip
BN = {"eps": 1e-5, "momentum": 0.05}


class NormConv2d(nn.Conv2d):
    """Convolution whose kernel is exp(log_weight_norm) · v / (‖v‖ + 1e-5), one norm per output
    channel.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        norm = self.weight.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        self.log_weight_norm = nn.Parameter((norm + 1e-2).log())

    def forward(self, x: Tensor) -> Tensor:
        norm = self.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        weight = self.log_weight_norm.exp() * self.weight / (norm + 1e-5)
        return self._conv_forward(x, weight, self.bias)


class SqueezeExcite(nn.Module):
    """Channel gates from the image mean; hidden width max(C / 16, 4)."""

    def __init__(self, c: int):
        super().__init__()
        hidden = max(c // 16, 4)
        self.se = nn.Sequential(nn.Linear(c, hidden), nn.ReLU(), nn.Linear(hidden, c), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x.mean((2, 3)))[:, :, None, None]


class BNSwish(nn.BatchNorm2d):
    """Batch norm, then x · sigmoid(x)."""

    def __init__(self, c: int):
        super().__init__(c, **BN)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class BNSwishConv(nn.Module):
    """BN, Swish, weight-normalised 3×3 convolution."""

    def __init__(self, cin: int, cout: int, stride: int = 1):
        super().__init__()
        self.bn_act = BNSwish(cin)
        self.conv_0 = NormConv2d(cin, cout, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_0(self.bn_act(x))


class PhaseSkip(nn.Module):
    """Halving skip: Swish, then a 1×1 convolution on each of the four pixel phases,
    concatenated.
    """

    def __init__(self, cin: int, cout: int):
        super().__init__()
        widths = [cout // 4] * 3 + [cout - 3 * (cout // 4)]
        for i, c in enumerate(widths, 1):
            self.add_module(f"conv_{i}", NormConv2d(cin, c, 1, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(x)
        phases = ((0, 0), (1, 1), (0, 1), (1, 0))  # (row, column)
        convs = self.conv_1, self.conv_2, self.conv_3, self.conv_4
        return torch.cat([f(x[:, :, r:, c:]) for f, (r, c) in zip(convs, phases, strict=True)], 1)


class EncoderCell(nn.Module):
    """skip + 0.1 · SE(conv(conv(x))); `down` halves the size and changes the width."""

    def __init__(self, cin: int, cout: int, down: bool = False):
        super().__init__()
        self._ops = nn.ModuleList(
            [BNSwishConv(cin, cout, 2 if down else 1), BNSwishConv(cout, cout)]
        )
        self.se = SqueezeExcite(cout)
        self.skip = PhaseSkip(cin, cout) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for op in self._ops:
            h = op(h)
        return self.skip(x) + BRANCH * self.se(h)


class _BN(nn.Module):
    """Batch norm under the name that the official state dict gives it."""

    def __init__(self, c: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(c, **BN)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x)


class _ConvBNSwish(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int, groups: int = 1):
        super().__init__()
        conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.conv = nn.Sequential(conv, BNSwish(cout))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class InvertedResidual(nn.Module):
    """[nearest ×2,] BN, expand 1×1, depthwise 5×5, 1×1, BN."""

    def __init__(self, cin: int, cout: int, expand: int, up: bool):
        super().__init__()
        hidden = cin * expand
        self.conv = nn.Sequential(
            *([nn.UpsamplingNearest2d(scale_factor=2)] if up else []),
            _BN(cin),
            _ConvBNSwish(cin, hidden, 1),
            _ConvBNSwish(hidden, hidden, 5, hidden),
            nn.Conv2d(hidden, cout, 1, bias=False),
            _BN(cout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class DecoderCell(nn.Module):
    """skip + 0.1 · SE(inverted residual); `up` doubles the size and changes the width."""

    def __init__(self, cin: int, cout: int, expand: int = 6, up: bool = False):
        super().__init__()
        self._ops = nn.ModuleList([InvertedResidual(cin, cout, expand, up)])
        self.se = SqueezeExcite(cout)
        bilinear = nn.UpsamplingBilinear2d(scale_factor=2)  # corners aligned
        conv = NormConv2d(cin, cout, 1, bias=False)
        self.skip = nn.Sequential(bilinear, conv) if up else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + BRANCH * self.se(self._ops[0](x))


def quantise(images: Tensor, bits: int = 5) -> Tensor:
    """Images in [-1, 1] on 2^bits levels, floor(255 u / 2^(8 − bits)) / (2^bits − 1), back in
    [-1, 1].

    D2C's preprocessing. It alone costs 38.3 dB for uniform values.
    """
    u = (images + 1) * 127.5 + 1e-4  # an 8-bit level may lie a rounding error below its integer
    return torch.floor(u / 2 ** (8 - bits)) / (2**bits - 1) * 2 - 1


class NVAE(nn.Module):
    """D2C's autoencoder: images (B, 3, H, W) in [-1, 1] <-> latents (B, latent, h, w).

    base: width of the stem. towers: cells of the encoder per size after the stem's own halving, at
    base·2, base·4, …; the decoder has two cells less at its smallest size. expand: widening of the
    decoder's cells, (tower, post-processing). Source: Sinha et al. 2021. Built in: exact_inversion.
    """

    def __init__(
        self,
        base: int = 24,
        latent: int = 8,
        towers: Sequence[int] = (16, 16, 16),
        decoder: Sequence[int] = (14, 16, 16),
        expand: tuple[int, int] = (6, 3),
    ):
        super().__init__()
        self.stem = NormConv2d(3, base, 3, padding=1)
        c = base * 2
        self.pre_process = nn.Sequential(EncoderCell(base, base), EncoderCell(base, c, down=True))
        cells = []
        for i, n in enumerate(towers):
            cells += [EncoderCell(c, c) for _ in range(n)]
            if i < len(towers) - 1:
                cells.append(EncoderCell(c, 2 * c, down=True))
                c *= 2
        self.enc_tower = nn.Sequential(*cells)
        self.enc0 = nn.Sequential(nn.ELU(), NormConv2d(c, c, 1), nn.ELU())
        self.enc_sampler = NormConv2d(c, latent, 3, padding=1)
        self.dec0 = NormConv2d(latent, c, 3, padding=1)
        cells = []
        for i, n in enumerate(decoder):
            cells += [DecoderCell(c, c, expand[0]) for _ in range(n)]
            if i < len(decoder) - 1:
                cells.append(DecoderCell(c, c // 2, expand[0], up=True))
                c //= 2
        self.dec_tower = nn.Sequential(*cells)
        self.post_process = nn.Sequential(
            DecoderCell(c, base, expand[1], up=True), DecoderCell(base, base, expand[1])
        )
        head = NormConv2d(base, 10 * MIXTURES, 3, padding=1)
        self.image_conditional = nn.Sequential(nn.ELU(), head)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, latent, h, w), deterministic; images in [-1, 1] (quantise them first)."""
        return self.enc_sampler(self.enc0(self.enc_tower(self.pre_process(self.stem(images)))))

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The pixel law at latents z: logits (B, K, H, W); means, log scales, coefficients (B, 3,
        K, H, W).
        """
        p = self.image_conditional(self.post_process(self.dec_tower(self.dec0(z))))
        B, _, H, W = p.shape
        means, log_scales, coefficients = p[:, MIXTURES:].reshape(B, 3, 3, MIXTURES, H, W).unbind(2)
        return p[:, :MIXTURES], means, log_scales.clamp_min(-7), coefficients.tanh()

    def decode(self, z: Tensor, how: str = "mean", seeds=None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1]. how: "mean" of the mixture's components, their "mode"
        (the likeliest component's mean), or "sample", the official decoder (needs seeds (B,)). """
        logits, means, log_scales, coefficients = self.parameters_of(z)
        if how == "mean":
            weights = logits.softmax(1)
            return (weights[:, None] * chain(means, coefficients)).sum(2)
        if how == "mode":
            pick = logits.argmax(1)
            noise = torch.zeros_like(means[:, :, 0])
        elif how == "sample":
            if seeds is None or len(seeds) != len(z):
                raise ValueError("a sampled decode needs one seed per image")
            u = torch.stack([_uniform(s, (MIXTURES + 3, *logits.shape[2:])) for s in seeds]).to(z)
            pick = (logits - (-u[:, :MIXTURES].log()).log()).argmax(1)
            noise = u[:, MIXTURES:].logit()
        else:
            raise ValueError(f"how must be 'mean', 'mode' or 'sample', got {how!r}")
        index = pick[:, None, None].expand(-1, 3, 1, -1, -1)
        mean, scale, coefficient = (
            v.gather(2, index) for v in (means, log_scales.exp(), coefficients)
        )
        return chain(mean + scale * noise[:, :, None], coefficient)[:, :, 0]


def chain(x: Tensor, coefficients: Tensor) -> Tensor:
    """Each channel's mean given the channels before it, clamped to [-1, 1]; x, coefficients (B, 3,
    K, H, W). Source: Salimans et al. 2017 (PixelCNN++).
    """
    a, b, c = coefficients.unbind(1)
    red = x[:, 0].clamp(-1, 1)
    green = (x[:, 1] + a * red).clamp(-1, 1)
    blue = (x[:, 2] + b * red + c * green).clamp(-1, 1)
    return torch.stack([red, green, blue], 1)


def _uniform(seed: int, shape) -> Tensor:
    from ..code import generator

    return torch.rand(shape, generator=generator(int(seed), "ancestral")).clamp(1e-5, 1 - 1e-5)


def nll(net: NVAE, z: Tensor, images: Tensor, bits: int = 5) -> Tensor:
    """Negative log-likelihood in nats per value, (B,), of quantised images (B, 3, H, W) in [-1, 1].

    Discretised mixture of logistics; the outer levels take the tails. Source: Salimans et al. 2017.
    """
    logits, means, log_scales, coefficients = net.parameters_of(z)
    x, (a, b, c) = images[:, :, None], coefficients.unbind(1)
    means = torch.stack(
        [means[:, 0], means[:, 1] + a * x[:, 0], means[:, 2] + b * x[:, 0] + c * x[:, 1]], 1
    )
    half, inverse = 1 / (2**bits - 1), torch.exp(-log_scales)
    upper, lower = (x - means + half) * inverse, (x - means - half) * inverse
    middle = (upper.sigmoid() - lower.sigmoid()).clamp_min(1e-10).log()
    log_p = torch.where(x < -0.999, F.logsigmoid(upper), middle)
    log_p = torch.where(x > 0.999, F.logsigmoid(-lower), log_p)
    log_p = torch.logsumexp(log_p.sum(1) + logits.log_softmax(1), 1)  # (B, H, W)
    return -log_p.flatten(1).mean(1) / 3
