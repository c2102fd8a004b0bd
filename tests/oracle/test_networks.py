"""Every network family against an independent implementation, on random weights in the official
layout; every numerical convention decides one of these.
"""

import pytest
import torch

import official_files as files
from difftools import official
from difftools.nets import adm, configs, nvae
from difftools.nets.unet import unet, vq
from oracle import layouts

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
T = torch.tensor([0.0, 500.0, 999.0])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ADM_CASES = {
    "FiLM, blocks resample, heads by width": {"head_width": 8},
    "FiLM, blocks resample, one head": {"heads": 1},
    "additive, convolutions resample": {"film": False, "resample_in_block": False, "heads": 2},
    "FiLM, convolutions resample": {"resample_in_block": False, "head_width": 4},
    "new attention order": {"new_order": True, "head_width": 8},
    "learned variance": {"out_channels": 6, "heads": 4},
}


@pytest.mark.parametrize("case", ADM_CASES)
def test_adm_unet_against_the_layout(case):
    o = {"base": 16, "mult": (1, 2, 2), "blocks": 1, "attention": (8,), "groups": 4}
    o |= {"film": True, "head_width": None} | ADM_CASES[case]
    net = files.shake(adm.UNet(16, **o))
    x = randn(3, 3, 16, 16)
    want = layouts.adm_unet(net.state_dict(), o, x, T)
    assert float(want.std()) > 0.1
    torch.testing.assert_close(net(x, T), want, **CLOSE)


def test_diffae_against_the_layout():
    """Time before semantic code, a scale without shift, half blocks in the encoder."""
    c = files.DAE["net"]
    net = files.shake(adm.DiffAE(**c))
    x, z = randn(3, 3, 16, 16), randn(3, 12, seed=1)
    o = {k: c[k] for k in ("base", "mult", "blocks", "groups")} | {"film": True, "head_width": None}
    state = net.state_dict()
    torch.testing.assert_close(net(x, T, z), layouts.adm_unet(state, o, x, T, z), **CLOSE)
    e = o | {k: c["encoder"][k] for k in ("base", "mult", "blocks")}
    want = layouts.dae_encoder(layouts.sub(state, "encoder."), e, x)
    torch.testing.assert_close(net.encoder(x), want, **CLOSE)
    assert not any(k.startswith("encoder.") and "out_layers" in k for k in state)


def test_diffae_s_latent_network_against_its_formula():
    c = files.DAE["latent"]
    net = files.shake(adm.LatentMLP(**c))
    s, z = net.state_dict(), randn(3, 12)
    angle = T[:, None] * torch.tensor([10000 ** (-i / 4) for i in range(4)])
    time = torch.cat([angle.cos(), angle.sin()], 1)
    time = layouts.swish(layouts.linear(s, "time_embed.0", time))
    time = layouts.swish(layouts.linear(s, "time_embed.2", time))
    h = z
    for i in range(c["layers"]):
        h = layouts.linear(s, f"layers.{i}.linear", h if i == 0 else torch.cat([h, z], 1))
        if i < c["layers"] - 1:
            h = h * (1 + layouts.linear(s, f"layers.{i}.linear_emb", time))
            h = (h - h.mean(1, keepdim=True)) / (
                h.var(1, unbiased=False, keepdim=True) + 1e-5
            ) ** 0.5
            h = h * s[f"layers.{i}.norm.weight"] + s[f"layers.{i}.norm.bias"]
            h = layouts.swish(h)
    torch.testing.assert_close(net(z, T), h, **CLOSE)


def test_ho_unet_against_the_layout():
    c = files.D2C["net"]
    state = files.ho_unet(c["channels"], c["layers"], c["attention"], 4)
    net = unet(**c)
    net.load_state_dict(official.ho_to_diffusers(state, len(c["channels"])))
    x = randn(3, 4, 4, 4)
    want = layouts.ho_unet(state, c["channels"], c["layers"], c["groups"], x, T)
    torch.testing.assert_close(net.eval()(x, T).sample, want, **CLOSE)


def test_vq_autoencoder_against_the_layout():
    c = files.LDM["first"]
    state = files.vq(**c)
    net = vq(**c).eval()
    net.load_state_dict(official.vq_to_diffusers(state, 2))
    x = randn(2, 3, 16, 16)
    z = layouts.vq_encode(state, 2, c["layers"], c["groups"], x)
    torch.testing.assert_close(net.encode(x).latents, z, **CLOSE)
    for quantise in (True, False):
        want = layouts.vq_decode(state, 2, c["layers"], c["groups"], z, quantise)
        got = net.decode(z, force_not_quantize=not quantise).sample
        torch.testing.assert_close(got, want, **CLOSE)


def test_d2c_autoencoder_against_the_layout():
    net = files.shake(nvae.NVAE(**files.D2C["first"]))
    x = randn(2, 3, 16, 16).clamp(-1, 1)
    z = layouts.d2c_encode(net.state_dict(), x)
    torch.testing.assert_close(net.encode(x), z, **CLOSE)
    want = layouts.d2c_decode_mode(net.state_dict(), z)
    torch.testing.assert_close(net.decode(z, "mode"), want, **CLOSE)


def _to_diffusers(state: dict, n_levels: int, blocks: int, in_block: bool, heads: int) -> dict:
    """OpenAI names -> diffusers' names, for nets that diffusers can express."""
    names = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj"}
    names |= {"out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
    out = {}

    def res(src, dst):
        for k, v in layouts.sub(state, src + ".").items():
            part, kind = k.rsplit(".", 1)
            out[f"{dst}.{names[part]}.{kind}"] = v

    def attention(src, dst):
        s = layouts.sub(state, src + ".")
        C = s["norm.weight"].numel()
        for kind in ("weight", "bias"):
            out[f"{dst}.group_norm.{kind}"] = s[f"norm.{kind}"]
            qkv = s[f"qkv.{kind}"].reshape(heads, 3, C // heads, -1)  # legacy: [q | k | v] per head
            for i, n in enumerate("qkv"):
                v = qkv[:, i].reshape(C, -1)
                out[f"{dst}.to_{n}.{kind}"] = v if kind == "weight" else v[:, 0]
            last = s[f"proj_out.{kind}"]
            out[f"{dst}.to_out.0.{kind}"] = last[:, :, 0] if kind == "weight" else last

    for a, b in (("time_embed.0", "time_embedding.linear_1"), ("out.0", "conv_norm_out")):
        out |= {f"{b}.{k}": state[f"{a}.{k}"] for k in ("weight", "bias")}
    for a, b in (("time_embed.2", "time_embedding.linear_2"), ("out.2", "conv_out")):
        out |= {f"{b}.{k}": state[f"{a}.{k}"] for k in ("weight", "bias")}
    out |= {f"conv_in.{k}": state[f"input_blocks.0.0.{k}"] for k in ("weight", "bias")}
    i = 1
    for level in range(n_levels):
        for j in range(blocks):
            res(f"input_blocks.{i}.0", f"down_blocks.{level}.resnets.{j}")
            if f"input_blocks.{i}.1.norm.weight" in state:
                attention(f"input_blocks.{i}.1", f"down_blocks.{level}.attentions.{j}")
            i += 1
        if level < n_levels - 1:
            if in_block:
                res(f"input_blocks.{i}.0", f"down_blocks.{level}.downsamplers.0")
            else:
                for k in ("weight", "bias"):
                    v = state[f"input_blocks.{i}.0.op.{k}"]
                    out[f"down_blocks.{level}.downsamplers.0.conv.{k}"] = v
            i += 1
    res("middle_block.0", "mid_block.resnets.0")
    attention("middle_block.1", "mid_block.attentions.0")
    res("middle_block.2", "mid_block.resnets.1")
    i = 0
    for level in range(n_levels):
        for j in range(blocks + 1):
            res(f"output_blocks.{i}.0", f"up_blocks.{level}.resnets.{j}")
            last = 1
            if f"output_blocks.{i}.1.norm.weight" in state:
                attention(f"output_blocks.{i}.1", f"up_blocks.{level}.attentions.{j}")
                last = 2
            if j == blocks and level < n_levels - 1:
                if in_block:
                    res(f"output_blocks.{i}.{last}", f"up_blocks.{level}.upsamplers.0")
                else:
                    for k in ("weight", "bias"):
                        v = state[f"output_blocks.{i}.{last}.conv.{k}"]
                        out[f"up_blocks.{level}.upsamplers.0.conv.{k}"] = v
            i += 1
    return out


@pytest.mark.parametrize("in_block", [False, True], ids=["LDM", "ADM"])
def test_openai_dialect_against_diffusers(in_block):
    from diffusers import UNet2DModel

    o = {"base": 16, "mult": (1, 2, 2), "blocks": 2, "attention": (8,), "groups": 8}
    mine = files.shake(adm.UNet(16, **o, film=in_block, resample_in_block=in_block, head_width=32))
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    plain = plain if in_block else ("DownBlock2D", "UpBlock2D")
    kind = "resnet" if in_block else "conv"
    theirs = UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        down_block_types=(plain[0], "AttnDownBlock2D", plain[0]),
        up_block_types=(plain[1], "AttnUpBlock2D", plain[1]),
        downsample_type=kind,
        upsample_type=kind,
        attention_head_dim=32,
        norm_num_groups=8,
        attn_norm_num_groups=8,
        resnet_time_scale_shift="scale_shift" if in_block else "default",
        norm_eps=1e-5,
    ).eval()
    theirs.load_state_dict(_to_diffusers(mine.state_dict(), 3, 2, in_block, 1))
    x = randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(mine(x, T), theirs(x, T).sample, **CLOSE)


COUNTS = {  # published or measured on the official classes
    "dae": (lambda: adm.DiffAE(**configs.DAE_FFHQ256), 168_492_291, 706),
    "dae latent network": (lambda: adm.LatentMLP(**configs.LATENT_FFHQ256), 54_109_696, None),
    "ldm": (lambda: adm.UNet(**configs.LDM_FFHQ256), 274_056_163, 368),
    "vq-f4": (lambda: vq(**configs.VQ_F4), 55_322_782, 205),
    # 150 more names in the official file are aliases of the same tensors
    "d2c autoencoder": (lambda: nvae.NVAE(**configs.NVAE_FFHQ256), 24_767_596, 2597 - 150),
    "d2c prior": (lambda: unet(**configs.D2C_FFHQ256), 45_665_544, None),
}


@pytest.mark.parametrize("name", COUNTS)
def test_official_configurations_have_the_official_size(name):
    build, parameters, tensors = COUNTS[name]
    with torch.device("meta"):
        net = build()
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert tensors is None or len(net.state_dict()) == tensors


def test_diffae_s_attention_sits_where_the_official_one_does():
    with torch.device("meta"):
        names = adm.DiffAE(**configs.DAE_FFHQ256).state_dict()
    at = {k.rsplit(".", 2)[0] for k in names if k.endswith("qkv.weight") and "encoder" not in k}
    assert at == {"input_blocks.13.1", "input_blocks.14.1", "middle_block.1"} | {
        f"output_blocks.{i}.1" for i in (3, 4, 5)
    }
