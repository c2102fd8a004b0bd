"""One training loop for every recipe: resumable, seeded, with an exponential moving average."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the training images and the network."""

    images: int = 128_000  # images shown, more than six passes over 20,000
    batch: int = 32
    lr: float = 6e-4
    warmup: int = 400  # steps
    decay_from: float = 0.5  # share of training after which the rate falls linearly to 2 %
    weight_decay: float = 1e-4
    ema: float = 0.999
    seed: int = 0


Loss = Callable[[nn.Module, Tensor, torch.Generator, float], Tensor]


def resumed(folder: Path, recipe, device: str) -> dict | None:
    """What `keep` left in a folder, None if nothing; ValueError if by another recipe."""
    state = folder / "state.pt"
    if not state.exists():
        return None
    s = torch.load(state, map_location=device, weights_only=True)
    if s["recipe"] != asdict(recipe):
        raise ValueError(f"{state} belongs to another recipe; choose another folder or delete it")
    return s


def keep(folder: Path, recipe, state: dict) -> None:
    """Write a checkpoint; a cut never leaves half of one."""
    part = folder / "state.tmp"
    torch.save({"recipe": asdict(recipe)} | state, part)
    part.rename(folder / "state.pt")


def fit(
    recipe: Recipe,
    build: Callable[[], nn.Module],
    loss: Loss,
    images: np.ndarray | Tensor,
    folder: Path,
    device: str = "cpu",
    save_every: int = 500,
) -> tuple[nn.Module, dict]:
    """Train, with a checkpoint in `folder` that a second call resumes; returns (EMA module, facts
    for the card).

    build: () -> module, called after the recipe's seed is set. loss: (module, x0 (B, C, H, W) on
    the device, CPU generator, share of training done) -> scalar, under bf16 autocast where it asks
    for it. images: uint8 (N, H, W, 3), flipped at random and scaled to [-1, 1], or any float tensor
    (N, ...), taken as it is. The state of the generator is part of the checkpoint: an interrupted
    run sees the same images and noise as an uninterrupted one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = isinstance(images, np.ndarray)
    data = torch.from_numpy(images).permute(0, 3, 1, 2) if pixels else images
    torch.manual_seed(recipe.seed)
    module = build().to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(module).eval().requires_grad_(False)
    trained = [p for p in module.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(
        trained, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
    )
    gen = torch.Generator().manual_seed(recipe.seed)
    steps, step, seconds, log = recipe.images // recipe.batch, 0, 0.0, []
    if s := resumed(folder, recipe, device):
        module.load_state_dict(s["module"])
        ema.load_state_dict(s["ema"])
        opt.load_state_dict(s["opt"])
        gen.set_state(s["gen"].cpu())
        step, seconds, log = s["step"], s["seconds"], s["log"]

    start, running = time.time(), None
    bar = tqdm(total=steps, initial=step, unit="step")
    while step < steps:
        i = torch.randint(0, len(data), (recipe.batch,), generator=gen)
        x0 = data[i]
        if pixels:
            flip = torch.rand(recipe.batch, generator=gen) < 0.5
            x0 = x0.float() / 127.5 - 1
            x0 = torch.where(flip[:, None, None, None], x0.flip(3), x0)
        value = loss(module, x0.to(device), gen, step / steps)
        if not torch.isfinite(value):
            raise RuntimeError(
                f"the loss is {value.item()} at step {step}; lower the learning rate"
            )
        opt.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        done = step / steps
        fall = 1.0 if done < recipe.decay_from else max(0.02, (1 - done) / (1 - recipe.decay_from))
        for group in opt.param_groups:
            group["lr"] = recipe.lr * min(1, (step + 1) / recipe.warmup) * fall
        opt.step()
        step += 1
        w = 1 - min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(module.parameters()), w)
        for mine, its in zip(ema.buffers(), module.buffers(), strict=True):
            mine.copy_(its)  # batch-norm statistics are averages already
        running = value.item() if running is None else 0.99 * running + 0.01 * value.item()
        bar.update()
        bar.set_postfix(loss=f"{running:.4f}")
        if step % save_every == 0 or step == steps:
            log.append((step * recipe.batch, running))
            now = {
                "module": module.state_dict(),
                "ema": ema.state_dict(),
                "log": log,
                "opt": opt.state_dict(),
                "gen": gen.get_state(),
                "step": step,
                "seconds": seconds + time.time() - start,
            }
            keep(folder, recipe, now)
    bar.close()
    return ema, {
        "recipe": asdict(recipe),
        "seconds": round(seconds + time.time() - start),
        "device": device,
        "threads": torch.get_num_threads(),
        "loss": log,
    }
