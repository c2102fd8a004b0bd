"""Official checkpoints: read safely, find the weights that inference uses, name what does not fit.

`difftools import SYSTEM FILE` writes what `convert` returns as safetensors. Nothing in a file is
ever executed: tensors and plain values are read, objects of known training frameworks become inert
placeholders, and anything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# Frameworks whose objects stand in official files beside the weights. They are never imported: an
# inert placeholder takes their place.
BYSTANDERS = tuple(
    f"{package}."
    for package in ("pytorch_lightning", "lightning", "omegaconf", "argparse", "numpy")
)
State = dict[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read safely or does not fit its system."""


class Inert(dict):
    """Stands for an object of a training framework; whatever the file does to it, nothing
    happens.
    """

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __setstate__(self, state):
        pass


def read(path: str | Path) -> dict:
    """The mapping in a torch file, tensors on the CPU.

    Raises CheckpointError if the file is missing, no torch file, holds no mapping, or would have to
    run code to be read (the message names it).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file from before torch 1.6 cannot be listed, only refused while reading
        unsafe = []
    known = [name for name in unsafe if name.startswith(BYSTANDERS)]
    if code := sorted(set(unsafe) - set(known)):
        raise _refused(path, code)
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in known]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        if code := re.findall(r"GLOBAL (\S+)", str(err)):  # an old file names one, the first
            raise _refused(path, code) from err
        raise CheckpointError(
            f"{path.name} cannot be read as weights: it is damaged, or neither a torch file nor "
            f"safetensors ({type(err).__name__})"
        ) from err
    if not isinstance(found, dict):
        raise CheckpointError(f"{path.name} holds a {type(found).__name__}, not named tensors")
    return found


def _refused(path: Path, code: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{path.name} holds code, not only weights, and is refused: it names "
        f"{', '.join(code[:5])}. Get it from its official source, or save its state_dict alone"
    )


def under(state: dict, prefix: str) -> State:
    """The tensors whose names start with a prefix, without it."""
    return {
        k.removeprefix(prefix): v
        for k, v in state.items()
        if k.startswith(prefix) and isinstance(v, Tensor)
    }


def ho_to_diffusers(state: State, levels: int) -> State:
    """Names of the Ho dialect (`down.0.block.1.conv1`) -> those of diffusers; 1×1 attention
    convolutions become linear layers.

    Serves D2C's prior and, part by part, the VQ autoencoder. levels: how many resolutions.
    """
    up = lambda m: f"up_blocks.{levels - 1 - int(m[1])}"  # noqa: E731
    rules: list[tuple[str, str | Callable]] = [
        (r"\btemb\.dense\.0", "time_embedding.linear_1"),
        (r"\btemb\.dense\.1", "time_embedding.linear_2"),
        (r"\bnorm_out\b", "conv_norm_out"),
        (r"\bmid\.block_1", "mid_block.resnets.0"),
        (r"\bmid\.block_2", "mid_block.resnets.1"),
        (r"\bmid\.attn_1", "mid_block.attentions.0"),
        (r"\bdown\.(\d+)", r"down_blocks.\1"),
        (r"\bup\.(\d+)", up),
        (r"\.block\.(\d+)", r".resnets.\1"),
        (r"\.attn\.(\d+)", r".attentions.\1"),
        (r"\.downsample\.", ".downsamplers.0."),
        (r"\.upsample\.", ".upsamplers.0."),
        (r"\.nin_shortcut\.", ".conv_shortcut."),
        (r"\.temb_proj\.", ".time_emb_proj."),
    ]
    inside = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    out = {}
    for key, value in state.items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        if ".attentions." in key:
            head, part, kind = key.rsplit(".", 2)
            key = f"{head}.{inside.get(part, part)}.{kind}"
            value = value[:, :, 0, 0] if value.ndim == 4 else value
        out[key] = value
    return out


def vq_to_diffusers(state: State, levels: int) -> State:
    """Names of a VQ autoencoder of taming-transformers -> diffusers' `VQModel`."""
    out = {k: v for k, v in state.items() if not k.startswith(("encoder.", "decoder.", "loss."))}
    for part in ("encoder.", "decoder."):
        mapped = ho_to_diffusers(under(state, part), levels)
        out |= {part + k: v for k, v in mapped.items()}
    return out


def dae(found: dict, config: dict) -> State:
    """DiffAE, a Lightning file: the averaged weights under `ema_model.`, conds_mean and
    conds_std.
    """
    state = found.get("state_dict", found)
    ema = under(state, "ema_model.")
    if not ema:
        raise CheckpointError("no averaged weights (`ema_model.…`) in this file: not DiffAE's")
    out = {}
    for k, v in ema.items():
        if k.startswith("latent_net."):
            if ".cond_layers." not in k:  # the same tensors under a second name
                out["latent." + k.removeprefix("latent_net.")] = v
        else:
            out["net." + k] = v
    for name in ("mean", "std"):
        if f"conds_{name}" in state:
            out[name] = state[f"conds_{name}"].flatten()
    return out


def ldm(found: dict, config: dict) -> State:
    """LDM, a Lightning file: averaged weights, whose names have lost their dots, and the first
    stage.
    """
    state = found.get("state_dict", found)
    raw, out = under(state, "model.diffusion_model."), {}
    dotless = {"diffusion_model" + k.replace(".", ""): k for k in raw}
    ema = under(state, "model_ema.")
    if ema:
        for k, v in ema.items():
            if k not in ("decay", "num_updates"):
                out["net." + dotless.get(k, k)] = v
    else:
        import warnings

        warnings.warn("no averaged weights in this file: the raw ones are taken", stacklevel=2)
        out = {"net." + k: v for k, v in raw.items()}
    first = vq_to_diffusers(under(state, "first_stage_model."), len(config["first"]["channels"]))
    return out | {"first." + k: v for k, v in first.items()}


def d2c(found: dict, config: dict) -> State:
    """D2C: {autoencoder, diffusion, latent_mod}; the diffusion weights are averaged already."""
    if missing := {"autoencoder", "diffusion", "latent_mod"} - set(found):
        raise CheckpointError(f"no {', '.join(sorted(missing))} in this file: not D2C's")
    first = {
        "first." + k: v
        for k, v in under(found["autoencoder"], "encoder_q.").items()
        if not k.startswith("fc.") and not k.endswith("weight_normalized")
    }
    net = ho_to_diffusers(found["diffusion"], len(config["net"]["channels"]))
    return (
        first
        | {"net." + k: v for k, v in net.items()}
        | {k: found["latent_mod"][k].reshape(1, -1, 1, 1) for k in ("mean", "std")}
    )


def adm(found: dict, config: dict) -> State:
    """An OpenAI-dialect file: the state dict itself, averaged already."""
    return {k: v for k, v in found.get("state_dict", found).items() if isinstance(v, Tensor)}


def folded(state: State) -> State:
    """A state dict without spectral norm: its weights are divided by their largest singular value
    as the file's vectors give it, without a further step of training.

    torch keeps weight_orig with both vectors; BigGAN-PyTorch keeps weight with u0 and takes one
    power iteration from there at every use.
    """
    vectors = ("weight_u", "weight_v", "u0", "sv0")
    out = {}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        if part in vectors:
            continue
        if part == "weight_orig":
            if missing := [v for v in vectors[:2] if f"{layer}.{v}" not in state]:
                raise CheckpointError(f"no {layer}.{missing[0]} in this file beside {key}")
            u, v = (state[f"{layer}.{name}"].double() for name in vectors[:2])
            sigma = u @ (value.double().flatten(1) @ v)
            key, value = f"{layer}.weight", (value / sigma).to(value.dtype)
        elif part == "weight" and f"{layer}.u0" in state:
            matrix = value.double().flatten(1)
            v = state[f"{layer}.u0"].double().flatten() @ matrix
            value = (value / (matrix @ (v / v.norm())).norm()).to(value.dtype)
        out[key] = value
    return out


def biggan_deep(found: dict, config: dict) -> State:
    """BigGAN-deep, pytorch-pretrained-BigGAN's file: the state dict itself, with torch's spectral
    norm.
    """
    if "embeddings.weight" not in found:
        raise CheckpointError("no embeddings.weight in this file: not BigGAN-deep's")
    return folded({k: v for k, v in found.items() if isinstance(v, Tensor)})


def biggan(found: dict, config: dict) -> State:
    """BigGAN, BigGAN-PyTorch's `G_ema.pth`: the state dict itself, averaged already, with its own
    spectral norm.
    """
    if "shared.weight" not in found:
        raise CheckpointError("no shared.weight in this file: not BigGAN's")
    return folded({k: v for k, v in found.items() if isinstance(v, Tensor)})


SYSTEMS = {"dae": dae, "ldm": ldm, "d2c": d2c, "adm": adm}


def misfits(state: State, want: dict[str, tuple[int, ...]]) -> list[str]:
    """What is missing, extra or misshapen in a state dict, one line each, sorted."""
    have = {k: tuple(v.shape) for k, v in state.items()}
    return sorted(
        [f"missing {k}" for k in want.keys() - have]
        + [f"extra {k}" for k in have.keys() - want]
        + [
            f"{k} is {have[k]}, expected {want[k]}"
            for k in want.keys() & have
            if have[k] != want[k]
        ]
    )
