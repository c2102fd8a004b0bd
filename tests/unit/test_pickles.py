"""Pickles of StyleGAN2 and StyleGAN-XL, torch files of BigGAN: nothing in them runs, damage is one
clear error, every value arrives.
"""

import os
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch

import gan_files as files
from difftools import official, pickles
from difftools.nets import stylegan2, stylegan_xl

PROTOCOLS = (2, 3, 4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_nvidia_pickle_is_the_state_dict(protocol, tmp_path):
    G, D = files.generator(1, clamp=256.0), files.critic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pickles.read(files.nvidia(tmp_path / "a.pkl", G, D, protocol))
    for name, module in (("G_ema", G), ("D", D)):
        want = module.state_dict()
        assert found[name].keys() == want.keys()
        assert all(torch.equal(found[name][k], want[k]) for k in want)
    scalars = found["config"]["G_ema"]
    assert scalars["img_resolution"] == 16 and scalars["synthesis.b8.architecture"] == "skip"
    gain = scalars["mapping.fc0.weight_gain"]
    assert type(gain) is float and gain == pytest.approx(0.01 / np.sqrt(10))
    assert pickles.configuration(found)["clamp"] == 256.0
    assert set(found) == {"G", "D", "G_ema", "config"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_tensorflow_pickle_is_its_variables(protocol, tmp_path):
    G = files.generator(1)
    path = files.tensorflow(tmp_path / "a.pkl", G, protocol, mapping_lrmul=0.02)
    found = pickles.read(path)
    want = G.state_dict()
    got = pickles.stylegan2(found, files.TINY)
    assert got.keys() == want.keys()
    for k in want:
        torch.testing.assert_close(got[k], want[k], rtol=0, atol=1e-6)  # styles are stored minus 1
    assert found["config"]["G_ema"]["fmap_base"] == 64
    assert pickles.configuration(found)["lr"] == 0.02


def test_a_rosinality_file_is_the_state_dict(tmp_path):
    G, D = files.generator(1), files.critic()
    found = official.read(files.rosinality(tmp_path / "a.pt", G, D))
    got = pickles.stylegan2(found, files.TINY), pickles.stylegan2_critic(found, files.CRITIC)
    for state, module in zip(got, (G, D), strict=True):
        want = module.state_dict()
        assert state.keys() == want.keys()
        assert all(torch.equal(state[k], want[k]) for k in want)


def test_a_file_without_the_mean_of_w_gets_one(tmp_path):
    G = files.generator(1)
    found = official.read(files.rosinality(tmp_path / "a.pt", G, mean=False))
    mean = pickles.stylegan2(found, files.TINY)["mapping.w_avg"]
    z = torch.randn(20_000, 10, generator=torch.Generator().manual_seed(1))
    w = G.mapping(z)
    assert ((mean - w.mean(0)).abs() < 5 * w.std(0) / 80).all()


def test_raw_weights_are_taken_with_a_warning(tmp_path):
    found = official.read(files.rosinality(tmp_path / "a.pt", averaged=False))
    with pytest.warns(UserWarning, match="raw"):
        state = pickles.stylegan2(found, files.TINY)
    assert torch.equal(state["synthesis.b4.const"], files.generator(9).synthesis.b4.const)


# --- hostile files --------------------------------------------------------------------------------


Calls = files.Call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_malicious_pickle_stays_inert_and_leaves_no_trace(protocol, tmp_path):
    trace, modules, G = tmp_path / "pwned", set(sys.modules), files.generator(1)
    source = f"open({str(trace)!r}, 'w')"
    evil = {
        "augment_pipe": Calls(os.system, f"touch {trace}"),
        "training_set_kwargs": [Calls(open, str(trace), "w"), Calls(eval, source)],
        "progress": Calls(__import__, "antigravity"),
        "key": {Calls(os.getcwd): 1},
        "called": Calls(Calls(getattr, Calls(__import__, "os"), "system"), f"touch {trace}"),
    }
    path = files.nvidia(tmp_path / "a.pkl", G, protocol=protocol, source=source, **evil)
    found = pickles.read(path)
    assert not trace.exists()
    assert set(sys.modules) == modules and "antigravity" not in modules
    assert all(torch.equal(v, found["G_ema"][k]) for k, v in G.state_dict().items())
    # the file does hold an attack: a plain unpickler runs it
    alone = pickle.dumps(Calls(open, str(trace), "w"), protocol)
    pickle.loads(alone).close()
    assert trace.exists()


EVIL_STATES = (b"}X\x04\x00\x00\x00evilK\x01s", b"N}X\x04\x00\x00\x00evilK\x01s\x86")


def build(target: str, state: bytes) -> bytes:
    """A pickle that sets attributes of what a name stands for."""
    return b"\x80\x02c" + target.encode() + b"\n" + state + b"b."


@pytest.mark.parametrize(
    "target",
    [
        "torch._utils\n_rebuild_tensor_v2",
        "torch._utils\n_rebuild_parameter",
        "torch.storage\n_load_from_bytes",
        "collections\nOrderedDict",
        "builtins\nset",
        "numpy\ndtype",
        "numpy.core.multiarray\nscalar",
        "_codecs\nencode",
        "dill._dill\n_create_array",
        "dill._dill\n_load_type",
        "torch.nn.modules.sparse\nEmbedding",
        "difftools.pickles\nread",
    ],
)
@pytest.mark.parametrize("state", EVIL_STATES)
def test_a_pickle_cannot_alter_what_it_names(target, state, tmp_path):
    (tmp_path / "a.pkl").write_bytes(build(target, state))
    with pytest.raises(official.CheckpointError, match="a.pkl"):
        pickles.read(tmp_path / "a.pkl")
    module, name = target.split("\n")
    real = getattr(sys.modules.get(module, os), name, None)
    assert not hasattr(real, "evil") and not hasattr(pickles.Placeholder, "evil")
    assert not hasattr(pickles._known().get(f"{module}.{name}"), "evil")


def test_the_process_s_own_dtypes_survive(tmp_path):
    """numpy hands out its own float64, whose byte order a pickle could then turn for everyone."""
    swap = b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R"  # numpy.dtype("f8"), then BUILD
    state = b"(K\x03X\x01\x00\x00\x00>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb."
    (tmp_path / "a.pkl").write_bytes(swap + state)
    with pytest.raises(official.CheckpointError):
        pickles.read(tmp_path / "a.pkl")
    assert np.dtype("f8").isnative and np.dtype("f8") == np.float64


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    """torch would fill the rest with whatever the memory holds."""
    path = files.nvidia(tmp_path / "x.pkl")
    raw = path.read_bytes()
    shape = b"K\x0cK\x04K\x04\x87"  # (12, 4, 4), the learned constant's
    assert shape in raw
    path.write_bytes(raw.replace(shape, b"K\x0cK\x04K\x08\x87"))
    with pytest.raises(official.CheckpointError, match=r"\[12, 4, 8\] in a storage of 192"):
        pickles.read(path)


def _cut(path, part):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is not a file"),
        (b"", "cannot be read as a pickle"),
        (b"hello", "cannot be read as a pickle"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "cannot be read as a pickle"),
        (pickle.dumps([1, 2]), "top level is a list"),
        (pickle.dumps({"a": 1}), "top level is a dict"),
        (pickle.dumps({"G_ema": {"x": 1}}), "no pickle of StyleGAN2's family"),
        (pickle.dumps(np.ones(3)), "no pickle of StyleGAN2's family"),
        (pickle.dumps(os.getcwd, 2), "top level is a type|getcwd"),
    ],
)
def test_no_checkpoint_at_all_is_one_clear_error(content, message, tmp_path):
    path = tmp_path / "x.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(official.CheckpointError, match=message) as err:
        pickles.read(path)
    assert "x.pkl" in str(err.value) and "\n" not in str(err.value)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("make", [files.nvidia, files.tensorflow, files.dill])
def test_a_truncated_pickle_is_one_clear_error(make, part, tmp_path):
    path = make(tmp_path / "x.pkl")
    _cut(path, part)
    with pytest.raises(official.CheckpointError, match="x.pkl cannot be read as a pickle"):
        pickles.read(path)


def test_a_torch_file_is_no_pickle(tmp_path):
    with pytest.raises(official.CheckpointError, match="x.pt"):
        pickles.read(files.rosinality(tmp_path / "x.pt"))


# --- files of something else ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "scalars, message",
    [
        ({"c_dim": 10}, "c_dim is 10, expected 0"),
        ({"synthesis.b8.architecture": "orig"}, "architecture is 'orig'"),
        ({"synthesis.b8.conv0.activation": "relu"}, "activation is 'relu'"),
    ],
)
def test_another_architecture_is_refused_by_name(scalars, message, tmp_path):
    found = pickles.read(files.nvidia(tmp_path / "a.pkl", scalars=scalars))
    with pytest.raises(official.CheckpointError, match=message):
        pickles.stylegan2(found, files.TINY)


def test_another_network_is_refused_by_name(tmp_path):
    other = torch.nn.Sequential(torch.nn.Linear(2, 2))
    found = pickles.read(files.nvidia(tmp_path / "a.pkl", other))
    with pytest.raises(official.CheckpointError, match="synthesis.b4.const"):
        pickles.stylegan2(found, files.TINY)
    with pytest.raises(official.CheckpointError, match="no G_ema.*holds state_dict"):
        pickles.stylegan2({"state_dict": {}}, files.TINY)
    found = official.read(files.rosinality(tmp_path / "b.pt"))
    del found["g_ema"]["convs.1.noise.weight"]
    with pytest.raises(official.CheckpointError, match="no convs.1.noise.weight"):
        pickles.stylegan2(found, files.TINY)


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
def test_what_does_not_fit_is_left_for_the_importer_to_name(fault, tmp_path):
    found = official.read(files.rosinality(tmp_path / "b.pt"))
    state, key = found["g_ema"], "synthesis.b8.conv0.bias"
    if fault == "extra":
        state[key := "something.else"] = torch.ones(1)
    elif fault == "misshapen":
        state["convs.0.activate.bias"] = torch.ones(3)
    else:
        found = pickles.read(files.nvidia(tmp_path / "a.pkl"))
        del found["G_ema"][key]
    want = stylegan2.StyleGAN2(**files.TINY).state_dict()
    got = pickles.stylegan2(found, files.TINY)
    wrong = official.misfits(got, {k: tuple(v.shape) for k, v in want.items()})
    assert len(wrong) == 1 and key in wrong[0]


# --- StyleGAN-XL ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stylegan_xl_pickle_is_the_state_dict_and_its_configuration(protocol, tmp_path):
    G = files.xl(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pickles.read(files.dill(tmp_path / "a.pkl", G, protocol))
    got, want = pickles.stylegan_xl(found, files.XL), G.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[k], want[k]) for k in want)
    assert pickles.stylegan_xl_configuration(found) == files.XL
    assert set(found) == {"G", "G_ema", "config"}  # D is made of things that nobody has here
    said = found["config"]["G_ema"]
    assert said["synthesis.input.size"] == [28, 28]
    assert [k for k in said if "non_persistent" in k] == []
    del found["G_ema"]
    with pytest.warns(UserWarning, match="raw") as told:
        raw = pickles.stylegan_xl(found, files.XL)
    assert len(told) == 1 and torch.equal(raw["mapping.w_avg"], files.xl(9).mapping.w_avg)


def test_an_unconditional_stylegan_xl_leaves_its_table_of_classes_out(tmp_path):
    G = files.xl(1, files.XL | {"classes": 0})
    G.mapping.embed = torch.nn.Embedding(9, 4)  # the official class keeps it
    found = pickles.read(files.dill(tmp_path / "a.pkl", G))
    config = pickles.stylegan_xl_configuration(found)
    assert config == files.XL | {"classes": 0}
    state = pickles.stylegan_xl(found, config)
    stylegan_xl.StyleGANXL(**config).load_state_dict(state)
    assert "mapping.embed.weight" in found["G_ema"] and state["mapping.w_avg"].shape == (7,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_malicious_dill_pickle_stays_inert_and_leaves_no_trace(protocol, tmp_path):
    """Calls in the file's every corner, dill's own ways to make types, functions and files too."""
    trace, modules, G = tmp_path / "pwned", set(sys.modules), files.xl(1)
    source = f"open({str(trace)!r}, 'w')"
    opened = Calls(open, str(trace), "w")
    evil = {
        "D": Calls(os.system, f"touch {trace}"),
        "progress": Calls(files._eval_repr, source),
        "training_set_kwargs": Calls(Calls(files._load_type, "eval"), source),
        "augment_pipe": Calls(files._create_array, eval, (source,), opened, None),
        "type": Calls(files._create_dtypemeta, opened),
    }
    path = files.dill(tmp_path / "a.pkl", G, protocol, {"progress": opened}, source, **evil)
    assert b"_eval_repr" in path.read_bytes() and b"pwned" in path.read_bytes()
    found = pickles.read(path)
    assert not trace.exists() and set(sys.modules) == modules
    assert all(torch.equal(v, found["G_ema"][k]) for k, v in G.state_dict().items())
    assert "progress" not in found["config"]["G_ema"]  # neither a number nor text


@pytest.mark.parametrize("name", ["_load_type", "_create_dtypemeta"])
@pytest.mark.parametrize("state", EVIL_STATES)
def test_a_pickle_cannot_alter_what_dill_s_names_make(name, state, tmp_path):
    called = b"\x80\x02cdill._dill\n" + name.encode() + b"\nX\x03\x00\x00\x00set\x85R"
    (tmp_path / "a.pkl").write_bytes(called + state + b"b.")
    with pytest.raises(official.CheckpointError, match="a.pkl"):
        pickles.read(tmp_path / "a.pkl")
    assert not hasattr(set, "evil") and not hasattr(pickles.Placeholder, "evil")


def _other(part, index=1, **changes):
    rows = [dict(row) for row in files.XL["layers"]]
    if part == "layers":
        rows[index] |= changes
        return files.XL | {"layers": rows}
    return files.XL | {part: files.XL[part] | changes if part == "fourier" else changes["to"]}


@pytest.mark.parametrize(
    "config, message",
    [
        (_other("layers", padding=[9, 7, 9, 7]), r"L1_28_10.padding is \[9, 8, 9, 8\], expected"),
        (_other("layers", up=4), "L1_28_10.up is 2, expected 4"),
        (_other("layers", clamp=None), "L1_28_10.clamp is 256.0, expected None"),
        (_other("layers", 6, rgb=False), "L7_16_3.rgb is True, expected False"),
        (_other("fourier", rate=16), "fourier.rate is 8.0, expected 16"),
        (_other("scale", to=1.0), "scale is 0.25, expected 1.0"),
    ],
)
def test_what_no_shape_of_stylegan_xl_shows_is_named(config, message, tmp_path):
    found = pickles.read(files.dill(tmp_path / "a.pkl"))
    with pytest.raises(official.CheckpointError, match=message):
        pickles.stylegan_xl(found, config)


def test_another_network_is_no_stylegan_xl(tmp_path):
    found = pickles.read(files.nvidia(tmp_path / "a.pkl"))
    with pytest.raises(official.CheckpointError, match="no synthesis.*: not StyleGAN-XL's"):
        pickles.stylegan_xl(found, files.XL)
    with pytest.raises(official.CheckpointError, match="no G_ema.*holds g, d.*not StyleGAN-XL's"):
        pickles.stylegan_xl(official.read(files.rosinality(tmp_path / "b.pt")), files.XL)
    rotating = {"synthesis.L1_28_10.use_radial_filters": True}
    found = pickles.read(files.dill(tmp_path / "c.pkl", scalars=rotating))
    with pytest.raises(official.CheckpointError, match="filters is True, expected False"):
        pickles.stylegan_xl(found, files.XL)
    found = pickles.read(files.dill(tmp_path / "d.pkl"))
    with pytest.raises(official.CheckpointError, match="c_dim is 5|synthesis.b4.const"):
        pickles.stylegan2(found, files.TINY)
    found["config"]["G_ema"]["synthesis.L1_28_10.padding"] = 3
    with pytest.raises(official.CheckpointError, match="layers are not StyleGAN-XL's: .*int"):
        pickles.stylegan_xl(found, files.XL)


def _wrong(state, module):
    want = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    return official.misfits(state, want)


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
def test_what_does_not_fit_stylegan_xl_is_left_for_the_importer_to_name(fault, tmp_path):
    found = pickles.read(files.dill(tmp_path / "a.pkl"))
    state, key = found["G_ema"], "synthesis.L1_28_10.bias"
    if fault == "missing":
        del state[key]
    else:
        state[key if fault == "misshapen" else (key := "something.else")] = torch.ones(3)
    wrong = _wrong(pickles.stylegan_xl(found, files.XL), files.xl())
    assert len(wrong) == 1 and key in wrong[0]


# --- BigGAN: plain torch files, spectral norm folded ----------------------------------------------

BIGGANS = {
    "deep": (official.biggan_deep, files.deep, files.biggan_deep_state, "generator.gen_z"),
    "shallow": (official.biggan, files.big, files.biggan_state, "linear"),
}


@pytest.mark.parametrize("name", BIGGANS)
def test_a_biggan_file_fits_and_is_folded(name, tmp_path):
    convert, make, layout, layer = BIGGANS[name]
    net = make(1)
    state = convert(official.read(files.torch_file(tmp_path / "a.bin", layout(net))), {})
    assert _wrong(state, net) == []
    weight = net.state_dict()[f"{layer}.weight"]
    ratio = weight / state[f"{layer}.weight"]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=0)
    norm = float(torch.linalg.matrix_norm(weight, 2))
    assert 0.3 * norm < float(ratio.mean()) <= norm * 1.0001  # one step of power iteration
    for k in ("embeddings.weight", "shared.weight"):  # which carry none
        assert k not in state or torch.equal(state[k], net.state_dict()[k])


@pytest.mark.parametrize("name", BIGGANS)
@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
def test_what_does_not_fit_biggan_is_named(name, fault, tmp_path):
    convert, make, layout, layer = BIGGANS[name]
    found, key = layout(make()), f"{layer}.bias"
    if fault == "missing":
        del found[key]
    else:
        found[key if fault == "misshapen" else (key := "something.else")] = torch.ones(3)
    wrong = _wrong(convert(found, {}), make())
    assert len(wrong) == 1 and key in wrong[0]


def test_another_file_is_no_biggan(tmp_path):
    found = files.biggan_deep_state(files.deep())
    with pytest.raises(official.CheckpointError, match="no shared.weight.*not BigGAN's"):
        official.biggan(found, {})
    with pytest.raises(official.CheckpointError, match="no embeddings.weight.*not BigGAN-deep's"):
        official.biggan_deep(files.biggan_state(files.big()), {})
    del found["generator.gen_z.weight_v"]
    with pytest.raises(official.CheckpointError, match="no generator.gen_z.weight_v in this file"):
        official.biggan_deep(found, {})


@pytest.mark.parametrize("old", [True, False])
def test_a_biggan_file_with_code_is_refused_by_name(old, tmp_path):
    trace = tmp_path / "pwned"
    state, evil = files.biggan_deep_state(files.deep()), Calls(os.system, f"touch {trace}")
    path = files.torch_file(tmp_path / "a.bin", state, old, evil=evil)
    with pytest.raises(official.CheckpointError, match="a.bin.*system"):
        official.read(path)
    assert not trace.exists()
