"""Checkpoints of the GANs in their official layouts, tiny and random: StyleGAN2's three,
StyleGAN-XL's, BigGAN's, BigGAN-deep's.

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

from difftools import zoo
from difftools.nets import biggan, biggan_deep, stylegan2, stylegan_xl

TINY = {"channels": (12, 8, 6), "z": 10, "w": 7, "layers": 2}  # 16 px; every width its own
CRITIC = {"channels": (12, 8, 6)}
LADDER = {"stem": 4, "head": 4, "base": 90, "most": 10}  # 8 px, then 16 px; canvases 20 px wider
XL = stylegan_xl.design(
    (8, 16), **LADDER, z=6, w=7, mapping=2, lr=0.01, classes=5, embedding=[9, 4], scale=0.25
)
BIG = {"channels": (16, 16, 8), "z": 9, "shared": 5, "classes": 4, "attention": 8}  # 16 px
DEEP = {"channels": (16, 16, 8), "z": 6, "classes": 4, "attention": 8, "rows": 11}


def shake(module, seed=0, filters=False):
    """Random weights of the scale of a trained network, biases and noise included.

    filters: low-pass filters too, so that a mirrored one shows.
    """
    gen = torch.Generator().manual_seed(seed)
    randn = lambda v: torch.randn(v.shape, generator=gen)  # noqa: E731
    with torch.no_grad():
        for name, v in module.state_dict().items():
            if name.endswith("_filter"):
                v.copy_(v * (1 + 0.5 * randn(v)) if filters else v)
            elif name.endswith(("magnitude_ema", "var", "vars")):
                v.copy_(0.5 + randn(v).abs())
            elif name.endswith("transform"):  # a user's rotation, scale and shift
                v.copy_(torch.eye(3) + 0.2 * randn(v))
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


def xl(seed=0, config=XL):
    """Some of its waves lie above the bandwidth."""
    return shake(stylegan_xl.StyleGANXL(**config), seed, filters=True)


def _moderate(net):
    """Activations of about one, as spectral norm leaves them."""
    for m in net.modules():
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
            m.weight.div_(m.weight[0].numel() ** 0.5)
    return net


def big(seed=0):
    return _moderate(shake(biggan.BigGAN(**BIG), seed))


def deep(seed=0):
    return _moderate(shake(biggan_deep.BigGANDeep(**DEEP), seed))


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
    if isinstance(module, torch.nn.Embedding):  # torch's own modules pickle as themselves
        return module
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
    state |= _xl_attributes(module)
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


# --- StyleGAN-XL ----------------------------------------------------------------------------------


class Call:
    """Pickles as a call of any function, or of what another call gives."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        raise AssertionError


def _create_array(f, args, state, npdict=None):
    raise AssertionError("the reader called what the file names")


def _load_type(name):
    raise AssertionError("the reader called what the file names")


def _create_dtypemeta(scalar_type):
    raise AssertionError("the reader called what the file names")


def _eval_repr(text):
    raise AssertionError("the reader called what the file names")


class _ProjectedDiscriminator:
    def __init__(self):
        self.feature_networks, self.forward_flex = {"deit": 3}, Call(_eval_repr, "exit()")


def _dilled(values):
    """An array as dill writes it: a call that makes it, its dtype's class a call again."""
    array = np.asarray(values)
    make, args, (version, shape, dtype, fortran, raw) = array.__reduce__()
    kind = Call(Call(_create_dtypemeta, None), dtype.str[1:], False, True)
    return Call(_create_array, make, args, (version, shape, kind, fortran, raw), None)


def _xl_attributes(module):
    """What modules of StyleGAN-XL keep beside their tensors, sizes as arrays."""
    if isinstance(module, stylegan_xl.Layer):
        cout, cin, kernel, _ = module.weight.shape
        return {
            "in_channels": cin,
            "out_channels": cout,
            "in_size": _dilled([28, 28]),
            "in_cutoff": np.float64(2.5),
            "conv_kernel": kernel,
            "conv_clamp": module.clamp,
            "up_factor": module.up,
            "down_factor": module.down,
            "padding": list(module.padding),
            "is_torgb": module.rgb,
            "use_radial_filters": False,
            "_non_persistent_buffers_set": Call(Call(_load_type, "set"), []),
        }
    if isinstance(module, stylegan_xl.Fourier):
        return {
            "channels": len(module.weight),
            "size": _dilled([module.size] * 2),
            "sampling_rate": np.float64(module.rate),
            "bandwidth": np.float64(module.bandwidth),
        }
    if isinstance(module, stylegan_xl.Synthesis):
        return {"layer_names": list(module.names), "output_scale": module.scale}
    if isinstance(module, stylegan_xl.Mapping):
        return {"num_layers": module.layers, "c_dim": module.classes}
    if isinstance(module, stylegan_xl.StyleGANXL):
        return {"z_dim": module.z, "w_dim": module.w, "c_dim": module.classes}
    return {}


def dill(path, G=None, protocol=4, scalars=None, source="raise SystemExit", **more):
    """{G, D, G_ema, …} as dill writes them; D is of classes that nobody has here."""
    G = G or xl()
    found = {
        "G": persistent(xl(9), scalars, source),
        "D": _ProjectedDiscriminator(),
        "G_ema": persistent(G, scalars, source, top="SuperresGenerator"),
        "training_set_kwargs": _EasyDict(class_name="training.dataset.ImageFolderDataset"),
        "progress": {"best_fid": 2.3, "cur_nimg": torch.tensor(3)},
    }
    made = (_create_array, _load_type, _create_dtypemeta, _eval_repr)
    members = {
        "torch_utils__persistence": {"_reconstruct_persistent_obj": _reconstruct},
        "dnnlib__util": {"EasyDict": _EasyDict},
        "dill___dill": {f.__name__: f for f in made},
        "pg_modules__discriminator": {"ProjectedDiscriminator": _ProjectedDiscriminator},
    }
    with modules(**members):
        path.write_bytes(pickle.dumps(found | more, protocol=protocol))
    return path


# --- BigGAN ---------------------------------------------------------------------------------------


def _normed(net, plain):
    """Names of the weights under spectral norm."""
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    return [f"{k}.weight" for k, m in net.named_modules() if isinstance(m, kinds) and k != plain]


def biggan_deep_state(net, seed=3):
    """pytorch-pretrained-BigGAN's layout; its vectors are one power iteration from random ones."""
    out, gen = dict(net.state_dict()), torch.Generator().manual_seed(seed)
    for key in _normed(net, "embeddings"):
        weight, layer = out.pop(key), key.removesuffix("weight")
        u = torch.randn(len(weight), generator=gen)
        v = torch.nn.functional.normalize(weight.flatten(1).T @ u, dim=0)
        u = torch.nn.functional.normalize(weight.flatten(1) @ v, dim=0)
        out |= {f"{layer}weight_orig": weight, f"{layer}weight_u": u, f"{layer}weight_v": v}
    return out


def biggan_state(net, seed=3):
    """BigGAN-PyTorch's layout: a vector and a number beside each weight."""
    out, gen = dict(net.state_dict()), torch.Generator().manual_seed(seed)
    for key in _normed(net, ""):
        layer = key.removesuffix("weight")
        out[f"{layer}u0"] = torch.randn(1, len(out[key]), generator=gen)
        out[f"{layer}sv0"] = torch.ones(1)
    return out


def torch_file(path, state, old=True, **more):
    """A state dict as torch wrote it in 2019, or as now."""
    torch.save(OrderedDict(state) | more, path, _use_new_zipfile_serialization=not old)
    return path


def imported(folder):
    """The name of a StyleGAN2 of 16 px, imported from a file of NVIDIA's layout in the folder."""
    config = {"family": "stylegan2", "g": TINY, "d": CRITIC}
    return zoo.import_official("stylegan2", nvidia(folder / "a.pkl", generator(1)),
                               "stylegan2-ffhq256", config)
