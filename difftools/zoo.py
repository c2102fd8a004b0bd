"""Models by name: the only place that knows files.

`load(name)` gives a ready latent model: an embedded sibling, a control, a solvable world, an
imported official checkpoint, or any unconditional diffusers pipeline by hub name or local folder.
Weights are safetensors whose sha256 is verified at every load: against
``data/weights/manifest.json`` for what the book ships, against the note beside the file for what
was imported. """

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from . import data, official
from .diffusion import denoiser as denoisers
from .diffusion import latent as latents
from .diffusion import schedule as schedules
from .diffusion.dae import DAE
from .diffusion.linear import Linear
from .diffusion.model import PixelDiffusion
from .diffusion.schedule import Schedule
from .gaussians import Gaussian
from .nets import adm, configs, nvae
from .nets.unet import VEHICLES32, GaussianPreconditioned, VPredicting, parts, unet, vq
from .weights import ModelError, shipped, verified

if TYPE_CHECKING:
    from .gan.model import GAN

IMAGE = (3, 32, 32)
WEIGHTS = data.ROOT / "weights"
LatentModel: TypeAlias = "PixelDiffusion | DAE | latents.LatentDiffusion | Linear | GAN"


@dataclass(frozen=True)
class Entry:
    """One row of the zoo.

    module: config -> the networks and statistics that the weights file fills, None for controls.
    model: (module, config) -> latent model. source: where an official checkpoint comes from; a
    model without one ships with the book.
    """

    system: str
    world: str
    title: str
    model: Callable[[nn.Module | None, dict], LatentModel]
    module: Callable[[dict], nn.Module] | None = None
    config: dict = field(default_factory=dict)
    source: str = ""


@lru_cache(maxsize=1)
def gaussian_vehicles32() -> Gaussian:
    """Gaussian of the 20,000 training vehicles: mean, 256 leading eigenpairs, one variance for the
    rest.
    """
    g = shipped("gaussian-vehicles32.safetensors")
    return Gaussian(g["mean"], g["eigenvalues"], g["U"], float(g["rest"]))


def load_state(module: nn.Module, state: dict, file: str) -> nn.Module:
    """`load_state_dict`, strict, naming what is missing, extra or misshapen."""
    if wrong := official.misfits(state, shapes(module)):
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ModelError(f"{file} does not fit its model: {'; '.join(wrong[:5])}{more}")
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's state dict."""
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def _blank(shape: tuple[int, ...], rank: int) -> Gaussian:
    """A Gaussian over latents of a shape whose numbers come from the weights file."""
    d = torch.Size(shape).numel()
    return Gaussian(torch.zeros(d), torch.ones(rank), torch.zeros(d, rank), 1.0)


def _call(net: nn.Module, channels: int):
    """(network of the denoiser's signature, what it predicts); a plain network predicts eps."""
    if isinstance(net, GaussianPreconditioned):
        return net, "v" if isinstance(net, VPredicting) else "x0"

    def call(x, t, lam, *cond):
        return denoisers.predict(net, x, t, *cond)[:, :channels]

    return call, "eps"


def _over(net: nn.Module, schedule: Schedule, shape: tuple[int, ...]) -> denoisers.Denoiser:
    """A denoiser on a schedule, channels last."""
    net = net.to(memory_format=torch.channels_last)
    call, predicts = _call(net, shape[0])
    return denoisers.Denoiser(call, schedule, shape, predicts)


def _pixel(schedule: Callable[[], Schedule]):
    return lambda net, config: PixelDiffusion(_over(net, schedule(), IMAGE))


def _ddpm_module(config: dict) -> nn.Module:
    return GaussianPreconditioned(unet(**config), gaussian_vehicles32())


def _v_module(config: dict) -> nn.Module:
    return VPredicting(adm.UNet(**config), gaussian_vehicles32())


def _untrained(module, config: dict) -> PixelDiffusion:
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    net = unet(**VEHICLES32)
    torch.set_rng_state(torch_state)  # loading a model never moves the caller's generator
    return PixelDiffusion(denoisers.from_unet(net, schedules.linear(), IMAGE))


def _adm(net: nn.Module, config: dict) -> PixelDiffusion:
    """The OpenAI dialect: a chain of `chain` steps, its network told times rescaled to 1000."""
    schedule = schedules.SCHEDULES[config["schedule"]](config["chain"])
    size = config["net"]["size"]
    return PixelDiffusion(_over(net, schedule.told(config["told"]), (3, size, size)))


def _dae_module(config: dict) -> nn.Module:
    net = adm.DiffAE(**config["net"])
    if config.get("preconditioned"):
        net = GaussianPreconditioned(net, gaussian_vehicles32())
    k = config["net"]["cond"]
    if "latent" not in config:
        return parts({"net": net})
    latent = adm.LatentMLP(**config["latent"])
    return parts({"net": net, "latent": latent}, mean=torch.zeros(k), std=torch.ones(k))


def _dae(module: nn.ModuleDict, config: dict) -> DAE:
    net, k, size = module["net"], config["net"]["cond"], config["net"]["size"]
    encoder = (net.net if config.get("preconditioned") else net).encoder
    diffusion = PixelDiffusion(_over(net, schedules.linear(), (3, size, size)))
    if "latent" not in config:
        return DAE(encoder, diffusion, None, torch.zeros(k), torch.ones(k))
    latent = module["latent"]
    d = denoisers.Denoiser(lambda z, t, lam: latent(z, t), schedules.constant(), (k,))
    return DAE(encoder, diffusion, PixelDiffusion(d, steps=100), module.mean, module.std)


def _latent_net(config: dict, net: nn.Module) -> nn.Module:
    """The denoiser over latents: as published, or around a Gaussian that the file brings."""
    if "rank" not in config:
        return net
    return GaussianPreconditioned(net, _blank(config["latent"], config["rank"]), keep=True)


def _ldm_module(config: dict) -> nn.Module:
    net = _latent_net(config, adm.UNet(**config["net"]))
    return parts({"first": vq(**config["first"]), "net": net})


def _ldm(module: nn.ModuleDict, config: dict) -> latents.LatentDiffusion:
    size = config["first"]["size"]
    diffusion = PixelDiffusion(_over(module["net"], schedules.sqrt_linear(), config["latent"]))
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    first = latents.VQ(module["first"])
    return latents.LatentDiffusion(first, diffusion, (3, size, size), zero, one)


def _d2c_module(config: dict) -> nn.Module:
    net, c = _latent_net(config, unet(**config["net"])), config["latent"][0]
    first = nvae.NVAE(**config["first"])
    statistics = {"mean": torch.zeros(1, c, 1, 1), "std": torch.ones(1, c, 1, 1)}
    return parts({"first": first, "net": net}, **statistics)


def _d2c(module: nn.ModuleDict, config: dict) -> latents.LatentDiffusion:
    size = config["size"]
    diffusion = PixelDiffusion(_over(module["net"], schedules.linear(), config["latent"]))
    first = latents.NVAE(module["first"])
    return latents.LatentDiffusion(first, diffusion, (3, size, size), module.mean, module.std)


def _openai(title: str, net: dict, schedule="linear", chain=1000, told=1.0, source="") -> Entry:
    config = {"net": net, "schedule": schedule, "chain": chain, "told": told}
    return Entry("ADM", "P", title, _adm, lambda c: adm.UNet(**c["net"]), config, source)


# GANs are imported when one is asked for: a chapter without them does not rest on their code.


def _generator(config: dict) -> nn.Module:
    """The network of a GAN, by its family: `g`, and its critic `d` where the configuration has
    one.
    """
    from .nets import biggan, biggan_deep, stylegan2, stylegan_xl

    family = {
        "stylegan2": stylegan2.StyleGAN2,
        "styleganxl": stylegan_xl.StyleGANXL,
        "biggan": biggan.BigGAN,
        "biggan-deep": biggan_deep.BigGANDeep,
    }[config["family"]]
    g = config["g"]
    g = stylegan_xl.design(**g) if "sizes" in g else g
    modules = {"g": family(**g)}
    return parts(modules | ({"d": stylegan2.Discriminator(**config["d"])} if "d" in config else {}))


def _gan(module: nn.ModuleDict, config: dict) -> GAN:
    from .gan.generator import embedded, styled
    from .gan.model import GAN

    if config["family"].startswith("biggan"):
        return GAN(embedded(module["g"]), recipe="biggan")
    recipe = "xl" if config["g"].get("classes") else "w_plus"
    return GAN(styled(module["g"]), recipe=recipe)


def _gan_entry(
    system: str, world: str, title: str, family: str, g: dict, d=None, source=""
) -> Entry:
    config = {"family": family, "g": g} | ({"d": d} if d else {})
    return Entry(system, world, title, _gan, _generator, config, source)


MODELS: dict[str, Entry] = {
    "ddpm-vehicles32": Entry(
        "DDPM",
        "E",
        "Gaussian-preconditioned DDPM, CIFAR-10 vehicles",
        _pixel(schedules.linear),
        _ddpm_module,
        VEHICLES32,
    ),
    "ddpm-eps-vehicles32": Entry(
        "DDPM",
        "E",
        "plain epsilon-prediction twin, a control",
        _pixel(schedules.linear),
        lambda c: unet(**c),
        VEHICLES32,
    ),
    "v-vehicles32": Entry(
        "DDPM",
        "E",
        "v-prediction on the cosine schedule, OpenAI dialect",
        _pixel(schedules.cosine),
        _v_module,
        configs.V_VEHICLES32,
    ),
    "dae-vehicles32": Entry(
        "DAE",
        "E",
        "diffusion autoencoder, semantic code of 64 numbers",
        _dae,
        _dae_module,
        {
            "net": configs.DAE_VEHICLES32,
            "latent": configs.LATENT_VEHICLES32,
            "preconditioned": True,
        },
    ),
    "ldm-vehicles32": Entry(
        "LDM",
        "E",
        "latent diffusion over a VQ autoencoder, latents 3×16×16",
        _ldm,
        _ldm_module,
        {
            "first": configs.VQ_VEHICLES32,
            "net": configs.LDM_VEHICLES32,
            "latent": (3, 16, 16),
            "rank": 128,
        },
    ),
    "d2c-vehicles32": Entry(
        "D2C",
        "E",
        "latent diffusion over a contrastive autoencoder, latents 8×8×8",
        _d2c,
        _d2c_module,
        {
            "first": configs.NVAE_VEHICLES32,
            "net": configs.D2C_VEHICLES32,
            "latent": (8, 8, 8),
            "size": 32,
            "rank": 512,
        },
    ),
    "stylegan2-vehicles32": _gan_entry(
        "STYLEGAN2",
        "E",
        "StyleGAN2 and its critic, CIFAR-10 vehicles",
        "stylegan2",
        configs.STYLEGAN2_VEHICLES32,
        configs.STYLEGAN2_CRITIC,
    ),
    "styleganxl-vehicles32": _gan_entry(
        "STYLEGANXL",
        "E",
        "class-conditional StyleGAN2 layers, trained StyleGAN-XL's way",
        "stylegan2",
        configs.STYLEGANXL_VEHICLES32,
    ),
    "biggan-vehicles32": _gan_entry(
        "BIGGAN",
        "E",
        "BigGAN, four classes of CIFAR-10 vehicles",
        "biggan",
        configs.BIGGAN_VEHICLES32,
    ),
    "gaussian-vehicles32": Entry(
        "exact Gaussian",
        "S",
        "exact score of the training set's Gaussian, rank 256",
        lambda m, c: PixelDiffusion(denoisers.exact(gaussian_vehicles32(), IMAGE)),
    ),
    "linear-vehicles32": Entry(
        "control",
        "S",
        "linear code: principal components, 256 at most, else cosines",
        lambda m, c: Linear(gaussian_vehicles32(), IMAGE),
    ),
    "zero": Entry(
        "control",
        "S",
        "the network that predicts no noise",
        lambda m, c: PixelDiffusion(denoisers.zero(IMAGE)),
    ),
    "untrained": Entry(
        "control", "S", "the network of the DDPM with random weights (seed 0)", _untrained
    ),
    "dae-ffhq256": Entry(
        "DAE",
        "P",
        "Diffusion Autoencoders, FFHQ 256 px",
        _dae,
        _dae_module,
        {"net": configs.DAE_FFHQ256, "latent": configs.LATENT_FFHQ256},
        "checkpoints/ffhq256_autoenc_latent/last.ckpt from the README of github.com/phizaz/diffae; "
        "then `difftools import dae last.ckpt`",
    ),
    "ldm-ffhq256": Entry(
        "LDM",
        "P",
        "latent diffusion, FFHQ 256 px, VQ-f4",
        _ldm,
        _ldm_module,
        {"first": configs.VQ_F4, "net": configs.LDM_FFHQ256, "latent": (3, 64, 64)},
        "model.ckpt of ffhq.zip from the README of github.com/CompVis/latent-diffusion; then "
        "`difftools import ldm model.ckpt`",
    ),
    "d2c-ffhq256": Entry(
        "D2C",
        "P",
        "D2C, FFHQ 256 px",
        _d2c,
        _d2c_module,
        {
            "first": configs.NVAE_FFHQ256,
            "net": configs.D2C_FFHQ256,
            "latent": (8, 32, 32),
            "size": 256,
        },
        "checkpoints/ffhq_256/model.ckpt from the README of github.com/jiamings/d2c; then "
        "`difftools import d2c model.ckpt`",
    ),
    **{
        name: _gan_entry(
            "STYLEGAN2", "P", title, "stylegan2", g, {"channels": g["channels"]}, source
        )
        for name, title, g, source in (
            (
                "stylegan2-ffhq1024",
                "StyleGAN2 config-f, FFHQ 1024 px",
                configs.STYLEGAN2_FFHQ1024,
                "stylegan2-ffhq-config-f.pkl from the README of github.com/NVlabs/stylegan2; then "
                "`difftools import stylegan2 stylegan2-ffhq-config-f.pkl`",
            ),
            (
                "stylegan2-ffhq256",
                "StyleGAN2 paper256, FFHQ 256 px",
                configs.STYLEGAN2_FFHQ256,
                "ffhq-res256-mirror-paper256-noaug.pkl from the README of "
                "github.com/NVlabs/stylegan2-ada-pytorch; then `difftools import stylegan2 FILE`",
            ),
            (
                "stylegan2-config-f256",
                "StyleGAN2 config-f at 256 px: rosinality's, or the lower half of a 1024 px file",
                configs.STYLEGAN2_CONFIG_F256,
                "550000.pt from the README of github.com/rosinality/stylegan2-pytorch, or SPHInX's "
                "stylegan2-ffhq-config-f.pt; then `difftools import stylegan2 FILE --name "
                "stylegan2-config-f256`",
            ),
        )
    },
    "styleganxl-imagenet256": _gan_entry(
        "STYLEGANXL",
        "P",
        "StyleGAN-XL, ImageNet 256 px, layers as designed",
        "styleganxl",
        {"sizes": (16, 32, 64, 128, 256)},
        source="imagenet256.pkl from the README of github.com/autonomousvision/stylegan-xl; then "
        "`difftools import styleganxl imagenet256.pkl`",
    ),
    **{
        f"biggan-deep-{size}": _gan_entry(
            "BIGGAN-DEEP",
            "P",
            f"BigGAN-deep, ImageNet {size} px",
            "biggan-deep",
            config,
            source=f"biggan-deep-{size}-pytorch_model.bin, linked from the README of "
            "github.com/huggingface/pytorch-pretrained-BigGAN; then `difftools import biggan-deep "
            "FILE`",
        )
        for size, config in configs.BIGGAN_DEEP.items()
    },
    "biggan-imagenet128": _gan_entry(
        "BIGGAN",
        "P",
        "BigGAN, ImageNet 128 px",
        "biggan",
        configs.BIGGAN_IMAGENET128,
        source="G_ema.pth of the 128 px model from the README of github.com/ajbrock/BigGAN-"
        "PyTorch; then `difftools import biggan G_ema.pth`",
    ),
    "ddpm-ffhq256": _openai(
        "ADM-light DDPM, FFHQ 256 px (FFHQ-10m)",
        configs.FFHQ_10M,
        source="ffhq_10m.pt, linked from the README of github.com/DPS2022/diffusion-posterior-"
        "sampling; then `difftools import adm ffhq_10m.pt`",
    ),
    "adm-imagenet256": _openai(
        "ADM, ImageNet 256 px, unconditional",
        configs.ADM_IMAGENET256,
        source="256x256_diffusion_uncond.pt from the README of github.com/openai/guided-diffusion; "
        "then `difftools import adm 256x256_diffusion_uncond.pt`",
    ),
    **{
        name: _openai(
            f"improved DDPM, {title}",
            config,
            *rest,
            source="the file of that name from the README of github.com/openai/improved-diffusion; "
            "then `difftools import adm FILE`",
        )
        for name, title, config, *rest in (
            ("iddpm-cifar10", "CIFAR-10 32 px", configs.IDDPM_CIFAR10, "cosine", 4000, 0.25),
            ("iddpm-imagenet64", "ImageNet 64 px", configs.IDDPM_IMAGENET64, "cosine", 4000, 0.25),
            ("iddpm-bedroom256", "LSUN bedroom 256 px", configs.IDDPM_BEDROOM256),
        )
    },
}


def imported(name: str) -> Path:
    """Where `difftools import` puts a model's weights; its note lies beside, with suffix .json."""
    return data.cache_folder() / "models" / f"{name}.safetensors"


def present(name: str) -> bool:
    """Whether a model can be loaded now."""
    entry = MODELS[name]
    file = imported(name) if entry.source else WEIGHTS / f"{name}.safetensors"
    return entry.module is None or file.is_file()


@lru_cache(maxsize=8)
def model(name: str, device: str = "cpu") -> LatentModel:
    """The model of an entry, built once per process and device."""
    entry = MODELS[name]
    if entry.module is None:
        return _named(entry.model(None, entry.config), name, "cpu")
    net, config = _filled(name)
    return _named(entry.model(net.to(device), config), name, device)


def _filled(name: str) -> tuple[nn.Module, dict]:
    """(networks and statistics with their weights, configuration) of an entry."""
    entry = MODELS[name]
    if not entry.source:
        state, config = shipped(f"{name}.safetensors"), entry.config
    elif present(name):
        note = json.loads(imported(name).with_suffix(".json").read_text())
        state, _ = verified(imported(name), note["sha256"], "import it again")
        config = note["config"]
    else:
        raise ModelError(f"{name} is not on this machine. Get {entry.source}")
    return load_state(entry.module(config), state, name), config


def module(name: str) -> nn.Module:
    """The networks and statistics of a trained model, anew at every call: for training on."""
    return _filled(name)[0]


def _named(m: LatentModel, name: str, device: str) -> LatentModel:
    return m.with_(name=name, device=device)


@lru_cache(maxsize=1)
def classifier() -> nn.Module:
    """The small classifier of CIFAR-10 that StyleGAN-XL's sibling was trained through, a
    `projected.Features`: for losses on features, never for judging.
    """
    from .nets import projected

    file = "features-cifar10.safetensors"
    return load_state(projected.Features(), shipped(file), file)


def denoiser(name: str) -> denoisers.Denoiser:
    """The denoiser behind a model, built once per process."""
    return model(name).denoiser


def load(name: str, device: str = "cpu", fast: str = "", **settings) -> LatentModel:
    """A latent model by name, hub name or local folder; settings as in `PixelDiffusion` (steps,
    stepper, …).

    fast: "bf16" or "compile", see `denoiser.accelerated`. Raises ModelError with the known names,
    or with what to download and where to put it. """
    if fast:
        plain = load(name, device, **settings)
        return plain.with_(denoiser=denoisers.accelerated(plain.denoiser, fast))
    if name in MODELS:
        return model(name, device).with_(**settings)
    if "/" in name or Path(name).is_dir():
        return PixelDiffusion(from_diffusers(name, device), name, device=device, **settings)
    raise ModelError(
        f"unknown model {name!r}; known: {', '.join(MODELS)}, or a diffusers pipeline by hub name "
        "(google/ddpm-cifar10-32) or local folder"
    )


GANS = ("stylegan2", "styleganxl", "biggan", "biggan-deep")
SYSTEMS = (*official.SYSTEMS, *GANS)
SPARE = {"dae": "latent", "stylegan2": "d"}  # a part that a file may lack


def import_official(
    system: str, file: str | Path, name: str = "", config: dict | None = None
) -> str:
    """Convert an official checkpoint to safetensors and a note (config, hashes); returns its name.

    system: one of `SYSTEMS`. name: a model of world P, by default the one of this system whose
    shapes fit. config: another architecture of the same class (for tests and own trainings).
    Raises CheckpointError or ModelError before anything is written.
    """
    if system not in SYSTEMS:
        raise ModelError(f"unknown system {system!r}; known: {', '.join(SYSTEMS)}")
    of_system = [k for k, e in MODELS.items() if e.source and e.system == system.upper()]
    if name and name not in of_system:
        raise ModelError(f"{name!r} is no {system} model; known: {', '.join(of_system)}")
    found, problems = _found(Path(file)), {}
    for candidate in [name] if name else of_system:
        entry = MODELS[candidate]
        state, used = _converted(system, found, config or entry.config)
        spare = SPARE.get(system)
        if spare and not any(k.startswith(f"{spare}.") for k in state):
            used = {k: v for k, v in used.items() if k != spare}
        with torch.device("meta"):
            want = shapes(entry.module(used))
        wrong = official.misfits(state, want)
        if not wrong:
            _write_import(candidate, state, used, Path(file))
            return candidate
        problems[candidate] = wrong
    best = min(problems, key=lambda k: len(problems[k]))
    wrong = problems[best]
    raise ModelError(
        f"{Path(file).name} does not fit {best}: {'; '.join(wrong[:5])}"
        + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    )


def _found(file: Path) -> dict:
    """What a file holds, read without running it: torch's format, or NVIDIA's pickles."""
    if file.suffix != ".pkl":
        return official.read(file)
    from . import pickles

    return pickles.read(file)


def _converted(system: str, found: dict, config: dict) -> tuple[dict, dict]:
    """(state dict, configuration): for GANs with what the file says of itself and no shape shows,
    such as clamps.
    """
    if system in official.SYSTEMS:
        return official.SYSTEMS[system](found, config), config
    from . import pickles

    if system == "styleganxl":  # its layers say of themselves all that it takes to run them
        config = config | {"g": pickles.stylegan_xl_configuration(found)}
    generator = {
        "stylegan2": pickles.stylegan2,
        "styleganxl": pickles.stylegan_xl,
        "biggan": official.biggan,
        "biggan-deep": official.biggan_deep,
    }[system]
    state = {f"g.{k}": v for k, v in generator(found, config["g"]).items()}
    if system != "stylegan2":
        return state, config
    said = pickles.configuration(found)
    config = config | {"g": config["g"] | {k: said[k] for k in ("lr", "clamp")}}
    size = f"b{2 << len(config['g']['channels'])}.fromrgb.weight"
    if {"d", "D"} & set(found):
        critic = pickles.stylegan2_critic(found, config)
        if size in critic:  # SPHInX's 256 px are the lower half of a file whose critic sees 1024
            state |= {f"d.{k}": v for k, v in critic.items()}
            config = config | {"d": config["d"] | {"clamp": said["clamp"]}}
    return state, config


def _write_import(name: str, state: dict, config: dict, source: Path) -> None:
    """Weights and note, each written aside and renamed."""
    target = imported(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    save_file({k: v.detach().clone().contiguous() for k, v in state.items()}, part)
    note = {
        "model": name,
        "config": config,
        "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        "source": source.name,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    part.rename(target)
    target.with_suffix(".json").write_text(json.dumps(note, indent=1) + "\n")


@lru_cache(maxsize=2)
def from_diffusers(name: str, device: str = "cpu") -> denoisers.Denoiser:
    """Denoiser of an unconditional diffusers pipeline (U-Net + scheduler), from a local folder or
    the hub.

    Takes betas and prediction type from the pipeline's scheduler. Raises ModelError when nothing
    can be loaded.
    """
    from diffusers import DiffusionPipeline

    local = Path(name).expanduser().is_dir()
    try:
        pipe = DiffusionPipeline.from_pretrained(
            str(Path(name).expanduser()) if local else name, local_files_only=local
        )
    except Exception as err:  # the hub client raises many kinds; all mean: not here
        how = (
            f"the folder {name} holds no diffusers pipeline (model_index.json, unet/, scheduler/)"
            if local
            else f"{name} is not in the local hub cache and cannot be downloaded. On a machine "
            f"with a network: `hf download {name} --local-dir {name.split('/')[-1]}`; then pass "
            "that folder as the model"
        )
        raise ModelError(f"{how}. ({type(err).__name__})") from err
    kinds = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
    kind = pipe.scheduler.config.get("prediction_type", "epsilon")
    if (
        kind not in kinds
        or not hasattr(pipe, "unet")
        or not hasattr(pipe.scheduler, "alphas_cumprod")
    ):
        raise ModelError(
            f"{name} is no unconditional variance-preserving pipeline: prediction {kind!r}, "
            f"scheduler {type(pipe.scheduler).__name__}"
        )
    ab = pipe.scheduler.alphas_cumprod.double().numpy()
    schedule = Schedule(name, np.arange(len(ab), dtype=float), 0.5 * (np.log(ab) - np.log1p(-ab)))
    config = pipe.unet.config
    return denoisers.from_unet(
        pipe.unet.to(device),
        schedule,
        (config.in_channels, config.sample_size, config.sample_size),
        kinds[kind],
    )


@lru_cache(maxsize=64)
def measure(name: str) -> tuple[int | None, float]:
    """(trained parameters, None for controls; latent coordinates per pixel value) of a model, for a
    GAN under the recipe that it is inverted by; counted without memory or files.
    """
    entry = MODELS[name]
    with torch.device("meta"):
        module = entry.module and entry.module(entry.config)
        dof = entry.model(module, entry.config).dof_per_value
    return module and sum(p.numel() for p in module.parameters()), dof


def card(name: str) -> dict:
    """The model's card (recipe, quality against its floor), empty if it has none."""
    file = WEIGHTS / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def rows() -> list[dict]:
    """One row a model for `difftools zoo`: system, world, parameters, degrees of freedom, weights,
    floor.
    """
    return [
        {
            "model": name,
            "system": e.system,
            "world": e.world,
            "title": e.title,
            "parameters": measure(name)[0],
            "dof_per_value": round(measure(name)[1], 6),
            "weights": present(name),
            "floor": card(name).get("floor", {}).get("passed"),
        }
        for name, e in MODELS.items()
    ]
