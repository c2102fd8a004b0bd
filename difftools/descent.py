"""Manipulations that are found: descend a loss of the decoded picture, on the sphere of latents.

R finds the target of a manipulation by gradient descent and calls the manipulation linear if the
great circle to it grades it steadily. Here the descent walks on the sphere of its start, so that
its path and the great circle between its ends can be compared. Built in: parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from . import images, sphere, zoo
from .code import Code
from .diffusion.denoiser import Denoiser
from .diffusion.model import PixelDiffusion

Loss = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> (B,)
MOST = 0.15  # rad, longest step


@dataclass
class Traced(Denoiser):
    """A denoiser that keeps its graph: the same numbers, with gradients."""

    x0_eps = Denoiser.x0_eps.__wrapped__


def traced(model: PixelDiffusion) -> PixelDiffusion:
    """The model with a decoder that gradients pass through; its weights stay frozen."""
    d = model.denoiser
    open_ = Traced(**{f.name: getattr(d, f.name) for f in fields(Denoiser)})
    return model.with_(denoiser=open_)


@dataclass(frozen=True)
class Path:
    """A descent of B images on the sphere. z: (steps + 1, B, ...); loss: (steps + 1, B)."""

    z: Tensor
    loss: Tensor

    @property
    def length(self) -> Tensor:
        """Length of the path on the sphere, (B,), rad."""
        return torch.stack([sphere.angle(a, b) for a, b in zip(self.z, self.z[1:])]).sum(0)

    @property
    def straightness(self) -> Tensor:
        """Arc between the ends over the length of the path, (B,): 1 is a great circle."""
        return sphere.angle(self.z[0], self.z[-1]) / self.length

    @property
    def detour(self) -> Tensor:
        """Largest distance of the path from the great circle through its ends, over the arc
        between them, (B,).
        """
        a = sphere.project(self.z[0], 1.0).flatten(1)
        b = sphere.project(self.z[-1], 1.0).flatten(1)
        b = sphere.project(b - (a * b).sum(1, keepdim=True) * a, 1.0)
        u = torch.stack([sphere.project(v, 1.0).flatten(1) for v in self.z])  # (S, B, d)
        inside = (u * a).sum(2).square() + (u * b).sum(2).square()
        off = torch.arccos(inside.clamp(0, 1).sqrt()).max(0).values
        return off / sphere.angle(self.z[0], self.z[-1])


def descend(decode: Callable[[Tensor], Tensor], z: Tensor, loss: Loss, steps: int = 40) -> Path:
    """Gradient descent from latents z (B, ...), each on the sphere of its own norm.

    Polyak's step, loss over squared gradient, towards a loss of 0; halved after a step that made
    things worse, 0.15 rad at most. A path ends at its lowest loss. decode: latents -> images with
    gradients. Raises FloatingPointError when a loss is not finite. Source: Polyak 1969. Built in:
    parallelism.
    """
    if steps < 1:
        raise ValueError(f"given {steps} steps, expected 1 or more")
    radius = sphere.norm(z)
    wide = lambda v: v.view(-1, *[1] * (z.ndim - 1))  # noqa: E731
    path, values, damp = [], [], torch.ones_like(radius)
    for _ in range(steps + 1):
        at = z.detach().requires_grad_()
        value = loss(decode(at))
        if not bool(value.isfinite().all()):
            raise FloatingPointError("a loss is not finite: the descent left what the model knows")
        (g,) = torch.autograd.grad(value.sum(), at)
        path.append(at.detach())
        values.append(value.detach().to(z.dtype))
        if len(values) > 1:
            damp = torch.where(values[-1] > values[-2], damp / 2, damp)
        g = g - wide((g * at).flatten(1).sum(1) / radius**2) * at  # tangent to the sphere
        size = sphere.norm(g).clamp_min(1e-30)
        arc = (damp * values[-1] / size / radius).clamp_max(MOST).detach()
        z = (wide(arc.cos()) * at - wide(arc.sin() * radius / size) * g).detach()
    return _until_best(torch.stack(path), torch.stack(values))


def _until_best(z: Tensor, loss: Tensor) -> Path:
    """Each image stays where its loss was lowest."""
    best = loss.argmin(0)
    step = torch.arange(len(loss))[:, None].minimum(best)  # (S, B)
    at = torch.arange(loss.shape[1])[None]
    return Path(z[step, at], loss[step, at])


def gradation(decode: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, seen: Loss,
              points: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """The property `seen` at equal steps along the great circle from latents a to b, and its rank
    correlation with the position: (points, B) and (B,).
    """
    u = np.linspace(0, 1, points)
    with torch.no_grad():
        value = torch.stack([seen(decode(sphere.slerp(a, b, float(v)))) for v in u])
    value = value.double().numpy()
    return value, rank_correlation(value)


def rank_correlation(value: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each column of (points, B) with the row's number, (B,); 0 of a
    column that never changes. A step function has √3/2 = 0.866 at most.
    """
    position = np.arange(len(value))
    return np.array([stats.spearmanr(position, v).statistic if np.ptp(v) > 0 else 0.0
                     for v in value.T])


# The kinds of manipulation: a loss, and a property to be graded


def shift(x: Tensor, pixels: int) -> Tensor:
    """Pictures moved to the right, the left edge repeated."""
    if not 0 <= pixels < x.shape[-1]:
        raise ValueError(f"given a shift of {pixels} px, expected 0 to {x.shape[-1] - 1}")
    return F.pad(x, (pixels, 0, 0, 0), mode="replicate")[..., : x.shape[-1]] if pixels else x


@dataclass(frozen=True)
class Kind:
    """A manipulation of pictures x (B, 3, H, W): loss to descend, property to grade, and the
    value of the property that is half of the target, (B,).
    """

    loss: Loss
    seen: Loss
    half: Tensor

    def reached(self, x: Tensor) -> Tensor:
        """Whether pictures have half of the target at least, (B,)."""
        return self.seen(x) >= self.half


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


def colour(x: Tensor, other: Tensor | None = None) -> Kind:
    """Low-level: take the colour out, keep the light."""
    grey = images.grayscale(x)
    chroma = lambda v: _mse(v, images.grayscale(v))  # noqa: E731
    seen = lambda v: -chroma(v).sqrt()  # noqa: E731
    return Kind(lambda v: chroma(v) + _mse(images.grayscale(v), grey), seen, seen(x) / 2)


TARGET, MARGIN, KEEP = 5, 2.0, 0.05  # class "dog" of CIFAR-10; logits; weight of staying alike
IDENTITY = 0.1  # weight of staying the same to the classifier's features


def _small(x: Tensor) -> Tensor:
    """Pictures for the classifier, brought to 32 px."""
    return (x if x.shape[-1] == 32 else F.interpolate(x, size=(32, 32), mode="area")).float()


def _margin(x: Tensor) -> Tensor:
    """Logit of the target class less the largest other, (B,)."""
    logits = zoo.classifier()(_small(x)).to(x.dtype)
    others = torch.cat([logits[:, :TARGET], logits[:, TARGET + 1 :]], 1)
    return logits[:, TARGET] - others.amax(1)


def semantic(x: Tensor, other: Tensor | None = None) -> Kind:
    """Semantic: a small classifier, which never judges, shall see a dog; the picture stays near."""
    loss = lambda v: F.relu(MARGIN - _margin(v)) + KEEP * _mse(v, x)  # noqa: E731
    return Kind(loss, _margin, torch.zeros(len(x)))


def _features(x: Tensor) -> Tensor:
    """What the classifier sees of a picture, wherever it stands: the means of its last maps."""
    return zoo.classifier().maps(_small(x))[-1].mean((2, 3)).to(x.dtype)


def identity(x: Tensor) -> Loss:
    """1 − cosine of the features of a picture and of x: small for the same subject elsewhere."""
    whose = _features(x)
    return lambda v: 1 - F.cosine_similarity(_features(v), whose)


def geometric(x: Tensor, other: Tensor | None = None) -> Kind:
    """Geometric: a quarter of the width to the right. Alignment to the warped picture, in blocks
    of 2 × 2 and in pixels, and identity: a classifier's features stay those of x. Graded by the
    shift that explains the picture best.
    """
    most = x.shape[-1] // 4
    bank = [shift(x, k) for k in range(most + 1)]
    low, same = lambda v: images.downsample(v, 2), identity(x)  # noqa: E731
    align = lambda v: _mse(low(v), low(bank[-1])) + 0.25 * _mse(v, bank[-1])  # noqa: E731
    seen = lambda v: torch.stack([_mse(v, b) for b in bank]).argmin(0).double()  # noqa: E731
    return Kind(lambda v: align(v) + IDENTITY * same(v), seen, torch.full((len(x),), most / 2))


def random_target(x: Tensor, other: Tensor) -> Kind:
    """The null: towards another picture, which no manipulation leads to."""
    seen = lambda v: _mse(v, x) - _mse(v, other)  # noqa: E731
    return Kind(lambda v: _mse(v, other), seen, torch.zeros(len(x)))


KINDS: dict[str, Callable[[Tensor, Tensor], Kind]] = {
    "low-level": colour, "semantic": semantic, "geometric": geometric,
    "random target": random_target,
}


def decoder(model: PixelDiffusion, seeds) -> Callable[[Tensor], Tensor]:
    """Latents (B, ...) -> images with gradients, as `model.decode` of codes with these seeds."""
    m = traced(model)
    return lambda z: m.decode(Code({"noise": z}, {"noise": "sphere"}, tuple(seeds)))


def truly_shifted(model: PixelDiffusion, x: Tensor, seeds=None) -> tuple[Path, Kind]:
    """The control without a descent: pictures x (B, 3, H, W) and the same pictures shifted, both
    inverted; the path is the two ends. Built in: parallelism.
    """
    kind = geometric(x.to(model.dtype))
    both = x, shift(x, x.shape[-1] // 4)
    z = torch.stack([model.encode(v, seeds)["noise"] for v in both])
    return Path(z, torch.stack([kind.loss(v.to(model.dtype)) for v in both])), kind


def found(
    model: PixelDiffusion, x: Tensor, other: Tensor, kind: str, steps: int, seeds=None,
) -> tuple[Path, Kind]:
    """Invert pictures x (B, 3, H, W) and descend the loss of a kind of `KINDS`; other: pictures of
    the same shape, random targets.

    Raises ValueError on an unknown kind. Built in: parallelism.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    code = model.encode(x, seeds)
    target = KINDS[kind](x.to(model.dtype), other.to(model.dtype))
    return descend(decoder(model, code.seeds), code["noise"], target.loss, steps), target


def evenness(value: np.ndarray) -> np.ndarray:
    """1 − largest deviation of the property from an even pace, as a share of its whole change;
    (points, B) -> (B,). 1 is even; a jump in the middle has 0.5; NaN without any change.
    """
    u = np.linspace(0, 1, len(value))[:, None]
    whole = value[-1] - value[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs((value - value[0]) / whole - u).max(0)
    return np.where(whole == 0, np.nan, 1 - off)
