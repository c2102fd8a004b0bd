"""Checkpoints in the official layouts, tiny and random: what a reader downloads, but for the
size.
"""

import sys
import types

import torch

from difftools.nets import adm, nvae

GROUPS = 4
DAE = {
    "net": {
        "size": 16,
        "base": 8,
        "mult": (1, 2),
        "blocks": 1,
        "attention": (8,),
        "embed": 24,
        "cond": 12,
        "groups": GROUPS,
        "encoder": {"base": 8, "mult": (1, 2, 2), "blocks": 1, "attention": (8,)},
    },
    "latent": {"width": 12, "hidden": 20, "layers": 4, "time": 8},
}
LDM = {
    "first": {"size": 16, "channels": (8, 16), "layers": 1, "latent": 3, "codes": 32, "groups": 4},
    "net": {
        "size": 8,
        "base": 16,
        "mult": (1, 2),
        "blocks": 1,
        "attention": (4,),
        "head_width": 8,
        "film": False,
        "resample_in_block": False,
        "groups": GROUPS,
    },
    "latent": (3, 8, 8),
}
D2C = {
    "first": {"base": 8, "latent": 4, "towers": (1, 1), "decoder": (1, 1), "expand": (2, 3)},
    "net": {
        "size": 4,
        "image_channels": 4,
        "channels": (8, 16),
        "layers": 1,
        "attention": (1,),
        "groups": GROUPS,
        "head_dim": None,
        "eps": 1e-6,
        "asymmetric": True,
    },
    "latent": (4, 4, 4),
    "size": 16,
}
ADM = {
    "net": {
        "size": 16,
        "base": 8,
        "mult": (1, 2),
        "blocks": 1,
        "attention": (8,),
        "heads": 2,
        "out_channels": 6,
        "groups": GROUPS,
    },
    "schedule": "linear",
    "chain": 1000,
    "told": 1.0,
}


def shake(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights everywhere, also where a network starts at zero; statistics stay positive."""
    gen = torch.Generator().manual_seed(seed)
    for name, v in module.state_dict().items():
        if v.is_floating_point():
            v.copy_(torch.randn(v.shape, generator=gen) * 0.2)
            if "running_var" in name:
                v.abs_().add_(0.5)
            if v.ndim == 1 and name.endswith("weight"):
                v.add_(1)
    return module.eval()


def _random(shapes: dict, seed: int) -> dict:
    gen = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(s, generator=gen) * 0.2 + (len(s) == 1 and k.endswith("weight"))
        for k, s in shapes.items()
    }


def _conv(name, cin, cout, k=3):
    return {f"{name}.weight": (cout, cin, k, k), f"{name}.bias": (cout,)}


def _pair(name, *weight):
    return {f"{name}.weight": weight, f"{name}.bias": (weight[0],)}


def _ho_block(name, cin, cout, embed):
    out = _pair(f"{name}.norm1", cin) | _conv(f"{name}.conv1", cin, cout)
    out |= _pair(f"{name}.norm2", cout) | _conv(f"{name}.conv2", cout, cout)
    out |= _pair(f"{name}.temb_proj", cout, embed) if embed else {}
    return out | (_conv(f"{name}.nin_shortcut", cin, cout, 1) if cin != cout else {})


def _ho_attention(name, c):
    out = _pair(f"{name}.norm", c)
    for part in ("q", "k", "v", "proj_out"):
        out |= _conv(f"{name}.{part}", c, c, 1)
    return out


def _ho_mid(prefix, c, embed):
    return (
        _ho_block(f"{prefix}mid.block_1", c, c, embed)
        | _ho_attention(f"{prefix}mid.attn_1", c)
        | _ho_block(f"{prefix}mid.block_2", c, c, embed)
    )


def ho_unet(channels, layers, attention, cin, seed=0) -> dict:
    """State dict of a Ho-dialect U-Net: names and shapes as in D2C's prior."""
    embed, n = 4 * channels[0], len(channels)
    s = _pair("temb.dense.0", embed, channels[0]) | _pair("temb.dense.1", embed, embed)
    s |= _conv("conv_in", cin, channels[0])
    c, skips = channels[0], [channels[0]]
    for i, width in enumerate(channels):
        for j in range(layers):
            s |= _ho_block(f"down.{i}.block.{j}", c, width, embed)
            c = width
            s |= _ho_attention(f"down.{i}.attn.{j}", c) if i in attention else {}
            skips.append(c)
        if i < n - 1:
            s |= _conv(f"down.{i}.downsample.conv", c, c)
            skips.append(c)
    s |= _ho_mid("", c, embed)
    for i in reversed(range(n)):
        for j in range(layers + 1):
            s |= _ho_block(f"up.{i}.block.{j}", c + skips.pop(), channels[i], embed)
            c = channels[i]
            s |= _ho_attention(f"up.{i}.attn.{j}", c) if i in attention else {}
        s |= _conv(f"up.{i}.upsample.conv", c, c) if i else {}
    return _random(s | _pair("norm_out", c) | _conv("conv_out", c, cin), seed)


def vq(channels, layers, latent, codes, seed=0, **_) -> dict:
    """State dict of a taming-transformers VQ autoencoder."""
    n, s, c = len(channels), _conv("encoder.conv_in", 3, channels[0]), channels[0]
    for i, width in enumerate(channels):
        for j in range(layers):
            s |= _ho_block(f"encoder.down.{i}.block.{j}", c, width, 0)
            c = width
        s |= _conv(f"encoder.down.{i}.downsample.conv", c, c) if i < n - 1 else {}
    s |= _ho_mid("encoder.", c, 0) | _pair("encoder.norm_out", c)
    s |= _conv("encoder.conv_out", c, latent) | _conv("decoder.conv_in", latent, c)
    s |= _ho_mid("decoder.", c, 0)
    for i in reversed(range(n)):
        for j in range(layers + 1):
            s |= _ho_block(f"decoder.up.{i}.block.{j}", c, channels[i], 0)
            c = channels[i]
        s |= _conv(f"decoder.up.{i}.upsample.conv", c, c) if i else {}
    s |= _pair("decoder.norm_out", c) | _conv("decoder.conv_out", c, 3)
    s |= _conv("quant_conv", latent, latent, 1) | _conv("post_quant_conv", latent, latent, 1)
    return _random(s | {"quantize.embedding.weight": (codes, latent)}, seed)


def lightning(state: dict) -> dict:
    """What a Lightning checkpoint holds beside its weights: among them a class, used as a key."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": name})
    module = types.ModuleType(name)
    module.ModelCheckpoint = callback
    for i in range(1, name.count(".") + 1):
        parent = ".".join(name.split(".")[:i])
        sys.modules.setdefault(parent, types.ModuleType(parent))
    sys.modules[name] = module
    return {
        "state_dict": state,
        "global_step": 7,
        "epoch": 1,
        "callbacks": {callback: {"best_model_path": "x.ckpt", "best_model_score": None}},
        "optimizer_states": [{"state": {}, "param_groups": []}],
    }


def save(found: dict, path):
    """torch.save, then forget the placeholder framework: the reader of the file has none."""
    torch.save(found, path)
    for name in [n for n in sys.modules if n.split(".")[0] == "pytorch_lightning"]:
        del sys.modules[name]
    return path


def dae(path, latent=True):
    """DiffAE's file: raw and averaged weights (different ones), fixed noise, statistics."""
    raw, ema = (shake(adm.DiffAE(**DAE["net"]), seed).state_dict() for seed in (1, 2))
    mlp = shake(adm.LatentMLP(**DAE["latent"]), 3).state_dict()
    state = {"model." + k: v for k, v in raw.items()}
    state |= {"ema_model." + k: v for k, v in ema.items()} | {"x_T": torch.zeros(2, 3, 16, 16)}
    if latent:
        for k, v in mlp.items():
            state["ema_model.latent_net." + k] = v
            if ".linear_emb." in k:
                state["ema_model.latent_net." + k.replace("linear_emb", "cond_layers.1")] = v
        state |= {"conds_mean": torch.full((1, 12), 0.3), "conds_std": torch.full((1, 12), 2.0)}
    return save(lightning(state), path)


def ldm(path, ema=True):
    """LDM's file: raw weights, averaged ones without dots in their names, the first stage."""
    raw, averaged = (shake(adm.UNet(**LDM["net"]), seed).state_dict() for seed in (1, 2))
    state = {"model.diffusion_model." + k: v for k, v in raw.items()}
    if ema:
        state |= {
            "model_ema." + ("diffusion_model." + k).replace(".", ""): v for k, v in averaged.items()
        }
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    state |= {"first_stage_model." + k: v for k, v in vq(**LDM["first"]).items()}
    state |= {"betas": torch.linspace(1e-3, 1e-2, 10), "first_stage_model.loss.x": torch.ones(1)}
    return save(lightning(state), path)


def d2c(path):
    """D2C's file: two encoders, a queue, aliases of weights; averaged prior; statistics."""
    q = shake(nvae.NVAE(**D2C["first"]), 1).state_dict()
    state = {"encoder_q." + k: v for k, v in q.items()}
    state |= {
        "encoder_q." + k.replace(".weight", ".weight_normalized"): v
        for k, v in q.items()
        if "dec_tower" in k and k.endswith("conv.0.weight")
    }
    state |= {"encoder_k." + k: v + 1 for k, v in q.items()}
    state |= {"encoder_q.fc.0.weight": torch.ones(2, 2), "queue": torch.ones(4, 4)}
    net = {k: D2C["net"][k] for k in ("channels", "layers", "attention")}
    found = {
        "autoencoder": state,
        "diffusion": ho_unet(**net, cin=4, seed=2),
        "latent_mod": {"mean": torch.full((1, 4, 1, 1), 0.2), "std": torch.full((1, 4, 1, 1), 1.5)},
    }
    return save(found, path)


def openai(path):
    """An OpenAI file: the state dict itself."""
    return save(dict(shake(adm.UNet(**ADM["net"]), 1).state_dict()), path)
