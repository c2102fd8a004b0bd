"""The official networks once more, as plain functions of a state dict in the official names.

Written from the papers' and the layouts' descriptions, sharing nothing with the package: what they
compute from random weights is what the package's classes must compute from the same weights.
"""

import math

import torch
import torch.nn.functional as F


def sub(state: dict, prefix: str) -> dict:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def linear(s, name, x):
    return x @ s[name + ".weight"].T + s[name + ".bias"]


def conv(s, name, x, stride=1, padding=None):
    w = s[name + ".weight"]
    pad = w.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x, w, s.get(name + ".bias"), stride, pad)


def group_norm(s, name, x, groups, eps):
    B, C = x.shape[:2]
    g = x.reshape(B, groups, -1)
    g = (g - g.mean(2, keepdim=True)) / (g.var(2, unbiased=False, keepdim=True) + eps).sqrt()
    shape = (1, C) + (1,) * (x.ndim - 2)
    return g.reshape(x.shape) * s[name + ".weight"].view(shape) + s[name + ".bias"].view(shape)


def swish(x):
    return x * torch.sigmoid(x)


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


# --- OpenAI / ADM dialect: DiffAE, LDM, iDDPM, ADM ------------------------------------------------


def adm_block(s, x, emb, z, film, groups, resample):
    h = swish(group_norm(s, "in_layers.0", x, groups, 1e-5))
    if resample:
        h, x = resample(h), resample(x)
    h = conv(s, "in_layers.2", h)
    if "out_layers.0.weight" in s:
        e = linear(s, "emb_layers.1", swish(emb))[:, :, None, None]
        C = h.shape[1]
        if film:
            h = group_norm(s, "out_layers.0", h, groups, 1e-5) * (1 + e[:, :C]) + e[:, C:]
        else:
            h = group_norm(s, "out_layers.0", h + e, groups, 1e-5)
        if "cond_emb_layers.1.weight" in s:
            h = h * (1 + linear(s, "cond_emb_layers.1", swish(z))[:, :, None, None])
        h = conv(s, "out_layers.3", swish(h))
    skip = conv(s, "skip_connection", x) if "skip_connection.weight" in s else x
    return skip + h


def adm_attention(s, x, head_width, groups, new_order):
    """Head by head, no reshape tricks."""
    B, C, H, W = x.shape
    h = group_norm(s, "norm", x.reshape(B, C, -1), groups, 1e-5)
    qkv = torch.einsum("oc,bct->bot", s["qkv.weight"][:, :, 0], h) + s["qkv.bias"][None, :, None]
    heads, out = C // head_width, []
    for i in range(heads):
        if new_order:
            rows = [slice(j * C + i * head_width, j * C + (i + 1) * head_width) for j in range(3)]
        else:
            start = 3 * i * head_width
            rows = [slice(start + j * head_width, start + (j + 1) * head_width) for j in range(3)]
        q, k, v = (qkv[:, r] for r in rows)
        w = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(head_width), -1)
        out.append(torch.einsum("bts,bcs->bct", w, v))
    h = torch.cat(out, 1)
    h = torch.einsum("oc,bct->bot", s["proj_out.weight"][:, :, 0], h)
    return x + (h + s["proj_out.bias"][None, :, None]).reshape(x.shape)


def adm_children(s):
    return sorted({int(k.split(".")[0]) for k in s})


def adm_stack(s, x, emb, z, o, resample):
    for i in adm_children(s):
        child = sub(s, f"{i}.")
        if "in_layers.0.weight" in child:
            moves = resample and i == adm_children(s)[-1] and resample(child, i)
            x = adm_block(child, x, emb, z, o["film"], o["groups"], moves)
        elif "qkv.weight" in child:
            width = o["head_width"] or x.shape[1] // o.get("heads", 1)
            x = adm_attention(child, x, width, o["groups"], o.get("new_order", False))
        elif "op.weight" in child:
            x = conv(child, "op", x, stride=2, padding=1)
        elif "conv.weight" in child:
            x = conv(child, "conv", doubled(x))
        else:
            x = conv(s, str(i), x)
    return x


def adm_unet(state, o, x, t, z=None):
    base = o["base"]
    freq = torch.tensor([10000 ** (-i / (base // 2)) for i in range(base // 2)])
    angle = t[:, None] * freq
    time = "time_embed.time_embed" if "time_embed.time_embed.0.weight" in state else "time_embed"
    emb = torch.cat([angle.cos(), angle.sin()], 1)
    emb = linear(state, time + ".2", swish(linear(state, time + ".0", emb)))
    levels, blocks, skips = len(o["mult"]), o["blocks"], []
    in_block = o.get("resample_in_block", True)
    downs = {(blocks + 1) * (i + 1) for i in range(levels - 1)}
    ups = {(blocks + 1) * (i + 1) - 1 for i in range(levels - 1)}
    for i in adm_children(sub(state, "input_blocks.")):
        down = (lambda *_: halved) if in_block and i in downs else None
        x = adm_stack(sub(state, f"input_blocks.{i}."), x, emb, z, o, down)
        skips.append(x)
    x = adm_stack(sub(state, "middle_block."), x, emb, z, o, None)
    for i in adm_children(sub(state, "output_blocks.")):
        s = sub(state, f"output_blocks.{i}.")
        up = (lambda _, j: doubled if j else None) if in_block and i in ups else None
        x = adm_stack(s, torch.cat([x, skips.pop()], 1), emb, z, o, up)
    return conv(state, "out.2", swish(group_norm(state, "out.0", x, o["groups"], 1e-5)))


def dae_encoder(state, o, x):
    levels, blocks = len(o["mult"]), o["blocks"]
    downs = {(blocks + 1) * (i + 1) for i in range(levels - 1)}
    for i in adm_children(sub(state, "input_blocks.")):
        down = (lambda *_: halved) if i in downs else None
        x = adm_stack(sub(state, f"input_blocks.{i}."), x, None, None, o, down)
    x = adm_stack(sub(state, "middle_block."), x, None, None, o, None)
    x = swish(group_norm(state, "out.0", x, o["groups"], 1e-5)).mean((2, 3), keepdim=True)
    return conv(state, "out.3", x)[:, :, 0, 0]


# --- Ho dialect: D2C's prior, VQ autoencoders ------------------------------------------------------


def ho_block(s, x, emb, groups):
    h = conv(s, "conv1", swish(group_norm(s, "norm1", x, groups, 1e-6)))
    if emb is not None:
        h = h + linear(s, "temb_proj", swish(emb))[:, :, None, None]
    h = conv(s, "conv2", swish(group_norm(s, "norm2", h, groups, 1e-6)))
    return h + (conv(s, "nin_shortcut", x) if "nin_shortcut.weight" in s else x)


def ho_attention(s, x, groups):
    h = group_norm(s, "norm", x, groups, 1e-6)
    q, k, v = (conv(s, n, h).flatten(2) for n in "qkv")
    w = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), -1)
    return x + conv(s, "proj_out", (v @ w.transpose(1, 2)).reshape(x.shape))


def ho_down(s, x):
    return conv(s, "downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)


def ho_level(s, j, x, emb, groups):
    x = ho_block(sub(s, f"block.{j}."), x, emb, groups)
    attn = sub(s, f"attn.{j}.")
    return ho_attention(attn, x, groups) if attn else x


def ho_mid(state, x, emb, groups):
    x = ho_block(sub(state, "mid.block_1."), x, emb, groups)
    x = ho_attention(sub(state, "mid.attn_1."), x, groups)
    return ho_block(sub(state, "mid.block_2."), x, emb, groups)


def ho_unet(state, channels, layers, groups, x, t):
    half, levels = channels[0] // 2, len(channels)
    freq = torch.tensor([10000 ** (-i / (half - 1)) for i in range(half)])
    angle = t[:, None] * freq
    emb = torch.cat([angle.sin(), angle.cos()], 1)
    emb = linear(state, "temb.dense.1", swish(linear(state, "temb.dense.0", emb)))
    x = conv(state, "conv_in", x)
    skips = [x]
    for i in range(levels):
        s = sub(state, f"down.{i}.")
        for j in range(layers):
            x = ho_level(s, j, x, emb, groups)
            skips.append(x)
        if i < levels - 1:
            x = ho_down(s, x)
            skips.append(x)
    x = ho_mid(state, x, emb, groups)
    for i in reversed(range(levels)):
        s = sub(state, f"up.{i}.")
        for j in range(layers + 1):
            x = ho_level(s, j, torch.cat([x, skips.pop()], 1), emb, groups)
        if i:
            x = conv(s, "upsample.conv", doubled(x))
    return conv(state, "conv_out", swish(group_norm(state, "norm_out", x, groups, 1e-6)))


def vq_encode(state, levels, layers, groups, x):
    s = sub(state, "encoder.")
    x = conv(s, "conv_in", x)
    for i in range(levels):
        level = sub(s, f"down.{i}.")
        for j in range(layers):
            x = ho_level(level, j, x, None, groups)
        if i < levels - 1:
            x = ho_down(level, x)
    x = ho_mid(s, x, None, groups)
    x = conv(s, "conv_out", swish(group_norm(s, "norm_out", x, groups, 1e-6)))
    return conv(state, "quant_conv", x)


def vq_decode(state, levels, layers, groups, z, quantise=True):
    if quantise:
        codes = state["quantize.embedding.weight"]
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        nearest = torch.cdist(flat, codes).argmin(1)
        z = codes[nearest].reshape(len(z), *z.shape[2:], -1).permute(0, 3, 1, 2)
    s, x = sub(state, "decoder."), conv(state, "post_quant_conv", z)
    x = ho_mid(s, conv(s, "conv_in", x), None, groups)
    for i in reversed(range(levels)):
        level = sub(s, f"up.{i}.")
        for j in range(layers + 1):
            x = ho_level(level, j, x, None, groups)
        if i:
            x = conv(level, "upsample.conv", doubled(x))
    return conv(s, "conv_out", swish(group_norm(s, "norm_out", x, groups, 1e-6)))


# --- D2C's autoencoder -----------------------------------------------------------------------------


def wn_conv(s, name, x, stride=1):
    v = s[name + ".weight"]
    norm = (v**2).sum((1, 2, 3), keepdim=True).sqrt() + 1e-5
    w = torch.exp(s[name + ".log_weight_norm"]) * v / norm
    return F.conv2d(x, w, s.get(name + ".bias"), stride, v.shape[-1] // 2)


def batch_norm(s, name, x):
    get = lambda k: s[f"{name}.{k}"][None, :, None, None]  # noqa: E731
    x = (x - get("running_mean")) / (get("running_var") + 1e-5).sqrt()
    return x * get("weight") + get("bias")


def squeeze_excite(s, x):
    gate = linear(s, "se.se.2", torch.relu(linear(s, "se.se.0", x.mean((2, 3)))))
    return x * torch.sigmoid(gate)[:, :, None, None]


def d2c_encoder_cell(s, x):
    down = "skip.conv_1.weight" in s
    h = wn_conv(s, "_ops.0.conv_0", swish(batch_norm(s, "_ops.0.bn_act", x)), 2 if down else 1)
    h = wn_conv(s, "_ops.1.conv_0", swish(batch_norm(s, "_ops.1.bn_act", h)))
    if down:
        a = swish(x)
        phases = [a[..., ::2, ::2], a[..., 1::2, 1::2], a[..., ::2, 1::2], a[..., 1::2, ::2]]
        x = torch.cat([wn_conv(s, f"skip.conv_{i}", p) for i, p in enumerate(phases, 1)], 1)
    return x + 0.1 * squeeze_excite(s, h)


def d2c_decoder_cell(s, x):
    up = int("skip.1.weight" in s)
    h, o = (doubled(x) if up else x), sub(s, "_ops.0.conv.")
    h = batch_norm(o, f"{up}.bn", h)
    h = swish(batch_norm(o, f"{up + 1}.conv.1", conv(o, f"{up + 1}.conv.0", h)))
    w = o[f"{up + 2}.conv.0.weight"]
    h = F.conv2d(h, w, None, 1, w.shape[-1] // 2, 1, len(w))
    h = swish(batch_norm(o, f"{up + 2}.conv.1", h))
    h = batch_norm(o, f"{up + 4}.bn", conv(o, f"{up + 3}", h))
    if up:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = wn_conv(s, "skip.1", x)
    return x + 0.1 * squeeze_excite(s, h)


def d2c_encode(state, x):
    x = wn_conv(state, "stem", x)
    for tower in ("pre_process", "enc_tower"):
        s = sub(state, tower + ".")
        for i in adm_children(s):
            x = d2c_encoder_cell(sub(s, f"{i}."), x)
    return wn_conv(state, "enc_sampler", F.elu(wn_conv(state, "enc0.1", F.elu(x))))


def d2c_decode_mode(state, z):
    """The likeliest component's mean, channel after channel."""
    x = wn_conv(state, "dec0", z)
    for tower in ("dec_tower", "post_process"):
        s = sub(state, tower + ".")
        for i in adm_children(s):
            x = d2c_decoder_cell(sub(s, f"{i}."), x)
    p = wn_conv(state, "image_conditional.1", F.elu(x))
    B, _, H, W = p.shape
    k = p[:, :10].argmax(1, keepdim=True)
    pick = lambda start: torch.gather(p[:, start : start + 10], 1, k)[:, 0]  # noqa: E731
    m = [pick(10 + 30 * c) for c in range(3)]
    a, b, c = (torch.tanh(pick(30 + 30 * i)) for i in range(3))
    red = m[0].clamp(-1, 1)
    green = (m[1] + a * red).clamp(-1, 1)
    blue = (m[2] + b * red + c * green).clamp(-1, 1)
    return torch.stack([red, green, blue], 1)
