"""A projected critic: it looks at a picture only through a small frozen network of our own.

StyleGAN-XL and Projected GAN do this with networks trained on ImageNet. Here the frozen network is
a small classifier trained on CIFAR-10: it judges nothing in this book, and what judges is never
a loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES = (32, 16, 8, 4)  # pixels a side
WIDTHS = (32, 64, 96, 128)


class Features(nn.Module):
    """A classifier of ten classes. maps: images (B, 3, 32, 32) in [-1, 1] -> four maps, (B, 32,
    32, 32), …, (B, 128, 4, 4); forward: -> logits (B, 10).
    """

    def __init__(self, widths=WIDTHS, classes: int = 10):
        super().__init__()
        self.stages = nn.ModuleList()
        cin = 3
        for i, c in enumerate(widths):
            convs = []
            for width, stride in [(cin, 2), (c, 1)] if i else [(cin, 1)]:
                convs += [nn.Conv2d(width, c, 3, stride, 1, bias=False), nn.BatchNorm2d(c)]
                convs += [nn.ReLU()]
            self.stages.append(nn.Sequential(*convs))
            cin = c
        self.classes = nn.Linear(cin, classes)

    def maps(self, images: Tensor) -> list[Tensor]:
        out = [images]
        for stage in self.stages:
            out.append(stage(out[-1]))
        return out[1:]

    def forward(self, images: Tensor) -> Tensor:
        return self.classes(self.maps(images)[-1].mean((2, 3)))


def class_deviation(x: Tensor, y: Tensor) -> Tensor:
    """x (B, C, H, W) -> (B, C + 1, H, W): one more channel, the mean standard deviation over the
    images of the batch that share the label y (B,) < B; 0 for an image alone with its label.
    """
    n = y.bincount()[y][:, None]  # images with the label of each
    v = x.float().flatten(1)  # sums, not matrix products: those would run in bf16
    mean = lambda v: v.new_zeros(len(y), v.shape[1]).index_add(0, y, v)[y] / n  # noqa: E731
    spread = (mean((v - mean(v)).square()) + 1e-8).sqrt().mean(1).to(x)
    return torch.cat([x, spread[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


class Head(nn.Module):
    """Mixed features (B, c, h, h) -> logits (B, 1, 2, 2): strided convolutions to 4×4, one more, the
    deviation within each class as a channel, one more, then one number a place, with a projection
    on the class embedding.
    """

    def __init__(self, c: int, size: int, width: int, classes: int):
        super().__init__()
        halvings = (size // 4).bit_length() - 1
        body = []
        for kernel, stride in [(4, 2)] * halvings + [(3, 1)]:
            body += [nn.Conv2d(c, width, kernel, stride, 1, bias=False), nn.BatchNorm2d(width)]
            body += [nn.LeakyReLU(0.2)]
            c = width
        self.body = nn.Sequential(*body)
        self.last = nn.Conv2d(width + 1, width, 3, 1, 1)
        self.out = nn.Conv2d(width, 1, 3)
        self.embed = nn.Embedding(classes, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.leaky_relu(self.last(class_deviation(self.body(x), y)), 0.2)
        by_class = (self.embed(y)[:, :, None, None] * h).mean(1, keepdim=True)
        return self.out(h) + by_class[:, :, 1:-1, 1:-1]


class ProjectedCritic(nn.Module):
    """Critics on fixed random mixtures of frozen features. forward: images (B, 3, 32, 32) in
    [-1, 1], labels y (B,) -> logits (B, n), all places of all heads, high for real.

    Channels are mixed by random 1×1 convolutions, scales from coarse to fine. Unlike the published
    critic, a head also sees how much the images of a class differ: the frozen network is a
    classifier, to which they look alike. Source: Sauer et al. 2021, sections 3.2 and 3.3.
    """

    def __init__(self, features: Features, classes: int, width: int = 48):
        super().__init__()
        self.features = features.eval().requires_grad_(False)
        widths = [s[0].out_channels for s in features.stages]
        mix = {}
        for i, c in enumerate(widths):
            mix[f"channel{i}"] = nn.Conv2d(c, width, 1)
            mix[f"scale{i}"] = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.ModuleDict(mix).requires_grad_(False)
        for conv in self.mix.values():  # keeps the scale of the features
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
        self.heads = nn.ModuleList(Head(width, s, width, classes) for s in SIZES)

    def train(self, mode: bool = True):
        """The frozen network's statistics never move."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        maps = self.features.maps(images)
        mixed, coarse = [], None
        for i in reversed(range(len(maps))):
            x = self.mix[f"channel{i}"](maps[i])
            if coarse is not None:
                x = x + F.interpolate(coarse, scale_factor=2, mode="bilinear")
            coarse = self.mix[f"scale{i}"](x)
            mixed.insert(0, coarse)
        return torch.cat([h(x, y).flatten(1) for h, x in zip(self.heads, mixed, strict=True)], 1)
