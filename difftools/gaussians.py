"""Gaussians in any dimension: fits, distances, and the exact denoiser that makes a world
solvable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Gaussian:
    """Law N(mean, U diag(lam) Uᵀ + rest (I − U Uᵀ)) on R^d, in one form for every covariance used
    here.

    Scalar covariance: ``lam`` empty. Low rank: ``U`` is (d, k). Diagonal: ``U`` is None, ``lam``
    has d entries.

    Shapes: ``mean`` (d,), ``lam`` (k,), ``U`` (d, k) with orthonormal columns or None, ``rest``
    float >= 0. Source: the standard eigen-form; used as a denoiser by Wang & Vastola (2024). Built
    in: inversion.
    """

    mean: Tensor
    lam: Tensor
    U: Tensor | None
    rest: float = 0.0

    @property
    def d(self) -> int:
        return self.mean.numel()

    @property
    def spectrum(self) -> Tensor:
        """All d eigenvalues of the covariance, (d,)."""
        tail = self.lam.new_full((self.d - self.lam.numel(),), self.rest)
        return torch.cat([self.lam, tail])

    def to(self, *args, **kwargs) -> Gaussian:
        """Move to a dtype or device, as `torch.Tensor.to`."""
        U = None if self.U is None else self.U.to(*args, **kwargs)
        return Gaussian(self.mean.to(*args, **kwargs), self.lam.to(*args, **kwargs), U, self.rest)

    def apply(self, f, x: Tensor) -> Tensor:
        """f(covariance) x for a scalar function f of the eigenvalues; x is (B, d).

        f maps eigenvalues (k,) or () to gains, broadcast against (B, k): it may depend on the row.
        """
        if self.U is None:
            return x * f(self.lam)
        if self.lam.numel() == self.d:  # nothing is left for `rest`
            return ((x @ self.U) * f(self.lam)) @ self.U.T
        g_rest = f(torch.as_tensor(self.rest, dtype=x.dtype, device=x.device))
        if self.lam.numel() == 0:
            return x * g_rest
        c = x @ self.U  # (B, k)
        return x * g_rest + (c * (f(self.lam) - g_rest)) @ self.U.T

    def denoise(self, x: Tensor, s: Tensor | float) -> Tensor:
        """E[x0 | x0 + s n = x], the linear-MMSE denoiser; x (B, d), s float or (B, 1)."""
        s2 = torch.as_tensor(s, dtype=x.dtype, device=x.device) ** 2
        return self.mean + self.apply(lambda v: v / (v + s2), x - self.mean)

    def mmse(self, s: Tensor | float) -> Tensor:
        """Mean over coordinates of the posterior variance at noise level s; s (B, 1) gives (B,)."""
        lam = self.spectrum
        s2 = torch.as_tensor(s, dtype=lam.dtype, device=lam.device) ** 2
        return (lam * s2 / (lam + s2)).mean(-1)

    def log_prob(self, x: Tensor, s: Tensor | float = 0.0) -> Tensor:
        """log density of N(mean, C + s² I) at x (B, d), shape (B,), in nats; s float or (B, 1)."""
        s2 = torch.as_tensor(s, dtype=x.dtype, device=x.device) ** 2
        var = self.spectrum + s2  # (d,) or (B, d)
        white = self.apply(lambda v: (v + s2) ** -0.5, x - self.mean)
        return -0.5 * ((white**2).sum(1) + torch.log(2 * math.pi * var).sum(-1))

    def sample(self, noise: Tensor) -> Tensor:
        """The symmetric colouring mean + C^(1/2) noise; noise (B, d) standard normal."""
        return self.mean + self.apply(torch.sqrt, noise)

    def whiten(self, x: Tensor) -> Tensor:
        """C^(-1/2) (x − mean); inverse of `sample`. Needs a positive spectrum."""
        if float(self.spectrum.min()) <= 0:
            raise ValueError(
                "whiten needs a positive definite covariance; this spectrum has a zero"
            )
        return self.apply(lambda v: v**-0.5, x - self.mean)

    def flow(self, x: Tensor, a, b) -> Tensor:
        """Exact probability-flow ODE from node a to node b of a grid, for data with this law; x (B,
        d).

        Each eigendirection is scaled by the ratio of its standard deviations at the two nodes.
        """
        gain = lambda v: ((b.alpha**2 * v + b.sigma**2) / (a.alpha**2 * v + a.sigma**2)) ** 0.5
        return b.alpha * self.mean + self.apply(gain, x - a.alpha * self.mean)


@dataclass
class Mixture:
    """Mixture of Gaussians on R^d: weights (K,) summing to 1 and K components."""

    weights: Tensor
    parts: list[Gaussian]

    @property
    def d(self) -> int:
        return self.parts[0].d

    def to(self, *args, **kwargs) -> Mixture:
        """Move to a dtype or device."""
        return Mixture(
            self.weights.to(*args, **kwargs), [g.to(*args, **kwargs) for g in self.parts]
        )

    def joint(self, x: Tensor, s: Tensor | float = 0.0) -> Tensor:
        """log(weight_k · density_k) of x (B, d) after noise s, (B, K)."""
        return torch.stack(
            [
                torch.log(w) + g.log_prob(x, s)
                for w, g in zip(self.weights, self.parts, strict=True)
            ],
            1,
        )

    def log_prob(self, x: Tensor, s: Tensor | float = 0.0) -> Tensor:
        """log density at x (B, d) of the mixture blurred by noise s, (B,)."""
        return torch.logsumexp(self.joint(x, s), 1)

    def denoise(self, x: Tensor, s: Tensor | float) -> Tensor:
        """E[x0 | x0 + s n = x]: each component's denoiser, weighted by its responsibility."""
        r = torch.softmax(self.joint(x, s), 1)  # (B, K)
        return sum(r[:, k : k + 1] * g.denoise(x, s) for k, g in enumerate(self.parts))

    def sample(self, noise: Tensor, gen: torch.Generator) -> Tensor:
        """One draw for each row of noise (B, d); `gen` picks the components."""
        k = torch.multinomial(self.weights, len(noise), True, generator=gen)
        return torch.stack(
            [self.parts[int(i)].sample(n[None])[0] for i, n in zip(k, noise, strict=True)]
        )


def fit(x: Tensor, kind: str | int = "full", floor: float = 1e-6) -> Gaussian:
    """Maximum-likelihood Gaussian of samples x (n, d), n > d for "full".

    kind: "scalar" (one variance), "diagonal", "full", or an int k: the k leading eigenpairs and one
    variance for the rest (probabilistic PCA). ``floor`` bounds eigenvalues from below.
    """
    x = x.double()
    n, d = x.shape
    mean = x.mean(0)
    c = x - mean
    if kind == "scalar":
        return Gaussian(
            mean, x.new_zeros(0), x.new_zeros(d, 0), float((c**2).mean().clamp_min(floor))
        )
    if kind == "diagonal":
        return Gaussian(mean, (c**2).mean(0).clamp_min(floor), None)
    k = d if kind == "full" else int(kind)
    if not 0 < k <= d:
        raise ValueError(
            f"kind must be 'scalar', 'diagonal', 'full' or a rank in 1..{d}, got {kind!r}"
        )
    total = float((c**2).sum()) / n
    if k < min(n, d) // 4 and d > 512:  # a few eigenpairs of a large matrix
        from scipy.sparse.linalg import eigsh

        lam, U = eigsh((c.T @ c / n).numpy(), k=k, v0=torch.ones(d, dtype=x.dtype).numpy())
        lam, U = torch.from_numpy(lam.copy()).flip(0), torch.from_numpy(U.copy()).flip(1)
    else:
        lam, U = torch.linalg.eigh(c.T @ c / n)
        lam, U = lam.flip(0)[:k], U.flip(1)[:, :k]
    rest = max((total - float(lam.sum())) / max(d - k, 1), floor) if k < d else 0.0
    return Gaussian(mean, lam.clamp_min(floor), U.contiguous(), rest)


def kl(q: Gaussian, p: Gaussian) -> float:
    """KL(q ‖ p) in nats between Gaussians on the same R^d, closed form; p needs a positive
    spectrum.
    """
    if float(p.spectrum.min()) <= 0:
        return math.inf
    white = lambda x: p.apply(lambda v: v**-0.5, x)  # noqa: E731
    root = white(_root(q))  # C_p^(-1/2) C_q^(1/2), rows transposed
    trace = float((root**2).sum())
    maha = float((white((q.mean - p.mean)[None]) ** 2).sum())
    return 0.5 * (
        trace + maha - q.d + float(torch.log(p.spectrum).sum() - torch.log(q.spectrum).sum())
    )


def w2(q: Gaussian, p: Gaussian) -> float:
    """2-Wasserstein distance between Gaussians on the same R^d (Bures), closed form."""
    cross = torch.linalg.svdvals(p.apply(torch.sqrt, _root(q))).sum()  # tr (C_p^½ C_q C_p^½)^½
    trace = float(q.spectrum.sum() + p.spectrum.sum() - 2 * cross)
    return math.sqrt(max(trace, 0.0) + float(((q.mean - p.mean) ** 2).sum()))


def _root(g: Gaussian) -> Tensor:
    """The symmetric root of the covariance as a dense matrix, (d, d)."""
    return g.apply(torch.sqrt, torch.eye(g.d, dtype=g.mean.dtype))
