"""Code: what every system in the book encodes an image to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

GEOMETRIES = ("sphere", "flat")
STREAMS = ("prior", "start", "forward", "ancestral", "data")


@dataclass(frozen=True)
class Code:
    """Named latent tensors of one batch, each with its geometry.

    tensors: name -> (B, ...); geometry: name -> "sphere" (direction matters, norm near sqrt(d)) or
    "flat". seeds: per-image seeds (B,) of whatever noise the encoder added and the decoder takes
    off again, or None. Raises ValueError on an unknown geometry or unequal batch sizes. Built in:
    inversion.
    """

    tensors: dict[str, Tensor]
    geometry: dict[str, str]
    seeds: tuple[int, ...] | None = field(default=None)

    def __post_init__(self):
        if set(self.tensors) != set(self.geometry):
            raise ValueError(
                f"tensors {sorted(self.tensors)} and geometry {sorted(self.geometry)} must agree"
            )
        if bad := set(self.geometry.values()) - set(GEOMETRIES):
            raise ValueError(f"geometry must be one of {GEOMETRIES}, got {sorted(bad)}")
        sizes = {len(t) for t in self.tensors.values()} | (
            {len(self.seeds)} if self.seeds is not None else set()
        )
        if len(sizes) != 1:
            raise ValueError(f"all parts of a code need one batch size, got {sorted(sizes)}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def flat(self, name: str) -> Tensor:
        """One part as vectors, (B, d)."""
        return self.tensors[name].flatten(1)

    def map(self, f: Callable[[Tensor, str], Tensor]) -> Code:
        """f(tensor, geometry) on every part; the result belongs to no image any more (seeds
        None).
        """
        return Code({k: f(v, self.geometry[k]) for k, v in self.tensors.items()}, self.geometry)

    def drop(self, name: str) -> Code:
        """Without one part: for two-state inverters, giving up the second state is an explicit
        act.
        """
        return replace(
            self,
            tensors={k: v for k, v in self.tensors.items() if k != name},
            geometry={k: v for k, v in self.geometry.items() if k != name},
        )

    def select(self, index) -> Code:
        """The sub-batch at `index` (a list or tensor of integers, or a slice)."""
        pick = (
            list(range(len(self)))[index] if isinstance(index, slice) else [int(i) for i in index]
        )
        seeds = None if self.seeds is None else tuple(self.seeds[i] for i in pick)
        return Code({k: v[pick] for k, v in self.tensors.items()}, self.geometry, seeds)


def generator(seed: int, stream: str = "prior") -> torch.Generator:
    """The CPU generator of one sample in one stream; seed in 0 .. 2^29 − 1, else ValueError.

    torch keeps the low 32 bits of a seed only, so the stream has to live in those.
    """
    if not 0 <= int(seed) < 2**29:
        raise ValueError(f"a sample's seed must lie in 0 .. 2^29 - 1, got {seed}")
    return torch.Generator().manual_seed(len(STREAMS) * int(seed) + STREAMS.index(stream))


def noise(seeds, shape, stream: str = "prior", dtype=torch.float32) -> Tensor:
    """Standard normal noise (len(seeds), *shape), one CPU generator per sample, drawn in float32.

    A sample depends on its seed and stream alone: neither on the batch nor on the device. Streams
    ("prior", "start", "forward", "ancestral", "data") are independent of each other.
    """
    draws = [torch.randn(tuple(shape), generator=generator(s, stream)) for s in seeds]
    return torch.stack(draws).to(dtype) if draws else torch.zeros(0, *shape, dtype=dtype)
