"""The GANs once more, as plain functions of a state dict in the official names.

Another route than the package's: every sample has its own modulated and demodulated weights,
resampling is written out (zeros between the pixels, padding, the mirrored filter, every second
pixel), spectral norm is applied where a weight is used. Shares nothing with the package.
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


# --- StyleGAN-XL ----------------------------------------------------------------------------------


def xl_mapping(state, z, y, lr=0.01, psi=1.0):
    """y: a list of labels, or None."""
    s, moment = sub(state, "mapping."), lambda v: (v.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
    x, mean = z / moment(z), s["w_avg"]
    if y is not None:
        e = leaky(affine(s, "embed_proj", s["embed.weight"][y]))
        x, mean = torch.cat([x, e / moment(e)], 1), mean[y]
    i = 0
    while f"fc{i}.weight" in s:
        x, i = leaky(affine(s, f"fc{i}", x, lr)), i + 1
    return mean + psi * (x - mean)


def xl_waves(s, w, size, rate, bandwidth):
    """Sample by sample: turn the picture, shift it, apply the user's transform; then read every
    wave at the centres of the pixels.
    """
    out, places = [], [(i + 0.5 - size / 2) / rate for i in range(size)]
    rows, columns = torch.meshgrid(torch.tensor(places), torch.tensor(places), indexing="ij")
    for t in affine(s, "affine", w):
        c, d, x, y = (t / (t[0] ** 2 + t[1] ** 2).sqrt()).tolist()
        turn = torch.tensor([[c, -d, 0], [d, c, 0], [0, 0, 1]])
        shift = torch.tensor([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
        m = turn @ shift @ s["transform"]
        planes = []
        for f, phase in zip(s["freqs"], s["phases"]):
            fx, fy, shifted = (f[0] * m[0, k] + f[1] * m[1, k] for k in range(3))
            size_of_f = (fx**2 + fy**2).sqrt()
            loud = 1 - (size_of_f - bandwidth) / (rate / 2 - bandwidth)
            angle = 2 * math.pi * (columns * fx + rows * fy + shifted + phase)
            planes.append(angle.sin() * loud.clamp(0, 1))
        out.append(torch.stack(planes))
    mix = s["weight"] / math.sqrt(len(s["weight"]))
    return torch.einsum("oc,nchw->nohw", mix, torch.stack(out))


def xl_layer(s, row, x, w):
    weight, out = s["weight"], []
    for n, style in enumerate(affine(s, "affine", w)):
        wn = weight * style[None, :, None, None]
        if row["rgb"]:
            wn = wn / math.sqrt(weight[0].numel())
        else:
            wn = wn / wn.pow(2).sum((1, 2, 3), keepdim=True).sqrt()
        wn = wn / s["magnitude_ema"].sqrt()
        out.append(F.conv2d(x[n : n + 1], wn, padding=row["kernel"] - 1))
    x = torch.cat(out) + s["bias"].view(1, -1, 1, 1)
    square = lambda f: torch.outer(f, f) if f is not None else torch.ones(1, 1)  # noqa: E731
    up, (before, after) = row["up"], row["padding"][:2]
    x = upfirdn(x, square(s.get("up_filter")), up, 1, before, after, up**2)
    x = bounded(x if row["rgb"] else leaky(x), row["clamp"])
    return upfirdn(x, square(s.get("down_filter")), down=row["down"])


def xl_synthesis(state, config, ws):
    f = config["fourier"]
    x = xl_waves(sub(state, "synthesis.input."), ws[:, 0], f["size"], f["rate"], f["bandwidth"])
    for i, row in enumerate(config["layers"], 1):
        x = xl_layer(sub(state, f"synthesis.{row['name']}."), row, x, ws[:, i])
        assert x.shape[1] == row["cout"] and x.shape[2] == int(row["name"].split("_")[1])
    return x * config.get("scale", 0.25)


# --- BigGAN ---------------------------------------------------------------------------------------


def normed(s, name):
    """The weight over its largest singular value, as the file's vectors give it."""
    if f"{name}.weight_orig" in s:
        w, u, v = (s[f"{name}.weight_{k}"] for k in ("orig", "u", "v"))
        return w / torch.einsum("o,oi,i", u, w.flatten(1), v)
    w, u = s[f"{name}.weight"], s[f"{name}.u0"][0]
    v = w.flatten(1).T @ u
    v = v / v.pow(2).sum().sqrt()
    u = w.flatten(1) @ v
    u = u / u.pow(2).sum().sqrt()
    return w / torch.einsum("o,oi,i", u, w.flatten(1), v)


def normed_conv(s, name, x):
    w = normed(s, name)
    return F.conv2d(x, w, s.get(f"{name}.bias"), padding=w.shape[-1] // 2)


def twice(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def attended(s, names, x):
    """Every query against the maxima of 2×2 keys; names: queries, keys, values, out."""
    q, k, v = (normed_conv(s, name, x) for name in names[:3])
    k, v = (m.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)) for m in (k, v))
    weight = torch.einsum("ncij,ncuv->nijuv", q, k).exp()
    weight = weight / weight.sum((3, 4), keepdim=True)
    return x + s["gamma"] * normed_conv(s, names[3], torch.einsum("nijuv,ncuv->ncij", weight, v))


def standardised(x, mean, var, gain, bias, eps):
    mean, var, gain, bias = (v.reshape(-1, x.shape[1], 1, 1) for v in (mean, var, gain, bias))
    return (x - mean) / (var + eps).sqrt() * gain + bias


def deep_norm(s, x, truncation, cond=None):
    def row(table):  # between two rows by hand
        places = torch.linspace(0, 1, len(table))
        near = (1 - (places - truncation).abs() * (len(table) - 1)).clamp(min=0)
        return near @ table

    if cond is None:
        gain, bias = s["weight"], s["bias"]
    else:
        gain, bias = 1 + cond @ normed(s, "scale").T, cond @ normed(s, "offset").T
    return standardised(x, row(s["running_means"]), row(s["running_vars"]), gain, bias, 1e-4)


def biggan_deep(state, z, e, truncation=1.0):
    cond, s = torch.cat([z, e], 1), sub(state, "generator.")
    x = cond @ normed(s, "gen_z").T + s["gen_z.bias"]
    x = x.reshape(len(x), 4, 4, -1).permute(0, 3, 1, 2)
    index, blocks = 0, 0
    while layer := sub(s, f"layers.{index}."):
        index += 1
        if "gamma" in layer:
            names = [f"snconv1x1_{k}" for k in ("theta", "phi", "g", "o_conv")]
            x = attended(layer, names, x)
            continue
        blocks += 1
        h = x
        for i in range(4):
            h = deep_norm(sub(layer, f"bn_{i}."), h, truncation, cond).clamp(min=0)
            h = twice(h) if i == 1 and blocks % 2 == 0 else h
            h = normed_conv(layer, f"conv_{i}", h)
        x = x[:, : h.shape[1]]
        x = h + (twice(x) if blocks % 2 == 0 else x)
    x = deep_norm(sub(s, "bn."), x, truncation).clamp(min=0)
    return normed_conv(s, "conv_to_rgb", x)[:, :3].tanh()


def biggan_norm(s, x, cond):
    gain, bias = 1 + cond @ normed(s, "gain").T, cond @ normed(s, "bias").T
    return standardised(x, s["stored_mean"], s["stored_var"], gain, bias, 1e-5).clamp(min=0)


def biggan(state, z, y):
    e, index = state["shared.weight"][y], 0
    chunk = state["linear.weight"].shape[1]
    x = z[:, :chunk] @ normed(state, "linear").T + state["linear.bias"]
    x = x.reshape(len(x), -1, 4, 4)
    while block := sub(state, f"blocks.{index}.0."):
        index += 1
        cond = torch.cat([e, z[:, index * chunk : (index + 1) * chunk]], 1)
        h = normed_conv(block, "conv1", twice(biggan_norm(sub(block, "bn1."), x, cond)))
        h = normed_conv(block, "conv2", biggan_norm(sub(block, "bn2."), h, cond))
        x = h + normed_conv(block, "conv_sc", twice(x))
        if attention := sub(state, f"blocks.{index - 1}.1."):
            x = attended(attention, ["theta", "phi", "g", "o"], x)
    s = sub(state, "output_layer.0.")
    x = standardised(x, s["stored_mean"], s["stored_var"], s["gain"], s["bias"], 1e-5)
    return normed_conv(state, "output_layer.2", x.clamp(min=0)).tanh()
