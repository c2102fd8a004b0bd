"""Official layouts load, name for name, value for value; what does not fit or holds code is
refused.
"""

import json

import pytest
import torch

import official_files as files
from difftools import official, zoo
from difftools.diffusion.inversion import round_trip
from difftools.nets import adm, nvae

SYSTEMS = {  # system -> (file maker, tiny config, model)
    "dae": (files.dae, files.DAE, "dae-ffhq256"),
    "ldm": (files.ldm, files.LDM, "ldm-ffhq256"),
    "d2c": (files.d2c, files.D2C, "d2c-ffhq256"),
    "adm": (files.openai, files.ADM, "ddpm-ffhq256"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    yield
    zoo.model.cache_clear()


def bring(system, tmp_path, **options):
    make, config, name = SYSTEMS[system]
    make(tmp_path / f"{system}.ckpt", **options)
    assert zoo.import_official(system, tmp_path / f"{system}.ckpt", name, config) == name
    return zoo.load(name, steps=6)


def picture(n=2, size=16):
    gen = torch.Generator().manual_seed(0)
    return (torch.rand(n, 3, size, size, generator=gen) * 2 - 1) * 0.9


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_imported_checkpoint_inverts_and_samples(system, tmp_path):
    m = bring(system, tmp_path).with_(stepper="reversible_heun")
    r = round_trip(m, picture())
    alone = m.with_(mode="ae_only") if system in ("ldm", "d2c") else None
    if alone is None:
        assert r["psnr"].min() > 100
    else:  # the autoencoder is the ceiling, and the inversion reaches it
        want = alone.decode(alone.encode(picture()))
        torch.testing.assert_close(r["images"], want, rtol=1e-3, atol=1e-3)
    assert m.decode(m.prior(2)).shape == (2, 3, 16, 16)


def test_dae_takes_the_averaged_weights_and_the_statistics(tmp_path):
    m = bring("dae", tmp_path)
    ema = files.shake(adm.DiffAE(**files.DAE["net"]), 2)
    x = picture()
    torch.testing.assert_close(m.encode(x)["semantic"].float(), ema.encoder(x))
    assert float(m.mean[0]) == pytest.approx(0.3) and float(m.std[0]) == pytest.approx(2.0)
    z = m.prior(3)["semantic"]
    assert z.shape == (3, 12) and not torch.equal(z[0], z[1])


def test_dae_without_its_prior_encodes_but_does_not_sample(tmp_path):
    m = bring("dae", tmp_path, latent=False)
    assert len(m.encode(picture())) == 2
    with pytest.raises(ValueError, match="cannot sample"):
        m.prior(1)


def test_ldm_takes_the_averaged_weights_whose_names_lost_their_dots(tmp_path):
    m = bring("ldm", tmp_path)
    ema = files.shake(adm.UNet(**files.LDM["net"]), 2)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 900.0])
    torch.testing.assert_close(m.denoiser.net(x, t, t), ema(x, t))


def test_ldm_without_averages_takes_the_raw_weights_and_says_so(tmp_path):
    with pytest.warns(UserWarning, match="raw"):
        m = bring("ldm", tmp_path, ema=False)
    raw = files.shake(adm.UNet(**files.LDM["net"]), 1)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 900.0])
    torch.testing.assert_close(m.denoiser.net(x, t, t), raw(x, t))


def test_d2c_takes_encoder_q_and_standardises(tmp_path):
    m = bring("d2c", tmp_path)
    q = files.shake(nvae.NVAE(**files.D2C["first"]), 1)
    x = picture()
    want = (q.encode(nvae.quantise(x)) - 0.2) / 1.5
    torch.testing.assert_close(m.latents(x).float(), want, rtol=1e-4, atol=1e-5)


def test_learned_variance_is_left_out(tmp_path):
    m = bring("adm", tmp_path)
    net = files.shake(adm.UNet(**files.ADM["net"]), 1)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 900.0])
    torch.testing.assert_close(m.denoiser.net(x, t, t), net(x, t)[:, :3])


def test_quantisation_of_latents_is_a_switch(tmp_path):
    m = bring("ldm", tmp_path).with_(mode="ae_only")
    x = picture()
    z = {q: m.with_(quantise=q).encode(x)["latent"] for q in ("at_decode", "before_diffusion")}
    assert not torch.allclose(z["at_decode"], z["before_diffusion"])
    out = {q: m.with_(quantise=q).decode(m.with_(quantise=q).encode(x)) for q in (*z, "never")}
    # quantising before or at the decoder gives the same picture when nothing happens in between
    torch.testing.assert_close(out["at_decode"], out["before_diffusion"])
    assert not torch.allclose(out["at_decode"], out["never"])
    with pytest.raises(ValueError, match="quantise"):
        m.with_(quantise="sometimes")


def test_d2c_s_three_readings_of_condition_zero(tmp_path):
    m = bring("d2c", tmp_path)
    x = picture()
    codes = {mode: m.with_(mode=mode).encode(x) for mode in ("ae_only", "official_r0")}
    assert set(codes["ae_only"].tensors) == {"latent"}
    assert codes["ae_only"].geometry["latent"] == "flat"
    alone, smoothed = (m.with_(mode=k).decode(c) for k, c in codes.items())
    assert not torch.allclose(alone, smoothed)
    boundary = torch.ones(1, 4, 4, 4)
    torch.testing.assert_close(m.manipulate(x, boundary, 0.0), smoothed)
    assert not torch.allclose(m.manipulate(x, boundary, 1.0), smoothed, atol=1e-3)
    assert set(m.encode(x).tensors) == {"noise"}


def test_d2c_decoders(tmp_path):
    m = bring("d2c", tmp_path).with_(mode="ae_only")
    code = m.encode(picture())
    mean, mode = (m.with_(pixels=p).decode(code) for p in ("mean", "mode"))
    a, b = m.with_(pixels="sample").decode(code), m.with_(pixels="sample").decode(code)
    assert torch.equal(a, b), "one seed, one picture"
    other = m.with_(pixels="sample").encode(picture(), seeds=[5, 6])
    assert not torch.equal(a, m.with_(pixels="sample").decode(other))
    assert not torch.allclose(mean, mode) and not torch.allclose(mode, a)


def test_a_file_with_code_is_refused_before_it_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"state_dict": {"x": torch.ones(1)}, "hook": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(official.CheckpointError, match="holds code.*open"):
        official.read(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()


def test_an_object_of_a_training_framework_stays_inert(tmp_path):
    found = official.read(files.dae(tmp_path / "a.ckpt"))
    assert found["callbacks"] and all(k is official.Inert for k in found["callbacks"])


@pytest.mark.parametrize(
    "content, message",
    [(b"", "cannot be read"), (b"hello", "cannot be read"), (None, "not a file")],
)
def test_no_checkpoint_at_all(content, message, tmp_path):
    if content is not None:
        (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(official.CheckpointError, match=message):
        official.read(tmp_path / "x.ckpt")


def test_a_truncated_file_is_refused_and_leaves_nothing(tmp_path):
    raw = files.dae(tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(official.CheckpointError):
        zoo.import_official("dae", tmp_path / "a.ckpt", "", files.DAE)
    assert not list((tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
def test_a_wrong_key_is_named(fault, tmp_path):
    files.openai(tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    key = "middle_block.1.qkv.weight"
    if fault == "missing":
        del state[key]
    elif fault == "extra":
        key = "label_emb.weight"
        state[key] = torch.ones(3)
    else:
        state[key] = state[key][:3]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(zoo.ModelError, match=key):
        zoo.import_official("adm", tmp_path / "a.pt", "ddpm-ffhq256", files.ADM)
    assert not list((tmp_path / "cache").rglob("*"))


def test_the_wrong_system_is_named(tmp_path):
    with pytest.raises(zoo.ModelError, match="unknown system 'gan'.*dae"):
        zoo.import_official("gan", tmp_path / "a.pt")
    with pytest.raises(official.CheckpointError, match="not DiffAE's"):
        zoo.import_official("dae", files.openai(tmp_path / "a.pt"), "", files.DAE)
    with pytest.raises(official.CheckpointError, match="not D2C's"):
        zoo.import_official("d2c", tmp_path / "a.pt", "", files.D2C)
    with pytest.raises(zoo.ModelError, match="does not fit ddpm-ffhq256|does not fit iddpm"):
        zoo.import_official("adm", tmp_path / "a.pt")  # too small for any official configuration


def test_an_altered_import_is_refused(tmp_path):
    bring("adm", tmp_path)
    zoo.model.cache_clear()
    file = zoo.imported("ddpm-ffhq256")
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    with pytest.raises(zoo.ModelError, match="not the registered file.*import it again"):
        zoo.load("ddpm-ffhq256")


def test_a_missing_official_model_says_what_to_download_and_how(tmp_path):
    for name in (n for n, e in zoo.MODELS.items() if e.source):
        with pytest.raises(zoo.ModelError, match="Get .*difftools import"):
            zoo.load(name)


def test_the_note_says_what_was_imported(tmp_path):
    bring("dae", tmp_path)
    note = json.loads(zoo.imported("dae-ffhq256").with_suffix(".json").read_text())
    assert note["source"] == "dae.ckpt" and len(note["source_sha256"]) == 64


@pytest.mark.parametrize("convention, steps", [("adm", 10), ("d2c", 9), ("stability", 10)])
@pytest.mark.parametrize("system", SYSTEMS)
def test_official_conventions_run_on_every_system(system, convention, steps, tmp_path):
    m = bring(system, tmp_path).with_(convention=convention, steps=steps)
    r = round_trip(m, picture())
    assert torch.isfinite(r["images"]).all() and r["up"] >= 9
