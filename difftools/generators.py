"""Procedural image sets at 32 px: image i of a seed depends on (set, seed, i) alone.

Each function takes one numpy generator and returns one uint8 image (32, 32, 3).
"""

from __future__ import annotations

import zlib

import numpy as np

SIZE = 32


def dsprites(rng: np.random.Generator, samples: int = 4) -> np.ndarray:
    """A white square, ellipse or heart on black: 6 scales, 40 angles, 32 × 32 places, antialiased.

    The factors of dSprites (Matthey et al. 2017), drawn again: not the official pixels.
    """
    shape = rng.integers(3)
    scale = 0.16 * np.linspace(0.5, 1.0, 6)[rng.integers(6)]
    theta = 2 * np.pi * rng.integers(40) / 40
    centre = 0.28 + 0.44 * rng.integers(0, 32, 2) / 31
    axis = (np.arange(SIZE * samples) + 0.5) / (SIZE * samples)
    y, x = np.meshgrid((axis - centre[0]) / scale, (axis - centre[1]) / scale, indexing="ij")
    u, v = np.cos(theta) * x + np.sin(theta) * y, np.cos(theta) * y - np.sin(theta) * x
    a, b = 1.25 * u, 0.15 - 1.25 * v                                # the heart's own coordinates
    inside = (
        (np.abs(u) < 0.85) & (np.abs(v) < 0.85),
        (u / 1.05) ** 2 + (v / 0.62) ** 2 < 1,
        (a * a + b * b - 1) ** 3 < a * a * b**3,
    )[shape]
    cover = inside.reshape(SIZE, samples, SIZE, samples).mean((1, 3))
    return np.repeat((255 * cover).round().astype(np.uint8)[..., None], 3, axis=-1)


def turbulence(rng: np.random.Generator) -> np.ndarray:
    """A vorticity-like field: anisotropic k^(-5/3) spectrum, made intermittent, in false colour.

    Kolmogorov's exponent is for the power summed over a ring, hence amplitude k^(-4/3) per mode.
    sinh(1.2 g) gives the heavy tails of vorticity, which a Gaussian of equal spectrum lacks.
    """
    k = np.fft.fftfreq(SIZE, 1 / SIZE)
    angle, stretch = np.pi * rng.random(), 1 + rng.random()         # direction; shear 1 to 2
    ky, kx = np.meshgrid(k, k, indexing="ij")
    along = np.cos(angle) * kx + np.sin(angle) * ky
    across = np.cos(angle) * ky - np.sin(angle) * kx
    radius = np.hypot(along * stretch, across)
    amplitude = np.where(radius > 0, np.maximum(radius, 1.0) ** (-4 / 3), 0.0)
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * amplitude).real
    field = np.sinh(1.2 * field / field.std())
    return cubehelix(0.5 + 0.5 * np.tanh(field / (2.5 * field.std())))


def cubehelix(level: np.ndarray) -> np.ndarray:
    """Levels in [0, 1] to uint8 RGB of rising luma (Green 2011; start 0.5, -1.5 rotations)."""
    phi = 2 * np.pi * (0.5 / 3 + 1 - 1.5 * level)
    swing = level * (1 - level) / 2
    weights = np.array([[-0.14861, 1.78277], [-0.29227, -0.90649], [1.97294, 0.0]])
    turn = np.stack([np.cos(phi), np.sin(phi)], axis=-1) @ weights.T
    rgb = level[..., None] + swing[..., None] * turn
    return (255 * rgb.clip(0, 1)).round().astype(np.uint8)


def uniform_noise(rng: np.random.Generator) -> np.ndarray:
    """Independent uniform bytes: no image statistics at all."""
    return rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def constant(rng: np.random.Generator) -> np.ndarray:
    """One colour everywhere, drawn uniformly from the RGB cube."""
    return np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (SIZE, SIZE, 3)).copy()


GENERATORS = {
    "dsprites": dsprites, "turbulence": turbulence, "uniform-noise": uniform_noise,
    "constant": constant,
}


def generate(name: str, n: int, seed: int = 0) -> np.ndarray:
    """The first n images of a procedural set, uint8 (n, 32, 32, 3); ValueError on a bad name or n.

    The set's name enters the seed, so that two sets of one seed share no random numbers.
    """
    if name not in GENERATORS or n < 1:
        raise ValueError(f"given {n} images of {name!r}, expected 1 or more of one of "
                         f"{', '.join(GENERATORS)}")
    key = zlib.crc32(name.encode())
    return np.stack([GENERATORS[name](np.random.default_rng([seed, key, i])) for i in range(n)])
