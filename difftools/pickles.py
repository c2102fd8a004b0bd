"""Pickles of StyleGAN2 and StyleGAN-XL read without running any code; StyleGAN2's three layouts
made one.

NVIDIA's files are pickles whose loader executes Python source that the file carries; StyleGAN-XL
writes them with dill, which can hold functions besides. Here nothing that a file names is imported,
looked up or called: every name becomes an inert placeholder, except the few that stand for tensors,
arrays and plain containers, which are written again below.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .nets import stylegan2 as net
from .official import CheckpointError, Inert, State, under

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
TENSORFLOW = "dnnlib.tflib.network.Network"
EMBEDDING = "torch.nn.modules.sparse.Embedding"  # StyleGAN-XL's one module of torch itself
NETWORKS = ("G_ema", "G", "D")
SCALARS = (bool, int, float, str, type(None))


class Placeholder(Inert):
    """Stands for whatever a pickle names: keeps what it is given, does nothing with it."""

    origin = ""

    def __new__(cls, *args, **kwargs):  # not __init__, which a pickle may leave out
        new = super().__new__(cls)
        new.args, new.state = args, {}
        return new

    def __call__(self, *args, **kwargs):
        return Placeholder()

    def __setstate__(self, state):
        self.state = state

    def append(self, *_):
        pass

    extend = add = append
    __hash__ = object.__hash__  # as a key or in a set


class Rebuild:
    """A function of this module that a pickle may call; it has no attribute that a pickle could
    set, and so survives the file unchanged.
    """

    __slots__ = ("_make",)

    def __init__(self, make):
        self._make = make

    def __call__(self, *args):
        return self._make(*args)

    def __setstate__(self, state):
        pass


class Array(Placeholder):
    """A numpy array or scalar: its bytes arrive after it is made."""

    def value(self) -> np.ndarray:
        _, shape, dtype, fortran, raw = self.state
        flat = np.frombuffer(_bytes(raw), _dtype(dtype)).astype(_dtype(dtype).newbyteorder("="))
        return flat.reshape(shape, order="F" if fortran else "C")


def _bytes(raw: bytes | str, *_) -> bytes:
    """Protocol 2 and Python 2 write bytes as text."""
    return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)


def _dtype(found: Placeholder) -> np.dtype:
    """A plain number's dtype; the real `numpy.dtype` is never handed to a pickle, which could
    change numpy's own instances.
    """
    name, order = str(found.args[0]), (list(found.state) + ["=", "="])[1]
    if not re.fullmatch(r"[biuf]\d+", name):
        raise CheckpointError(f"an array of {name!r}: only numbers are read")
    return np.dtype(name).newbyteorder(order if order in ("<", ">") else "=")


def _scalar(dtype: Placeholder, raw) -> float | int | bool:
    return np.frombuffer(_bytes(raw), _dtype(dtype))[0].item()


def _array(*_) -> Array:
    return Array()


def _dill_array(make, args, state, *_) -> Array:
    new = Array()
    new.state = state
    return new


def _dill_type(name, *_) -> type:
    """What dill calls a builtin type; of these only sets occur in a module."""
    return set if name == "set" else Placeholder


def _storage(raw):
    return torch.load(io.BytesIO(_bytes(raw)), map_location="cpu", weights_only=True)


def _tensor(storage, offset, size, stride, *_) -> Tensor:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    if 0 not in size and not 0 <= last < held:  # torch would grow the storage in silence
        raise CheckpointError(f"a tensor of {list(size)} in a storage of {held} numbers")
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


def _known() -> dict:
    """What a pickle may call, made anew for each file."""
    known = {
        "collections.OrderedDict": OrderedDict,
        "builtins.set": set,
        "__builtin__.set": set,
        "_codecs.encode": Rebuild(_bytes),
        "torch._utils._rebuild_parameter": Rebuild(lambda data, *_: data),
        "torch._utils._rebuild_tensor_v2": Rebuild(_tensor),
        "torch.storage._load_from_bytes": Rebuild(_storage),
    }
    for numpy in ("numpy.core.multiarray", "numpy._core.multiarray"):  # the new name since numpy 2
        known |= {f"{numpy}.scalar": Rebuild(_scalar), f"{numpy}._reconstruct": Rebuild(_array)}
    for dill in ("dill._dill", "dill.dill"):  # the old name
        known |= {
            f"{dill}._create_array": Rebuild(_dill_array),
            f"{dill}._create_dtypemeta": Rebuild(lambda *_: Placeholder),
            f"{dill}._load_type": Rebuild(_dill_type),
        }
    return known


class _Unpickler(pickle.Unpickler):
    def __init__(self, file):
        super().__init__(file, encoding="latin1")
        self._seen = _known()

    def find_class(self, module, name):
        origin = f"{module}.{name}"
        if origin not in self._seen:
            self._seen[origin] = type("Placeholder", (Placeholder,), {"origin": origin})
        return self._seen[origin]


def read(path: str | Path) -> dict:
    """{network: state, …, "config": {network: scalars}} of a pickle of StyleGAN2's family.

    Networks are those of G_ema, G and D that the file holds; a state is flat, in the file's own
    names; the scalars are the plain attributes of every module, by dotted name. Raises
    CheckpointError if the file is missing, damaged, no pickle, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            top = _Unpickler(file).load()
        flat = {k: _flat(v) for k, v in _named(top).items()}
    except Exception as err:  # a damaged or hostile stream can raise anything
        reason = (str(err).splitlines() or [type(err).__name__])[0][:160]
        raise CheckpointError(f"{path.name} cannot be read as a pickle: {reason}") from err
    if not any(state for state, _ in flat.values()):
        kind = getattr(top, "origin", "") or type(top).__name__
        raise CheckpointError(
            f"{path.name} is no pickle of StyleGAN2's family: its top level is a {kind}, expected "
            "networks named G_ema, G, D (PyTorch) or three networks (TensorFlow)"
        )
    return {k: state for k, (state, _) in flat.items()} | {
        "config": {k: scalars for k, (_, scalars) in flat.items()}
    }


def _is(found, origin: str) -> bool:
    return getattr(found, "origin", "") == origin


def _named(top) -> dict:
    """The networks of a file; TensorFlow's come as (G, D, averaged G), or one alone."""
    if _is(top, TENSORFLOW):
        return {"G_ema": top}
    if isinstance(top, (tuple, list)) and len(top) == 3 and all(_is(v, TENSORFLOW) for v in top):
        return dict(zip(("G", "D", "G_ema"), top, strict=True))
    named = top.items() if isinstance(top, dict) else ()
    return {k: v for k, v in named if k in NETWORKS and _is(v, PERSISTENT)}


def _flat(module: Placeholder, prefix: str = "") -> tuple[State, dict]:
    """(tensors, scalars) of a module and its children, by name."""
    if _is(module, TENSORFLOW):
        fields, joint, children = module.state, "/", module.state["components"]
        tensors = {k: torch.from_numpy(v.value()) for k, v in fields["variables"]}
        plain = fields["static_kwargs"]
    else:  # persistence keeps the module's __dict__ in the only argument
        fields = module.state if _is(module, EMBEDDING) else module.args[0]["state"]
        joint = "."
        children = {k: v for k, v in fields["_modules"].items() if v is not None}
        lost = fields.get("_non_persistent_buffers_set", ())
        tensors = fields["_parameters"] | {
            k: v for k, v in fields["_buffers"].items() if k not in lost
        }
        plain = {k: v for k, v in fields.items() if not k.startswith("_")}
    state = {prefix + k: v.detach() for k, v in tensors.items() if isinstance(v, Tensor)}
    plain = {k: v.value().tolist() if isinstance(v, Array) else v for k, v in plain.items()}
    scalars = {prefix + k: v for k, v in plain.items() if _plain(v)}
    for k, child in children.items():
        if any(_is(child, kind) for kind in (PERSISTENT, TENSORFLOW, EMBEDDING)):
            below = _flat(child, prefix + k + joint)
            state, scalars = state | below[0], scalars | below[1]
    return state, scalars


def _plain(v) -> bool:
    if type(v) in (list, tuple):
        return all(_plain(x) for x in v)
    return type(v) in SCALARS


# --- three layouts, one set of names --------------------------------------------------------------

# By the last part of a scalar's name: the values that the classes compute.
DONE = {
    "activation": ("lrelu", "linear"),
    "nonlinearity": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "architecture": ("skip", "resnet"),  # generator's and critic's; another one misses tensors
    "c_dim": (0,),
    "label_size": (0,),
}
STYLED = {  # parts of a styled convolution: NVIDIA's, rosinality's, TensorFlow's names
    "weight": ("conv.weight", "weight"),
    "affine.weight": ("conv.modulation.weight", "mod_weight"),
    "affine.bias": ("conv.modulation.bias", "mod_bias"),
    "bias": ("activate.bias", "bias"),
    "noise_strength": ("noise.weight", "noise_strength"),
}


def _names(tf: bool, n: int, layers: int) -> State:
    """NVIDIA's name -> rosinality's or TensorFlow's, of a generator of n + 1 sizes."""
    dense = "mapping/Dense{}/{}" if tf else "style.{}.{}"
    out = {
        f"mapping.fc{i}.{k}": dense.format(i if tf else i + 1, k)
        for i in range(layers)
        for k in ("weight", "bias")
    }
    out["synthesis.b4.const"] = "synthesis/4x4/Const/const" if tf else "input.input"
    for i in range(2 * n + 1):  # layers with noise: conv1 at 4×4, then conv0 and conv1 of each size
        size, up = 4 << (i + 1) // 2, i % 2
        new = f"synthesis.b{size}.conv{1 - up}"
        kind = "Conv0_up" if up else "Conv1" if i else "Conv"
        old = f"synthesis/{size}x{size}/{kind}/" if tf else f"convs.{i - 1}." if i else "conv1."
        out |= {f"{new}.{k}": old + v[tf] for k, v in STYLED.items()}
        out[f"{new}.noise_const"] = f"synthesis/noise{i}" if tf else f"noises.noise_{i}"
    for j in range(n + 1):
        new, size = f"synthesis.b{4 << j}.torgb", 4 << j
        old = f"synthesis/{size}x{size}/ToRGB/" if tf else f"to_rgbs.{j - 1}." if j else "to_rgb1."
        out |= {f"{new}.{k}": old + STYLED[k][tf] for k in STYLED if k.startswith(("w", "a"))}
        out[f"{new}.bias"] = old + "bias"
    return out


def _taken(state: State, names: dict) -> tuple[State, State]:
    """(tensors under their new names, what is left); CheckpointError names a missing one."""
    if lost := [old for old in names.values() if old not in state]:
        raise CheckpointError(f"no {lost[0]} in this file: not StyleGAN2's, or cut short")
    rest = set(state) - set(names.values())
    return {k: state[v] for k, v in names.items()}, {k: state[k] for k in rest}


def _filters(state: State, kernel: Tensor) -> State:
    """The low-pass filter under all names by which NVIDIA's modules store it."""
    layers = {k.removesuffix(".weight") for k in state if k.endswith(".weight")}
    layers = {k for k in layers if re.search(r"(^|\.)b\d+\.(conv\d?|fromrgb|skip)$", k)}
    blocks = {k.rsplit(".", 1)[0] for k in layers} - {"b4"}  # a critic's last block has none
    return {f"{k}.resample_filter": kernel.clone() for k in layers | blocks}


def rosinality(state: State) -> State:
    """rosinality/stylegan2-pytorch's generator in NVIDIA's names; only axes of length 1 change."""
    count = lambda pattern: sum(bool(re.fullmatch(pattern, k)) for k in state)  # noqa: E731
    names = _names(False, count(r"to_rgbs\.\d+\.bias"), count(r"style\.\d+\.weight"))
    kernels = [v / 4 for k, v in state.items() if k.endswith(".kernel")]  # they carry their gain
    out, rest = _taken({k: v for k, v in state.items() if not k.endswith(".kernel")}, names)
    for k, v in out.items():
        if v.shape[:1] == (1,):  # weights, constants, colours' biases, strengths of noise
            v = v[0]
        if k.endswith("noise_const") and v.ndim == 3:
            v = v[0]
        out[k] = v.flatten() if k.endswith("torgb.bias") else v
    return out | _filters(out, kernels[0] if kernels else net.low_pass()) | rest


def tensorflow(state: State) -> State:
    """The TensorFlow-era generator in NVIDIA's names: axes in torch's order, styles around 1, and
    the doubling convolutions mirrored (they stored the kernel of the convolution, not of its
    transpose).
    """
    state = {k: v for k, v in state.items() if not k.endswith("lod")}  # how far training grew
    layers = sum(bool(re.fullmatch(r"mapping/Dense\d+/weight", k)) for k in state)
    names = _names(True, sum(k.endswith("/Conv0_up/weight") for k in state), layers)
    out, rest = _taken(state, names | {"mapping.w_avg": "dlatent_avg"})
    for k, v in out.items():
        if k.endswith("const"):
            out[k] = v.flatten(0, 1)[0] if k.endswith("noise_const") and v.ndim > 2 else v[0]
        elif k.endswith("noise_strength"):
            out[k] = v.flatten()[0]
        elif v.ndim == 4:
            v = v.permute(3, 2, 0, 1)
            out[k] = v.flip(2, 3) if ".conv0." in k else v
        elif v.ndim == 2:
            out[k] = v.T
        elif k.endswith("affine.bias"):
            out[k] = v + 1
    return out | _filters(out, net.low_pass()) | rest


def rosinality_critic(state: State) -> State:
    """rosinality/stylegan2-pytorch's discriminator in NVIDIA's names."""
    n = sum(k.endswith(".skip.1.weight") for k in state)
    pairs = {f"b{4 << n}.fromrgb": ("convs.0.0", "convs.0.1")}
    for i in range(1, n + 1):
        b, c = f"b{8 << (n - i)}", f"convs.{i}"
        pairs |= {f"{b}.conv0": (f"{c}.conv1.0", f"{c}.conv1.1"), f"{b}.skip": (f"{c}.skip.1", "")}
        pairs |= {f"{b}.conv1": (f"{c}.conv2.1", f"{c}.conv2.2")}
    pairs |= {"b4.conv": ("final_conv.0", "final_conv.1")}
    pairs |= {f"b4.{k}": (f"final_linear.{i}",) * 2 for i, k in enumerate(("fc", "out"))}
    names = {f"{new}.weight": f"{old}.weight" for new, (old, _) in pairs.items()}
    names |= {f"{new}.bias": f"{old}.bias" for new, (_, old) in pairs.items() if old}
    kernels = [v for k, v in state.items() if k.endswith(".kernel")]
    out, rest = _taken({k: v for k, v in state.items() if not k.endswith(".kernel")}, names)
    return out | _filters(out, kernels[0] if kernels else net.low_pass()) | rest


def _network(found: dict, *names: str, family: str = "StyleGAN2", done: dict = DONE) -> str:
    """The first of the names that a file holds; raw weights in place of averaged ones warn."""
    held = [k for k in names if isinstance(found.get(k), dict) and found[k]]
    if not held:
        listed = ", ".join(map(str, list(found)[:5])) or "nothing"
        raise CheckpointError(f"no {names[0]} in this file, which holds {listed}: not {family}'s")
    if held[0] != names[0]:
        text = "no averaged weights in this file: the raw ones are taken"
        warnings.warn(text, stacklevel=3)
    scalars = found["config"].get(held[0], {}) if "config" in found else {}
    for key, value in scalars.items():
        allowed = done.get(re.split(r"[./]", key)[-1], (value,))
        if value not in allowed:
            raise CheckpointError(f"{held[0]}'s {key} is {value!r}, expected {allowed[0]!r}")
    return held[0]


def stylegan2(found: dict, config: dict, names: Iterable[str] = ()) -> State:
    """StyleGAN2's generator in NVIDIA's names, from what `read` (NVIDIA, TensorFlow) or
    `official.read` (rosinality) found.

    Sizes above the configuration's are left out: the running sum of colours is a picture at every
    size, and SPHInX uses the 1024 px file at 256 px in this way. A file without the mean of w
    (rosinality's own trainings) gets the mean over 10,000 seeded draws.
    """
    if "g_ema" in found or "g" in found:
        state = rosinality(found[_network(found, "g_ema", "g")])
        mean = found.get("latent_avg")
        state["mapping.w_avg"] = _mean_w(state) if mean is None else mean.flatten()
    else:
        state = dict(found[_network(found, "G_ema", "G")])
        state = tensorflow(state) if any("/" in k for k in state) else state
        if "synthesis.b4.const" not in state:
            raise CheckpointError("no synthesis.b4.const in this file: not StyleGAN2's")
    above = tuple(f"synthesis.b{4 << i}." for i in range(len(config["channels"]), 12))
    return {k: v for k, v in state.items() if not k.startswith(above)}


def stylegan2_critic(found: dict, config: dict, names: Iterable[str] = ()) -> State:
    """StyleGAN2's discriminator in NVIDIA's names, from NVIDIA's or rosinality's file."""
    if "d" in found:
        return rosinality_critic(found["d"])
    return dict(found[_network(found, "D")])


def _mean_w(state: State) -> Tensor:
    mapping = under(state, "mapping.")
    w, z = mapping["fc0.weight"].shape
    module = net.Mapping(z, w, len(mapping) // 2)
    module.load_state_dict(mapping | {"w_avg": torch.zeros(w)})
    draws = torch.randn(10_000, z, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return module(draws).mean(0)


def configuration(found: dict) -> dict:
    """The configuration of `StyleGAN2` that fits a file: widths, mapping network, clamp."""
    state = stylegan2(found, {"channels": (0,) * 12})
    widths = {k.split(".")[1]: len(v) for k, v in state.items() if k.endswith("conv1.bias")}
    scalars = found.get("config", {})
    scalars = scalars.get("G_ema") or scalars.get("G") or {}
    first = lambda *keys: next((scalars[k] for k in keys if k in scalars), None)  # noqa: E731
    return {
        "channels": [widths[k] for k in sorted(widths, key=lambda k: int(k[1:]))],
        "z": state["mapping.fc0.weight"].shape[1],
        "w": len(state["mapping.w_avg"]),
        "layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", k)) for k in state),
        "lr": first("mapping.fc0.bias_gain", "mapping_lrmul") or 0.01,
        "clamp": first("synthesis.b4.conv1.conv_clamp", "conv_clamp"),
    }


# --- StyleGAN-XL ----------------------------------------------------------------------------------

XL_DONE = {
    "activation": ("lrelu", "linear"),
    "use_radial_filters": (False,),  # StyleGAN3-R's
}
XL_TOLD = ("up", "down", "padding", "rgb", "clamp")  # of a layer: what no shape shows


def stylegan_xl_configuration(found: dict) -> dict:
    """The configuration of `StyleGANXL` that the layers of a file state, from what `read` found."""
    name = _network(found, "G_ema", "G", family="StyleGAN-XL", done=XL_DONE)
    return _stated(found[name], found.get("config", {}).get(name, {}))


def _stated(state: State, said: dict) -> dict:
    def layer(part: str) -> dict:
        at = f"synthesis.{part}."
        filters = (state.get(f"{at}{k}_filter") for k in ("up", "down"))
        return {
            "name": part,
            "cin": said[at + "in_channels"],
            "cout": said[at + "out_channels"],
            "kernel": said[at + "conv_kernel"],
            "up": said[at + "up_factor"],
            "down": said[at + "down_factor"],
            "taps": [1 if f is None else len(f) for f in filters],
            "padding": list(said[at + "padding"]),
            "rgb": said[at + "is_torgb"],
            "clamp": said[at + "conv_clamp"],
        }

    try:
        fourier = {
            "channels": said["synthesis.input.channels"],
            "size": said["synthesis.input.size"][0],
            "rate": said["synthesis.input.sampling_rate"],
            "bandwidth": said["synthesis.input.bandwidth"],
        }
        return {
            "layers": [layer(part) for part in said["synthesis.layer_names"]],
            "fourier": fourier,
            "z": said["z_dim"],
            "w": said["w_dim"],
            "mapping": said["mapping.num_layers"],
            "lr": said["mapping.fc0.bias_gain"],
            "classes": said["c_dim"],
            "embedding": list(state["mapping.embed.weight"].shape),
            "scale": said["synthesis.output_scale"],
        }
    except KeyError as err:
        raise CheckpointError(f"no {err.args[0]} in this file: not StyleGAN-XL's") from err
    except (TypeError, IndexError) as err:  # names, sizes or paddings that are no lists
        raise CheckpointError(f"the file's layers are not StyleGAN-XL's: {err}") from err


def _told(config: dict) -> dict:
    """Name -> what a configuration says beyond shapes."""
    plain = {k: config[k] for k in ("lr", "scale") if k in config}
    layers = {f"{row['name']}.{k}": row[k] for row in config["layers"] for k in XL_TOLD}
    return plain | {f"fourier.{k}": v for k, v in config["fourier"].items()} | layers


def stylegan_xl(found: dict, config: dict) -> State:
    """StyleGAN-XL's generator in its own names, from what `read` found.

    Raises CheckpointError if the file's layers pad, resample or clamp in another way than the
    configuration says: no shape would show it.
    """
    name = _network(found, "G_ema", "G", family="StyleGAN-XL", done=XL_DONE)
    theirs = _stated(found[name], found.get("config", {}).get(name, {}))
    ours = _told(config)
    for k, v in _told(theirs).items():
        if ours.get(k, v) != v:
            raise CheckpointError(f"the file's {k} is {v}, expected {ours[k]}")
    # unconditional networks carry the table of embeddings and leave it unused
    unused = () if theirs["classes"] else ("mapping.embed.",)
    return {k: v for k, v in found[name].items() if not k.startswith(unused)}
