"""LPIPS: how different two images look, as the features of AlexNet or VGG16 see it; VGG19's maps.

LPIPS is the only perceptual distance that an inversion may descend. It never judges: what judges
is `metrics.feature_network`, and that is never descended. AlexNet ships; a reader who has the two
VGGs converts them once, with `difftools import`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import official, weights

FILE = "lpips-alex.safetensors"
# ImageNet's means and deviations, 0.485 … and 0.229 …, for images in [-1, 1] instead of [0, 1]
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LEAST, MOST = 64, 256  # pixels a side that LPIPS is shown
EPS = 1e-10

Distance = Callable[[Tensor], Tensor]  # images (B, 3, h, w) -> (B,)


class Conv(NamedTuple):
    """A convolution and the ReLU behind it."""

    width: int
    stride: int = 1
    padding: int = 1
    pool: int = 0  # side of the max pool of stride 2 in front of it, 0 for none
    tap: bool = True  # LPIPS compares what leaves the ReLU


def _vgg(*depths: int) -> tuple[Conv, ...]:
    """Blocks of 3×3 convolutions; LPIPS compares the last of each."""
    return tuple(
        Conv(width, pool=2 if block and not i else 0, tap=i == depth - 1)
        for block, (width, depth) in enumerate(zip((64, 128, 256, 512, 512), depths, strict=True))
        for i in range(depth)
    )


VGG16, VGG19 = _vgg(2, 2, 3, 3, 3), _vgg(2, 2, 4, 4, 4)
NETWORKS: dict[str, tuple[Conv, ...]] = {
    "lpips": (Conv(64, 4, 2), Conv(192, 1, 2, pool=3), Conv(384, pool=3), Conv(256), Conv(256)),
    "lpips-vgg": VGG16,
    "vgg19": VGG19[:5],  # as deep as the maps go
}
PUBLISHED = {"lpips-vgg": VGG16, "vgg19": VGG19}  # what torchvision's files hold
SOURCES = {
    "lpips-vgg": "vgg16-397923af.pth, torchvision's VGG16, from download.pytorch.org/models; then "
    "`difftools import lpips-vgg vgg16-397923af.pth`",
    "vgg19": "vgg19-dcbb9e9d.pth, torchvision's VGG19, from download.pytorch.org/models; then "
    "`difftools import vgg19 vgg19-dcbb9e9d.pth`",
}


def require(name: str | None) -> None:
    """Raise ModelError, with what to get and how to import it, if a network is not on this machine;
    None needs none.
    """
    if name in SOURCES and not all(p.is_file() for p in _imported(name)):
        raise weights.ModelError(f"{name} is not on this machine. Get {SOURCES[name]}")


def _imported(name: str) -> tuple[Path, Path]:
    """Where an imported network and its note lie."""
    from . import zoo  # which a recipe with AlexNet does not rest on

    return zoo.imported(name), zoo.imported(name).with_suffix(".json")


@lru_cache(maxsize=4)
def network(
    name: str = "lpips", dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Tensor]:
    """The tensors of a network of `NETWORKS`, hash verified: `features.i.weight`,
    `features.i.bias`, and for LPIPS 0.1 the heads `lin.i.weight` (1, C, 1, 1).

    Raises ModelError on files that are missing or altered.
    """
    require(name)
    if name in SOURCES:
        file, note = _imported(name)
        expected = json.loads(note.read_text())["sha256"]
        state, _ = weights.verified(file, expected, "import it again")
    else:
        state = weights.shipped(FILE)
    return {k: v.to(device, dtype) for k, v in state.items()}


def sized(images: Tensor) -> Tensor:
    """Images at 64 to 256 px: smaller ones enlarged (bicubic), larger ones block-averaged."""
    h = images.shape[-1]
    if h < LEAST:
        return F.interpolate(images, size=(LEAST, LEAST), mode="bicubic", antialias=True)
    return F.interpolate(images, size=(MOST, MOST), mode="area") if h > MOST else images


def _activations(images: Tensor, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """What each convolution makes of images (B, 3, h, w) in [-1, 1], before and behind its ReLU."""
    net = network(name, images.dtype, str(images.device))
    shift, scale = (images.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
    x = (images - shift) / scale
    for i, conv in enumerate(NETWORKS[name]):
        x = F.max_pool2d(x, conv.pool, 2) if conv.pool else x
        weight, bias = net[f"features.{i}.weight"], net[f"features.{i}.bias"]
        before = F.conv2d(x, weight, bias, conv.stride, conv.padding)
        x = F.relu(before)
        yield before, x


def taps(images: Tensor, name: str = "lpips") -> list[Tensor]:
    """What LPIPS compares of images (B, 3, h, w) in [-1, 1]: five activations (B, C, h', w'), unit
    length over the channels. name: as in `lpips`.
    """
    seen = zip(NETWORKS[name], _activations(sized(images), name), strict=True)
    return [x * (x.square().sum(1, keepdim=True) + EPS).rsqrt() for c, (_, x) in seen if c.tap]


def _distance(images: Tensor, seen: list[Tensor], name: str) -> Tensor:
    net, out = network(name, images.dtype, str(images.device)), 0
    for i, (a, b) in enumerate(zip(taps(images, name), seen, strict=True)):
        out = out + ((a - b).square() * net[f"lin.{i}.weight"]).sum(1).mean((1, 2))
    return out


def towards(target: Tensor, name: str = "lpips") -> Distance:
    """x -> LPIPS(x, target), differentiable in x; the target's features are computed once."""
    with torch.no_grad():
        return partial(_distance, seen=taps(target, name), name=name)


def lpips(x: Tensor, y: Tensor, name: str = "lpips") -> Tensor:
    """LPIPS 0.1 of images (B, 3, h, w) in [-1, 1]: (B,), 0 for equal images.

    name: "lpips" is AlexNet, "lpips-vgg" VGG16 behind relu1_2, 2_2, 3_3, 4_3 and 5_3, which is
    imported first. Images under 64 px are enlarged to 64: below, most of what the network sees is
    padding. Images over 256 px are averaged to 256, as SPHInX and StyleGAN2's projector do.
    Raises ValueError on unequal shapes, ModelError if the network is not on this machine.
    Source: Zhang et al. 2018. Built in: inversion_tables.
    """
    if x.shape != y.shape:
        raise ValueError(f"given images {tuple(x.shape)} and {tuple(y.shape)}, expected one shape")
    return towards(y, name)(x)


def vgg19_maps(images: Tensor) -> list[Tensor]:
    """VGG19's conv1_1, conv1_2, conv2_1, conv2_2 and conv3_1 of images (B, 3, h, w) in [-1, 1]:
    (B, c, h', w'), c = 64, 64, 128, 128, 256, before their ReLU.

    The `maps` of `fewshot.latent_learner` at 256 px. Not inherited from its program: that gives
    images in [-1, 1] to the normalisation for [0, 1], so VGG19 sees twice the contrast around a
    wrong grey. Raises ModelError if VGG19 is not on this machine. Source: Mondal et al. 2023.
    """
    return [before for before, _ in _activations(images, "vgg19")]


def import_network(name: str, file: str | Path, heads: str | Path | None = None) -> str:
    """Convert torchvision's VGG16 or VGG19 to safetensors and a note (hashes); returns its name.

    name: "lpips-vgg" or "vgg19". heads: LPIPS 0.1's `vgg.pth`, by default the copy in torchmetrics.
    Classifiers in a file are ignored. Raises CheckpointError or ModelError, with what is missing,
    extra or misshapen, before anything is written.
    """
    from . import zoo

    if name not in PUBLISHED:
        raise weights.ModelError(f"unknown network {name!r}; known: {', '.join(PUBLISHED)}")
    if heads and name == "vgg19":
        raise weights.ModelError("vgg19 is imported without heads: they belong to lpips-vgg")
    want, at, cin = {}, [], 3
    for conv in PUBLISHED[name]:  # torchvision counts ReLUs and pools too
        at.append((at[-1] + 2 if at else 0) + bool(conv.pool))
        want[f"features.{at[-1]}.weight"] = conv.width, cin, 3, 3
        want[f"features.{at[-1]}.bias"] = (conv.width,)
        cin = conv.width
    found, kept = _read(file, want, f"torchvision's VGG{len(at) + 3}"), at[: len(NETWORKS[name])]
    parts = [(i, k, part) for i, k in enumerate(kept) for part in ("weight", "bias")]
    state = {f"features.{i}.{part}": found[f"features.{k}.{part}"] for i, k, part in parts}
    note = {}
    if name == "lpips-vgg":
        heads = Path(heads or _torchmetrics_heads())
        widths = [conv.width for conv in NETWORKS[name] if conv.tap]
        want = {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(widths)}
        lin = _read(heads, want, "LPIPS 0.1's heads of VGG16")
        state |= {f"lin.{i}.weight": lin[k] for i, k in enumerate(want)}
        note = {"heads": heads.name, "heads_sha256": hashlib.sha256(heads.read_bytes()).hexdigest()}
    zoo._write_import(name, state, note, Path(file))
    network.cache_clear()
    return name


def _torchmetrics_heads() -> Path:
    root = Path(find_spec("torchmetrics").origin).parent
    return root / "functional" / "image" / "lpips_models" / "vgg.pth"


def _read(file: str | Path, want: dict[str, tuple[int, ...]], what: str) -> dict[str, Tensor]:
    """The tensors of a file but for a classifier's; ModelError if they are not those wanted."""
    found = {str(k): v for k, v in official.read(file).items() if isinstance(v, Tensor)}
    state = {k: v for k, v in found.items() if not k.startswith("classifier.")}
    if wrong := official.misfits(state, want):
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise weights.ModelError(
            f"{Path(file).name} does not fit {what}: {'; '.join(wrong[:5])}{more}"
        )
    return state
