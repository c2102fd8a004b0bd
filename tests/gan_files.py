"""StyleGAN2 checkpoints in their three official layouts, tiny and random.

The classes that such files name exist while a file is written and at no other time: whoever reads
it has neither dnnlib nor torch_utils.
"""

import contextlib
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import torch

from difftools.nets import stylegan2

TINY = {"channels": (12, 8, 6), "z": 10, "w": 7, "layers": 2}  # 16 px; every width its own
CRITIC = {"channels": (12, 8, 6)}


def shake(module, seed=0, filters=False):
    """Random weights of the scale of a trained network, biases and noise included.

    filters: low-pass filters too, so that a mirrored one shows.
    """
    gen = torch.Generator().manual_seed(seed)
    randn = lambda v: torch.randn(v.shape, generator=gen)  # noqa: E731
    with torch.no_grad():
        for name, v in module.state_dict().items():
            if name.endswith("resample_filter"):
                v.copy_(v * (1 + 0.5 * randn(v)) if filters else v)
            elif name.startswith("mapping.fc"):
                v.copy_(randn(v) * (100 if name.endswith("weight") else 30))
            elif name.endswith("affine.bias"):
                v.copy_(1 + 0.3 * randn(v))
            elif name.endswith(("bias", "strength", "w_avg")):
                v.copy_(0.3 * randn(v))
            else:
                v.copy_(randn(v))
    return module.eval().requires_grad_(False)


def generator(seed=0, **changes):
    return shake(stylegan2.StyleGAN2(**TINY | changes), seed)


def critic(seed=5, **changes):
    return shake(stylegan2.Discriminator(**CRITIC | changes), seed)


@contextlib.contextmanager
def modules(**members):
    """Modules of these names ("a.b" as "a__b") and members, for the time of writing."""
    made = []
    for name, content in members.items():
        parts = name.split("__")
        for i in range(1, len(parts) + 1):
            path = ".".join(parts[:i])
            if path not in sys.modules:
                sys.modules[path] = types.ModuleType(path)
                made.append(path)
        for key, value in content.items():
            value.__module__, value.__qualname__, value.__name__ = path, key, key
            setattr(sys.modules[path], key, value)
    try:
        yield
    finally:
        for path in made:
            del sys.modules[path]


# --- NVIDIA ---------------------------------------------------------------------------------------


def _reconstruct(meta):
    raise AssertionError("the reader called what the file names")


class _EasyDict(dict):
    pass


class _Persistent:
    """Writes itself as `torch_utils.persistence` writes a module: its source, its __dict__."""

    def __init__(self, class_name, state, source):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self):
        return _reconstruct, (self.meta,), None


def persistent(module, scalars=None, source="raise SystemExit", name="", top="Generator"):
    """A module tree as persistence keeps it; scalars: {dotted name: value} beside the defaults."""
    scalars = scalars or {}
    state = {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict(
            (k, persistent(m, scalars, source, f"{name}{k}.", type(m).__name__))
            for k, m in module._modules.items()
        ),
        "_init_args": (),
        "_init_kwargs": _EasyDict(w_dim=7, synthesis_kwargs=_EasyDict(channel_base=64)),
    }
    if isinstance(module, stylegan2.Dense):
        state |= {"activation": "lrelu", "weight_gain": np.float64(module.gain)}
        state["bias_gain"] = module.lr
    if isinstance(module, stylegan2.StyledConv):
        state |= {"activation": "lrelu", "conv_clamp": module.clamp, "act_gain": np.sqrt(2)}
    own = {k: v for k, v in scalars.items() if k.rpartition(".")[0] == name[:-1]}
    state |= {k.removeprefix(name): v for k, v in own.items()}
    return _Persistent(top, state, source)


def nvidia(path, G=None, D=None, protocol=4, scalars=None, source="raise SystemExit", **more):
    """{G, D, G_ema, …}; the raw generator differs from the averaged one."""
    G, D = G or generator(), D or critic()
    own = {"c_dim": 0, "img_resolution": 16, "synthesis.b8.architecture": "skip"}
    own, resnet = own | (scalars or {}), {"c_dim": 0, "b16.architecture": "resnet"}
    found = {
        "G": persistent(generator(9), own, source),
        "D": persistent(D, resnet, source, top="Discriminator"),
        "G_ema": persistent(G, own, source),
        "augment_pipe": None,
        "training_set_kwargs": _EasyDict(class_name="training.dataset.ImageFolderDataset"),
    }
    members = {
        "torch_utils__persistence": {"_reconstruct_persistent_obj": _reconstruct},
        "dnnlib__util": {"EasyDict": _EasyDict},
    }
    with modules(**members):
        path.write_bytes(pickle.dumps(found | more, protocol=protocol))
    return path


# --- TensorFlow -----------------------------------------------------------------------------------


class _Network:
    def __init__(self, name, variables, components=None, **static):
        self.state = {
            "version": 4,
            "name": name,
            "static_kwargs": _EasyDict(static),
            "components": _EasyDict(components or {}),
            "build_module_src": "raise SystemExit",
            "build_func_name": name,
            "variables": [(k, np.array(v, order="C")) for k, v in variables.items()],
        }

    def __getstate__(self):
        return self.state


def _hwio(v):
    return v.permute(2, 3, 1, 0).numpy()


def _tensorflow_layer(s, new, old):
    out = {f"{old}/weight": _hwio(s[f"{new}.weight"]), f"{old}/bias": s[f"{new}.bias"].numpy()}
    out[f"{old}/mod_weight"] = s[f"{new}.affine.weight"].numpy().T
    return out | {f"{old}/mod_bias": s[f"{new}.affine.bias"].numpy() - 1}


def tensorflow_generator(G, **static):
    s = G.state_dict()
    mapping, i = {}, 0
    while f"mapping.fc{i}.weight" in s:
        mapping[f"Dense{i}/weight"] = s[f"mapping.fc{i}.weight"].numpy().T
        mapping[f"Dense{i}/bias"] = s[f"mapping.fc{i}.bias"].numpy()
        i += 1
    net = {"4x4/Const/const": s["synthesis.b4.const"].numpy()[None], "lod": np.float32(0)}
    k = 0
    for size in G.synthesis.sizes:
        b = f"synthesis.b{size}"
        layers = {"conv1": "Conv"} if size == 4 else {"conv0": "Conv0_up", "conv1": "Conv1"}
        for new, old in layers.items():
            net |= _tensorflow_layer(s, f"{b}.{new}", f"{size}x{size}/{old}")
            if old == "Conv0_up":
                net[f"{size}x{size}/{old}/weight"] = net[f"{size}x{size}/{old}/weight"][::-1, ::-1]
            net[f"{size}x{size}/{old}/noise_strength"] = s[f"{b}.{new}.noise_strength"].numpy()
            net[f"noise{k}"] = s[f"{b}.{new}.noise_const"].numpy()[None, None]
            k += 1
        net |= _tensorflow_layer(s, f"{b}.torgb", f"{size}x{size}/ToRGB")
    parts = {"synthesis": _Network("G_synthesis", net), "mapping": _Network("G_mapping", mapping)}
    own = {"lod": np.float32(0), "dlatent_avg": s["mapping.w_avg"].numpy()}
    return _Network("G", own, parts, resolution=G.size, fmap_base=64, **static)


def tensorflow(path, G=None, protocol=4, alone=False, **static):
    """(G, D, averaged G), or the averaged one alone."""
    averaged = tensorflow_generator(G or generator(), **static)
    critic_ = _Network("D", {"Output/bias": np.zeros(1, np.float32)})
    found = averaged if alone else (tensorflow_generator(generator(9)), critic_, averaged)
    members = {"dnnlib__tflib__network": {"Network": _Network}}
    with modules(**members | {"dnnlib__util": {"EasyDict": _EasyDict}}):
        path.write_bytes(pickle.dumps(found, protocol=protocol))
    return path


# --- rosinality -----------------------------------------------------------------------------------


def rosinality_generator(G):
    s = G.state_dict()
    out = {"input.input": s["synthesis.b4.const"][None]}
    i = 0
    while f"mapping.fc{i}.weight" in s:
        out |= {f"style.{i + 1}.{k}": s[f"mapping.fc{i}.{k}"] for k in ("weight", "bias")}
        i += 1
    blocks = {4: ("conv1", "to_rgb1")}
    for j, size in enumerate(G.synthesis.sizes[1:]):
        blocks[size] = (f"convs.{2 * j}", f"convs.{2 * j + 1}", f"to_rgbs.{j}")
    k = 0
    for size, names in blocks.items():
        b = f"synthesis.b{size}"
        news = ("conv1", "torgb") if size == 4 else ("conv0", "conv1", "torgb")
        for new, old in zip(news, names, strict=True):
            v = f"{b}.{new}"
            out[f"{old}.conv.weight"] = s[f"{v}.weight"][None]
            out[f"{old}.conv.modulation.weight"] = s[f"{v}.affine.weight"]
            out[f"{old}.conv.modulation.bias"] = s[f"{v}.affine.bias"]
            if new == "torgb":
                out[f"{old}.bias"] = s[f"{v}.bias"].reshape(1, 3, 1, 1)
                continue
            out[f"{old}.activate.bias"] = s[f"{v}.bias"]
            out[f"{old}.noise.weight"] = s[f"{v}.noise_strength"].reshape(1)
            out[f"noises.noise_{k}"] = s[f"{v}.noise_const"][None, None]
            if new == "conv0":
                out[f"{old}.conv.blur.kernel"] = 4 * s[f"{v}.resample_filter"]
            k += 1
        if size > 4:
            out[f"{names[-1]}.upsample.kernel"] = 4 * s[f"{b}.resample_filter"]
    return out


def rosinality_critic(D):
    s, out = D.state_dict(), {}
    sizes = [f"b{size}" for size in D.sizes[:-1]]

    def put(new, old, weight, bias=None):
        out[f"{old}.{weight}.weight"] = s[f"{new}.weight"]
        if bias is not None:
            out[f"{old}.{bias}.bias"] = s[f"{new}.bias"]

    put(f"{sizes[0]}.fromrgb", "convs.0", 0, 1)
    for i, b in enumerate(sizes, 1):
        put(f"{b}.conv0", f"convs.{i}.conv1", 0, 1)
        put(f"{b}.conv1", f"convs.{i}.conv2", 1, 2)
        put(f"{b}.skip", f"convs.{i}.skip", 1)
        for part in ("conv2", "skip"):
            out[f"convs.{i}.{part}.0.kernel"] = s[f"{b}.resample_filter"]
    put("b4.conv", "final_conv", 0, 1)
    put("b4.fc", "final_linear", 0, 0)
    put("b4.out", "final_linear", 1, 1)
    return out


def rosinality(path, G=None, D=None, mean=True, averaged=True):
    """{g, d, g_ema, latent_avg, optimisers}; own trainings have no `latent_avg`."""
    G, D = G or generator(), D or critic()
    found = {"g": rosinality_generator(generator(9)), "d": rosinality_critic(D)}
    found |= {"g_ema": rosinality_generator(G)} if averaged else {}
    found |= {"latent_avg": G.mapping.w_avg} if mean else {}
    torch.save(found | {"g_optim": {"state": {}, "param_groups": []}}, path)
    return path
