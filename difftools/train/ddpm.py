"""Train a pixel-space diffusion model: `difftools train ddpm`.

Two recipes that differ in one thing. ``ddpm`` learns the residual of a Gaussian denoiser
(`nets.unet.GaussianPreconditioned`); ``ddpm-eps`` is its control, plain epsilon-prediction
(Ho et al. 2020) on the same network, the same images in the same order, the same number of steps.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..diffusion.schedule import linear
from ..gaussians import Gaussian
from ..nets.unet import VEHICLES32, GaussianPreconditioned, unet


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the training images."""

    images: int = 128_000  # images shown, more than six passes over 20,000
    batch: int = 32
    lr: float = 6e-4
    warmup: int = 400  # steps
    decay_from: float = 0.5  # share of training after which the rate falls linearly to 2 %
    weight_decay: float = 1e-4
    ema: float = 0.999
    rank: int = 256  # eigenpairs of the Gaussian
    precondition: bool = True
    uniform: float = 0.25  # share of noise levels drawn uniformly in log-SNR (ddpm only)
    seed: int = 0


RECIPES = {"ddpm": Recipe(), "ddpm-eps": Recipe(precondition=False)}


def build(recipe: Recipe, gaussian: Gaussian) -> torch.nn.Module:
    """The untrained module of a recipe; its last layer is zero, so `ddpm` starts as the Gaussian
    denoiser.
    """
    torch.manual_seed(recipe.seed)
    net = unet(**VEHICLES32)
    torch.nn.init.zeros_(net.conv_out.weight)
    torch.nn.init.zeros_(net.conv_out.bias)
    return GaussianPreconditioned(net, gaussian) if recipe.precondition else net


def draw(
    recipe: Recipe, n: int, gen: torch.Generator, schedule
) -> tuple[torch.Tensor, torch.Tensor]:
    """Schedule times and log-SNR of n training examples, both (n,)."""
    if not recipe.precondition:  # Ho et al.: uniform integer t
        t = torch.randint(0, len(schedule.t), (n,), generator=gen)
        return t.float(), torch.from_numpy(schedule.lam)[t].float()
    lam = 0.8 - 1.2 * torch.randn(n, generator=gen)  # log sigma/alpha ~ N(-0.8, 1.2²)
    flat = torch.rand(n, generator=gen) * (schedule.lam[0] - schedule.lam[-1]) + schedule.lam[-1]
    lam = torch.where(torch.rand(n, generator=gen) < recipe.uniform, flat, lam)
    lam = lam.clamp(schedule.lam[-1], schedule.lam[0])
    return torch.from_numpy(schedule.t_of(lam.numpy())).float(), lam.float()


def loss_of(recipe: Recipe, module, x0, noise, t, lam, autocast) -> torch.Tensor:
    """Mean squared error at unit scale: of the residual F, or of epsilon."""
    alpha, sigma = torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()
    x = alpha[:, None, None, None] * x0 + sigma[:, None, None, None] * noise
    net = module.net if recipe.precondition else module
    with autocast:
        out = net(x.contiguous(memory_format=torch.channels_last), t).sample
    if not recipe.precondition:
        return ((out.float() - noise) ** 2).mean()
    s = torch.exp(-lam)[:, None]
    g = module.gaussian
    x0_linear = g.denoise((x / alpha[:, None, None, None]).flatten(1), s).reshape(x.shape)
    c_out = g.mmse(s).sqrt()[:, None, None, None]
    return ((out.float() - (x0 - x0_linear) / c_out) ** 2).mean()


def train(
    recipe: Recipe,
    images: np.ndarray,
    gaussian: Gaussian,
    folder: Path,
    device: str = "cpu",
    save_every: int = 500,
) -> tuple[torch.nn.Module, dict]:
    """Train, with a checkpoint in `folder` that a second call resumes; returns (EMA module, facts
    for the card).

    images: uint8 (N, H, W, 3). The state of the generator is part of the checkpoint, so an
    interrupted run sees the same images and noise as an uninterrupted one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    schedule = linear()
    data = torch.from_numpy(images).permute(0, 3, 1, 2)
    module = build(recipe, gaussian).to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(module).eval().requires_grad_(False)
    opt = torch.optim.AdamW(
        module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
    )
    gen = torch.Generator().manual_seed(recipe.seed)
    steps, step, seconds, log = recipe.images // recipe.batch, 0, 0.0, []
    state = folder / "state.pt"
    if state.exists():
        s = torch.load(state, map_location=device, weights_only=True)
        if s["recipe"] != asdict(recipe):
            raise ValueError(
                f"{state} belongs to another recipe; choose another folder or delete it"
            )
        (
            module.load_state_dict(s["module"]),
            ema.load_state_dict(s["ema"]),
            opt.load_state_dict(s["opt"]),
        )
        gen.set_state(s["gen"].cpu())
        step, seconds, log = s["step"], s["seconds"], s["log"]
    autocast = torch.autocast(device.split(":")[0], dtype=torch.bfloat16)

    start, running = time.time(), None
    bar = tqdm(total=steps, initial=step, unit="step")
    while step < steps:
        i = torch.randint(0, len(data), (recipe.batch,), generator=gen)
        flip = torch.rand(recipe.batch, generator=gen) < 0.5
        x0 = data[i].float() / 127.5 - 1
        x0 = torch.where(flip[:, None, None, None], x0.flip(3), x0)
        t, lam = draw(recipe, recipe.batch, gen, schedule)
        noise = torch.randn(x0.shape, generator=gen)
        loss = loss_of(recipe, module, *(v.to(device) for v in (x0, noise, t, lam)), autocast)
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()} at step {step}; lower the learning rate")
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        done = step / steps
        fall = 1.0 if done < recipe.decay_from else max(0.02, (1 - done) / (1 - recipe.decay_from))
        for group in opt.param_groups:
            group["lr"] = recipe.lr * min(1, (step + 1) / recipe.warmup) * fall
        opt.step()
        step += 1
        w = 1 - min(recipe.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.parameters()), list(module.parameters()), w)
        running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()
        bar.update()
        bar.set_postfix(loss=f"{running:.4f}")
        if step % save_every == 0 or step == steps:
            log.append((step * recipe.batch, running))
            spent = seconds + time.time() - start
            s = {
                "recipe": asdict(recipe),
                "module": module.state_dict(),
                "ema": ema.state_dict(),
                "log": log,
                "opt": opt.state_dict(),
                "gen": gen.get_state(),
                "step": step,
                "seconds": spent,
            }
            torch.save(s, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)  # never a half-written checkpoint
    bar.close()
    seconds = seconds + time.time() - start
    return ema, {
        "recipe": asdict(recipe),
        "seconds": round(seconds),
        "device": device,
        "threads": torch.get_num_threads(),
        "loss": log,
    }
