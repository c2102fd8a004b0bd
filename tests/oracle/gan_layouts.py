"""StyleGAN2 once more, as plain functions of a state dict in NVIDIA's names.

Another route than the package's: every sample has its own modulated and demodulated weights, and
resampling is written out (zeros between the pixels, padding, the mirrored filter, every second
pixel). Shares nothing with the package.
"""

import math

import torch
import torch.nn.functional as F


def sub(state: dict, prefix: str) -> dict:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def upfirdn(x, f, up=1, down=1, before=0, after=0, gain=1.0):
    """Insert up − 1 zeros after every pixel, pad, convolve with f, keep every down-th pixel."""
    B, C, H, W = x.shape
    full = x.new_zeros(B, C, H * up, W * up)
    full[:, :, ::up, ::up] = x
    full = F.pad(full, (before, after, before, after))
    rows, columns = full.shape[2] - len(f) + 1, full.shape[3] - len(f) + 1
    out = x.new_zeros(B, C, rows, columns)
    for i in range(len(f)):
        for j in range(len(f)):
            tap = f[len(f) - 1 - i, len(f) - 1 - j] * gain
            out += tap * full[:, :, i : i + rows, j : j + columns]
    return out[:, :, ::down, ::down]


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def affine(s, name, x, lr=1.0):
    w = s[name + ".weight"]
    return x @ (w * (lr / math.sqrt(w.shape[1]))).T + s[name + ".bias"] * lr


def mapping(state, z, lr=0.01, psi=1.0):
    s = sub(state, "mapping.")
    x = z / (z.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
    i = 0
    while f"fc{i}.weight" in s:
        x, i = leaky(affine(s, f"fc{i}", x, lr)), i + 1
    return s["w_avg"] + psi * (x - s["w_avg"])


def modulated(s, x, w, up, demodulate):
    """Sample by sample with weights of its own; a doubling convolution mirrors them, and filters
    before it convolves.
    """
    weight, out = s["weight"], []
    k = weight.shape[-1]
    style = affine(s, "affine", w)
    if not demodulate:
        style = style / math.sqrt(weight.shape[1] * k * k)
    for n in range(len(x)):
        wn = weight * style[n][None, :, None, None]
        if demodulate:
            wn = wn / (wn.pow(2).sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            big = upfirdn(x[n : n + 1], s["resample_filter"], up=2, before=3, after=2, gain=4.0)
            out.append(F.conv2d(big, wn.flip(2, 3)))
        else:
            out.append(F.conv2d(x[n : n + 1], wn, padding=k // 2))
    return torch.cat(out)


def bounded(x, clamp):
    return x if clamp is None else x.clamp(-clamp, clamp)


def styled(s, x, w, noise, up, clamp):
    x = modulated(s, x, w, up, True)
    noise = s["noise_const"] if noise is None else noise
    return bounded(leaky(x + s["noise_strength"] * noise + s["bias"].view(1, -1, 1, 1)), clamp)


def synthesis(state, ws, noise=None, content=None, clamp=None):
    """ws (B, L, w); noise: a list from low to high, None for the stored maps."""
    image, size, row, layer = None, 4, 0, 0
    noise = noise or [None] * 99
    while s := sub(state, f"synthesis.b{size}."):
        if size == 4:
            x = (s["const"][None] if content is None else content).repeat(
                len(ws) if content is None or len(content) == 1 else 1, 1, 1, 1
            )
        else:
            x = styled(sub(s, "conv0."), x, ws[:, row], noise[layer], True, clamp)
            row, layer = row + 1, layer + 1
        x = styled(sub(s, "conv1."), x, ws[:, row], noise[layer], False, clamp)
        row, layer = row + 1, layer + 1
        rgb = modulated(sub(s, "torgb."), x, ws[:, row], False, False)  # row of the next conv0
        rgb = bounded(rgb + s["torgb.bias"].view(1, -1, 1, 1), clamp)
        if image is not None:
            f = s["resample_filter"]
            rgb = rgb + upfirdn(image, f, up=2, before=2, after=1, gain=4.0)
        image, size = rgb, 2 * size
    return image


def conv(s, x, down=False, gain=1.0, clamp=None, act=True):
    k, w = s["weight"].shape[-1], s["weight"]
    w = w / math.sqrt(w[0].numel())
    if down:  # pad by k // 2 as ever, and by 1 for the filter
        x = upfirdn(x, s["resample_filter"], before=k // 2 + 1, after=k // 2 + 1)
        x = F.conv2d(x, w)[:, :, ::2, ::2]
    else:
        x = F.conv2d(x, w, padding=k // 2)
    if not act:
        return x * gain
    x = leaky(x + s["bias"].view(1, -1, 1, 1)) * gain
    return bounded(x, None if clamp is None else clamp * gain)


def deviation(x, group):
    """Group by group and by hand: samples m, m + B/g, m + 2B/g, … belong together."""
    B = len(x)
    g = min(group, B)
    extra = x.new_zeros(B, 1, *x.shape[2:])
    for m in range(B // g):
        members = list(range(m, B, B // g))
        v = x[members]
        spread = ((v - v.mean(0)).pow(2).mean(0) + 1e-8).sqrt().mean()
        extra[members] = spread
    return torch.cat([x, extra], 1)


def discriminator(state, images, group=4, clamp=None):
    size = images.shape[-1]
    x = conv(sub(state, f"b{size}.fromrgb."), images, clamp=clamp)
    while size > 4:
        s, half = sub(state, f"b{size}."), math.sqrt(0.5)
        skip = conv(sub(s, "skip."), x, down=True, gain=half, act=False)
        x = conv(sub(s, "conv0."), x, clamp=clamp)
        x = conv(sub(s, "conv1."), x, down=True, gain=half, clamp=clamp) + skip
        size //= 2
    x = conv(sub(state, "b4.conv."), deviation(x, group), clamp=clamp)
    if "b4.fc.weight" in state:
        x = leaky(affine(state, "b4.fc", x.reshape(len(x), -1)))
    else:
        x = x.sum((2, 3))
    return affine(state, "b4.out", x)
