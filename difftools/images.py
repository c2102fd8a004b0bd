"""Images in one range for the whole project: float32 tensors (B, 3, H, W) in [-1, 1].

uint8 stays at the edges (files, slices, figures). Every edit takes a batch, returns a batch of the
same dtype and treats each image on its own, so that a batch equals a loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)                                        # Rec. 601
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def grey_to_rgb(images: np.ndarray, size: int = 32, invert: bool = False) -> np.ndarray:
    """Grey uint8 (B, h, w) as RGB uint8 (B, size, size, 3): a border of 0, the channel repeated.

    28 px become 32 px by a border of 2. ``invert`` flips the polarity after that: white on black
    becomes black on white. Polarity moves a set in latent space, so say it where it is not default.
    """
    if images.ndim != 3 or any(s > size or (size - s) % 2 for s in images.shape[1:]):
        raise ValueError(f"given grey images {images.shape}, expected (B, h, w) that a symmetric "
                         f"border takes to {size} px: resize them first")
    h, w = ((size - s) // 2 for s in images.shape[1:])
    padded = np.pad(images, ((0, 0), (h, h), (w, w)))
    return np.repeat((255 - padded if invert else padded)[..., None], 3, axis=-1)


def to_float(images: np.ndarray | Tensor, invert: bool = False) -> Tensor:
    """uint8 (B, H, W, 3), or grey (B, H, W) by `grey_to_rgb`, to float32 (B, 3, H, W), [-1, 1]."""
    array = np.asarray(images)
    if array.dtype != np.uint8:
        raise ValueError(f"given {array.dtype} images, expected uint8 from 0 to 255: floats are "
                         "not scaled here")
    if array.ndim == 3:
        array = grey_to_rgb(array, max(32, *array.shape[1:]), invert)
    elif invert:
        array = 255 - array
    if array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"given uint8 images {array.shape}, expected (B, H, W, 3) or (B, H, W)")
    levels = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    return (2 * levels.float() - 255) / 255                         # 255 - v gives exactly -x


def to_uint8(images: Tensor) -> np.ndarray:
    """Float (B, 3, H, W) to uint8 (B, H, W, 3), rounded, clipped to [-1, 1]; ValueError on NaN."""
    if images.isnan().any():
        raise ValueError("given images with NaN, expected numbers: find where the NaN arises")
    levels = ((images.detach().cpu().double() + 1) * 127.5).round().clamp(0, 255)
    return np.ascontiguousarray(levels.to(torch.uint8).permute(0, 2, 3, 1).numpy())


def validate(images: Tensor, size: int | None = None) -> Tensor:
    """The images, if they are float (B, 3, H, W) in [-1, 1] with H = W = size; else ValueError."""
    side = "H, W" if size is None else f"{size}, {size}"

    def need(ok: bool, given: object, todo: str) -> None:
        if not ok:
            raise ValueError(f"given images with {given}, expected float32 (B, 3, {side}) in "
                             f"[-1, 1]: {todo}")

    dtype = getattr(images, "dtype", type(images).__name__)
    need(dtype in (torch.float32, torch.float64), f"type {dtype}",
         "convert uint8 with images.to_float, other floats with .float()")
    shape = tuple(images.shape)
    need(images.ndim == 4, f"shape {shape}", "a single image becomes a batch by image[None]")
    need(shape[1] == 3, f"shape {shape}", "channels come second: repeat grey ones, drop alpha")
    need(0 not in shape, f"shape {shape}", "the batch is empty")
    need(size is None or shape[2:] == (size, size), f"shape {shape}",
         f"resize them, or read the files with images.read(path, size={size})")
    need(bool(images.isfinite().all()), "NaN or infinite values", "remove these images")
    low, high = images.min().item(), images.max().item()
    need(low >= -1 - 1e-4 and high <= 1 + 1e-4, f"values from {low:.4g} to {high:.4g}",
         "scale bytes with images.to_float, clamp others")             # 1e-4: float rounding
    return images


def paths(path: str | Path) -> list[Path]:
    """The image files behind a path: itself, or all below a folder, sorted, without hidden ones."""
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"given {path}, which does not exist: expected an image file or a folder")
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
                   and not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not found:
        raise ValueError(f"given the folder {path}, which holds no image: expected files that end "
                         f"in {' '.join(SUFFIXES)}")
    return found


def _upright(image: Image.Image) -> Image.Image:
    """8-bit RGB, turned as EXIF says, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):                                  # 16 bit: PIL clips, we scale
        levels = (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255)
        image = Image.fromarray(levels.astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def read(path: str | Path, size: int = 32) -> Tensor:
    """An image file, or all images below a folder, as float32 (B, 3, size, size) in [-1, 1].

    EXIF rotation applied, transparency over white, the largest centred square resized with Lanczos.
    Row i is ``paths(path)[i]``; ValueError names the first file that is empty or no image.
    """
    out = []
    for file in paths(path):
        if file.stat().st_size == 0:
            raise ValueError(f"given {file}, which is empty (0 bytes): expected an image file")
        try:
            with Image.open(file) as image:
                square = ImageOps.fit(_upright(image), (size, size), Image.Resampling.LANCZOS)
        except Exception as err:         # damaged files raise anything from OSError to struct.error
            raise ValueError(f"given {file}, which cannot be read as an image ({err}): expected a "
                             "complete PNG, JPEG, WebP, … file") from err
        out.append(np.asarray(square))
    return to_float(np.stack(out))


def grayscale(images: Tensor) -> Tensor:
    """Rec. 601 luma in all three channels."""
    luma = (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    return luma.expand_as(images).contiguous()


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of standard deviation ``sigma`` in pixels, cut at 3 sigma, edges replicated."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"given sigma {sigma}, expected a finite number of pixels above 0")
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images)
    planes = images.reshape(-1, 1, *images.shape[2:])               # (B·3, 1, H, W)
    planes = F.pad(planes, (radius,) * 4, mode="replicate")
    planes = F.conv2d(F.conv2d(planes, kernel[None, None, None]), kernel[None, None, :, None])
    return planes.reshape(images.shape)


def white_box(images: Tensor, size: int,
              at: tuple[int, int] | Sequence[torch.Generator] | None = None) -> Tensor:
    """Cover a size × size box with white: centred, with its corner at (y, x), or at random.

    At random means one CPU generator per image, so that no box depends on the rest of the batch.
    """
    room = [s - size for s in images.shape[2:]]                     # last admissible corner
    if size < 1 or min(room) < 0:
        raise ValueError(f"given a box of {size} px, expected 1 to {min(images.shape[2:])} px")
    if at is not None and len(at) and isinstance(at[0], torch.Generator):
        _one_each(at, images)
        corners = [[int(torch.randint(r + 1, (), generator=g)) for r in room] for g in at]
    else:
        corner = [r // 2 for r in room] if at is None else list(at)
        if len(corner) != 2 or not all(0 <= c <= r for c, r in zip(corner, room)):
            raise ValueError(f"given a corner at {at}, expected (0, 0) to {tuple(room)}")
        corners = [corner] * len(images)
    out = images.clone()
    for i, (y, x) in enumerate(corners):                            # by index: gradients pass
        out[i, :, y : y + size, x : x + size] = 1.0
    return out


def fill_box(images: Tensor, inside: Tensor, size: int,
             at: tuple[int, int] | Sequence[torch.Generator] | None = None) -> Tensor:
    """``inside`` within the box of `white_box`, ``images`` around it: what inpainting returns."""
    return torch.where(white_box(torch.zeros_like(images), size, at) > 0, inside, images)


def contrast(images: Tensor, factor: float) -> Tensor:
    """Scale the contrast about each image's mean luma, clipped to [-1, 1]; 0.98 is invisible."""
    mean = grayscale(images).mean((1, 2, 3), keepdim=True)
    return (mean + factor * (images - mean)).clamp(-1, 1)


def drop_bit(images: Tensor, bit: int = 0) -> Tensor:
    """Clear one bit of the 8-bit pixel values; bit 0, the lowest, is invisible."""
    if bit not in range(8):
        raise ValueError(f"given bit {bit}, expected 0 (lowest) to 7 (highest)")
    levels = ((images.double() + 1) * 127.5).round().clamp(0, 255).long() & ~(1 << bit)
    return (2 * levels.to(images.dtype) - 255) / 255


def colour_invert(images: Tensor) -> Tensor:
    """The photographic negative: the sign of every value."""
    return -images


def pixel_shuffle(images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Permute the pixels of each image by its own CPU generator: same colours, no structure."""
    _one_each(generators, images)
    flat = images.flatten(2)                                        # (B, 3, H·W)
    orders = [torch.randperm(flat.shape[2], generator=g).to(images.device) for g in generators]
    return torch.stack([x[:, o] for x, o in zip(flat, orders)]).reshape(images.shape)


def downsample(images: Tensor, k: int) -> Tensor:
    """(B, 3, H, W) to (B, 3, H/k, W/k), the mean of each k × k block: linear and antialiased."""
    if k < 1 or any(s % k for s in images.shape[2:]):
        raise ValueError(f"given k = {k}, expected a divisor of the size {tuple(images.shape[2:])}")
    return F.avg_pool2d(images, k)


def bicubic(images: Tensor, k: int) -> Tensor:
    """(B, 3, H, W) to (B, 3, H/k, W/k) by an antialiased bicubic filter (a = -0.5): linear."""
    if k < 1 or any(s % k for s in images.shape[2:]):
        raise ValueError(f"given k = {k}, expected a divisor of the size {tuple(images.shape[2:])}")
    size = [s // k for s in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bicubic", antialias=True)


def grid(images: Tensor, columns: int = 8, gap: int = 1) -> np.ndarray:
    """One uint8 sheet (H, W, 3) of a float batch (B, 3, h, w), row by row, with white gaps."""
    tiles = to_uint8(images)
    b, h, w, _ = tiles.shape
    columns = min(columns, b)
    rows = -(-b // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = tile
    return sheet


def _one_each(generators: Sequence[torch.Generator], images: Tensor) -> None:
    if len(generators) != len(images):
        raise ValueError(f"given {len(generators)} generators for {len(images)} images, expected "
                         "one for each")
