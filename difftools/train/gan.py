"""Train the embedded GANs: `difftools train stylegan2`, `biggan`, `styleganxl`.

One adversarial loop; what differs is data (`Recipe`) and two networks. All augment what the critic
sees (DiffAugment) and ship a moving average of the generator.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from tqdm.auto import tqdm

from .. import data
from ..images import to_float
from ..nets import biggan, configs, projected, stylegan2
from . import loop


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the training images and the networks."""

    images: int = 128_000  # shown to the critic
    batch: int = 32
    lr_g: float = 2.5e-3
    lr_d: float = 2.5e-3
    beta2: float = 0.99
    loss: str = "logistic"  # or "hinge"
    gamma: float = 0.0  # of R1, every 16 steps
    blur: float = 0.0  # start value of sigma on what the critic sees, 0 after a tenth of training
    ema: int = 10_000  # half-life of the average, images
    decay_from: float = 0.7  # share of training after which both rates fall linearly to 5 %
    seed: int = 0


STYLEGAN2 = Recipe(gamma=0.01)
BIGGAN = Recipe(images=40_000, lr_g=2e-4, lr_d=4e-4, beta2=0.999, loss="hinge")
STYLEGANXL = Recipe(images=112_000, lr_d=2e-3, loss="hinge", blur=2.0)
R1_EVERY = 16


def draw(gen: torch.Generator, *shape) -> Tensor:
    return torch.rand(shape, generator=gen)


def augment(x: Tensor, gen: torch.Generator) -> Tensor:
    """Colour, translation by up to 1/8 and a hole of half the side; x (B, 3, H, W) in [-1, 1].

    Differentiable, so the generator learns through it. Source: Zhao et al. 2020 (DiffAugment).
    """
    B, _, H, W = x.shape
    u = draw(gen, B, 7).to(x)
    x = x + (u[:, 0] - 0.5)[:, None, None, None]  # brightness
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * u[:, 1])[:, None, None, None] + grey  # saturation
    flat = x.mean((1, 2, 3), keepdim=True)
    x = (x - flat) * (u[:, 2] + 0.5)[:, None, None, None] + flat  # contrast
    step = H // 8
    dy, dx = (((2 * step + 1) * u[:, k]).floor().long() for k in (3, 4))  # 0 … 2 step
    padded = F.pad(x, (step, step, step, step))
    rows = dy[:, None] + torch.arange(H, device=x.device)  # (B, H)
    cols = dx[:, None] + torch.arange(W, device=x.device)
    b = torch.arange(B, device=x.device)[:, None, None]
    x = padded.permute(0, 2, 3, 1)[b, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
    cy, cx = ((u[:, k] * (H + 1)).floor().long() for k in (5, 6))  # centre of the hole
    far = lambda c: (torch.arange(H, device=x.device) - c[:, None] + H // 4)  # noqa: E731
    inside = lambda d: (d >= 0) & (d < H // 2)  # noqa: E731
    hole = inside(far(cy))[:, :, None] & inside(far(cx))[:, None, :]
    return x * ~hole[:, None]


def smooth(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of x (B, 3, H, W), edges repeated."""
    if sigma < 0.1:
        return x
    r = math.ceil(3 * sigma)
    t = torch.exp(-0.5 * (torch.arange(-r, r + 1, dtype=x.dtype, device=x.device) / sigma) ** 2)
    t = t / t.sum()
    c = x.shape[1]
    x = F.pad(x, (r, r, r, r), mode="replicate")
    x = F.conv2d(x, t[None, None, :, None].expand(c, 1, -1, 1), groups=c)
    return F.conv2d(x, t[None, None, None, :].expand(c, 1, 1, -1), groups=c)


def normalised(module: nn.Module) -> nn.Module:
    """Spectral norm on every convolution and linear layer that is trained."""
    for m in list(module.modules()):
        if isinstance(m, nn.Conv2d | nn.Linear) and m.weight.requires_grad:
            parametrizations.spectral_norm(m)
    return module


def folded(module: nn.Module) -> dict[str, Tensor]:
    """State dict as if spectral norm had never been: its present value is the weight."""
    module = module.eval()
    state = {k: v for k, v in module.state_dict().items() if ".parametrizations." not in k}
    for name, m in module.named_modules():
        if parametrize.is_parametrized(m, "weight"):
            state[f"{name}.weight"] = m.weight.detach()
    return state


def critic_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def bf16(device: str):
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


class Pair(nn.ModuleDict):
    """Generator and critic behind one face: labels are given to those that take them."""

    def make(self, z: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        g = self["g"]
        if not isinstance(g, stylegan2.StyleGAN2):
            return g(z, y)
        drawn = [torch.randn(len(z), *s, generator=gen).to(z) for s in g.noise_shapes]
        w = g.mapping(z, y=y if g.classes else None)
        if self.training:
            g.mapping.track(w.detach().float())
        return g.synthesise(w, drawn)

    def judge(self, x: Tensor, y: Tensor) -> Tensor:
        d = self["d"]
        return d(x) if isinstance(d, stylegan2.Discriminator) else d(x, y)


def fit(
    recipe: Recipe,
    build: Callable[[], Pair],
    images: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    device: str = "cpu",
    save_every: int = 500,
    snapshots: int = 10,
) -> tuple[Pair, dict]:
    """Train, with a checkpoint in `folder` that a second call resumes; returns (average of the
    generator and the last critic, facts for the card).

    images: uint8 (N, H, W, 3), flipped at random and scaled to [-1, 1]; labels: int (N,). Keeps
    `snapshots` copies of the averaged generator in `folder`, from which the card's curve comes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data, labels = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long()
    torch.manual_seed(recipe.seed)
    pair = build().to(device, memory_format=torch.channels_last).train()
    ema = copy.deepcopy(pair["g"]).eval().requires_grad_(False)
    trained = {k: [p for p in pair[k].parameters() if p.requires_grad] for k in "gd"}
    opt = {
        k: torch.optim.Adam(trained[k], getattr(recipe, f"lr_{k}"), betas=(0.0, recipe.beta2))
        for k in "gd"
    }
    gen = torch.Generator().manual_seed(recipe.seed)
    steps, step, seconds, log = recipe.images // recipe.batch, 0, 0.0, []
    if s := loop.resumed(folder, recipe, device):
        pair.load_state_dict(s["pair"]), ema.load_state_dict(s["ema"])
        for k in "gd":
            opt[k].load_state_dict(s[k])
        gen.set_state(s["gen"].cpu())
        step, seconds, log = s["step"], s["seconds"], s["log"]

    start, running = time.time(), {}
    at = {round(steps * (i + 1) / snapshots) for i in range(snapshots)}
    bar = tqdm(total=steps, initial=step, unit="step")
    while step < steps:
        done = step / steps
        fall = 1.0 if done < recipe.decay_from else max(0.05, (1 - done) / (1 - recipe.decay_from))
        for k in "gd":
            for group in opt[k].param_groups:
                group["lr"] = getattr(recipe, f"lr_{k}") * fall
        sigma = recipe.blur * max(0.0, 1 - 10 * done)
        seen = lambda x: smooth(augment(x, gen), sigma)  # noqa: E731, B023
        i = torch.randint(0, len(data), (recipe.batch,), generator=gen)
        y = labels[i].to(device)
        real = data[i].float() / 127.5 - 1
        flip = draw(gen, recipe.batch) < 0.5
        real = torch.where(flip[:, None, None, None], real.flip(3), real).to(device)
        z = [torch.randn(recipe.batch, pair["g"].z, generator=gen).to(device) for _ in range(2)]

        pair["d"].requires_grad_(False)
        with bf16(device):
            fake = pair.make(z[0], y, gen)
            value_g = generator_loss(recipe.loss, pair.judge(seen(fake.float()), y).float())
        opt["g"].zero_grad(set_to_none=True)
        value_g.backward()
        opt["g"].step()

        for p in trained["d"]:
            p.requires_grad_(True)
        with bf16(device):
            with torch.no_grad():
                fake = pair.make(z[1], y, gen).float()
            # one after the other: a critic may compare the images of a batch with each other
            logits = [pair.judge(seen(x), y).float() for x in (real, fake)]
            value_d = critic_loss(recipe.loss, *logits)
        opt["d"].zero_grad(set_to_none=True)
        value_d.backward()
        if recipe.gamma and step % R1_EVERY == 0:  # float32: a derivative of a derivative
            x = seen(real).requires_grad_(True)
            (slope,) = torch.autograd.grad(pair.judge(x, y).sum(), x, create_graph=True)
            r1 = slope.square().sum((1, 2, 3)).mean()
            (r1 * (recipe.gamma / 2 * R1_EVERY)).backward()
            running["r1"] = r1.item()
        opt["d"].step()

        step += 1
        half_life = min(recipe.ema, max(1.0, 0.05 * step * recipe.batch))
        beta = 0.5 ** (recipe.batch / half_life)
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(pair["g"].parameters()), 1 - beta)
        for mine, its in zip(ema.buffers(), pair["g"].buffers(), strict=True):
            mine.copy_(its)
        for k, v in (("g", value_g), ("d", value_d)):
            v = v.item()
            if not math.isfinite(v):
                raise RuntimeError(f"the loss of {k} is {v} at step {step}; lower its rate")
            running[k] = 0.99 * running.get(k, v) + 0.01 * v
        bar.update()
        bar.set_postfix({k: f"{v:.3f}" for k, v in running.items()})
        if step in at:
            half = lambda v: v.half() if v.is_floating_point() else v  # noqa: E731
            kept = {k: half(v) for k, v in ema.state_dict().items()}
            torch.save(kept, folder / f"snapshot-{step * recipe.batch:08d}.pt")
        if step % save_every == 0 or step == steps:
            log.append((step * recipe.batch, running["g"], running["d"]))
            now = {
                "pair": pair.state_dict(),
                "ema": ema.state_dict(),
                **{k: opt[k].state_dict() for k in "gd"},
                "gen": gen.get_state(),
                "step": step,
                "seconds": seconds + time.time() - start,
                "log": log,
            }
            loop.keep(folder, recipe, now)
    bar.close()
    facts = {
        "recipe": asdict(recipe),
        "seconds": round(seconds + time.time() - start),
        "device": device,
        "threads": torch.get_num_threads(),
        "loss": log,
    }
    return Pair({"g": ema, "d": pair["d"]}).eval(), facts


def build_stylegan2() -> Pair:
    """StyleGAN2 and its own critic."""
    g = stylegan2.StyleGAN2(**configs.STYLEGAN2_VEHICLES32)
    return Pair({"g": g, "d": stylegan2.Discriminator(**configs.STYLEGAN2_CRITIC)})


def build_biggan() -> Pair:
    """BigGAN and its projection critic, both with spectral norm, orthogonal at the start."""
    g = biggan.BigGAN(**configs.BIGGAN_VEHICLES32)
    pair = Pair({"g": g, "d": biggan.Critic(**configs.BIGGAN_CRITIC)})
    for m in pair.modules():
        if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.init.orthogonal_(m.weight)
    return normalised(pair)


def build_styleganxl(features: projected.Features) -> Pair:
    """A class-conditional StyleGAN2 generator against a projected critic."""
    g = stylegan2.StyleGAN2(**configs.STYLEGANXL_VEHICLES32)
    d = projected.ProjectedCritic(features, configs.STYLEGANXL_VEHICLES32["classes"])
    return Pair({"g": g, "d": normalised(d)})


FEATURES = loop.Recipe(images=300_000, batch=64, lr=2e-3, ema=0.99)


def classifier_loss(net: projected.Features, picked: Tensor, gen, done: float) -> Tensor:
    """Cross-entropy; picked: rows of uint8 pixels (B, 3, 32, 32) with the label behind, as floats
    (B, 3073). Shifted by up to four pixels and mirrored.
    """
    x, y = picked[:, :-1].unflatten(1, (3, 32, 32)) / 127.5 - 1, picked[:, -1].long()
    u = draw(gen, len(x), 3).to(x)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(u[:, 0] < 0.5, -1.0, 1.0), 1
    theta[:, :, 2] = ((8 * u[:, 1:]).round() - 4) / 16  # a sixteenth of 2 is a pixel of 32
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="nearest", align_corners=False)
    with bf16(x.device.type):
        logits = net.train()(x.contiguous(memory_format=torch.channels_last))
    return F.cross_entropy(logits.float(), y, label_smoothing=0.1)


def train_features(folder: Path, device: str = "cpu") -> tuple[projected.Features, dict]:
    """The frozen network of the projected critic: a classifier of all of CIFAR-10's ten classes."""
    pixels = torch.from_numpy(data.load("cifar10-train")).permute(0, 3, 1, 2).flatten(1)
    rows = torch.cat([pixels, torch.from_numpy(data.labels("cifar10-train"))[:, None]], 1).float()
    net, facts = loop.fit(FEATURES, projected.Features, classifier_loss, rows, folder, device)
    net = net.cpu().eval()
    x, y = to_float(data.load("cifar10-test")), torch.from_numpy(data.labels("cifar10-test"))
    with torch.no_grad():
        right = torch.cat([net(v).argmax(1) for v in x.split(500)]) == y
    return net, facts | {"test_accuracy": round(float(right.float().mean()), 4)}


RECIPES = {"stylegan2": STYLEGAN2, "biggan": BIGGAN, "styleganxl": STYLEGANXL}
BUILDS = {"stylegan2": build_stylegan2, "biggan": build_biggan}


def train(name: str, recipe: Recipe, folder: Path, device: str = "cpu") -> tuple[Pair, dict]:
    """`fit` of a recipe on the training vehicles; StyleGAN-XL's frozen features are trained
    first.
    """
    if name != "styleganxl":
        return fit(recipe, BUILDS[name], *vehicles(), folder, device)
    features, first = train_features(folder / "features", device)
    build = lambda: build_styleganxl(copy.deepcopy(features))  # noqa: E731
    pair, facts = fit(recipe, build, *vehicles(), folder, device)
    return pair, facts | {"features": first}


def finished(g: nn.Module, trained: nn.Module) -> nn.Module:
    """A plain generator g with what was trained: spectral norm folded, batch-norm statistics those
    of the averaged weights.
    """
    g.load_state_dict(folded(trained))
    g.requires_grad_(False)
    if isinstance(g, biggan.BigGAN):
        gen = torch.Generator().manual_seed(0)
        g.train()
        for _ in range(50):  # at a momentum of 0.1 the old statistics are gone
            g(torch.randn(64, g.z, generator=gen), torch.randint(g.classes, (64,), generator=gen))
    return g.eval()


def snapshots(trained: nn.Module, folder: Path):
    """(images shown, averaged generator at that time) of what `fit` kept in a folder; trained: any
    generator of that build, which is overwritten.
    """
    for file in sorted(Path(folder).glob("snapshot-*.pt")):
        kept = torch.load(file, map_location="cpu", weights_only=True)
        trained.load_state_dict({k: v.float() for k, v in kept.items()})
        yield int(file.stem.split("-")[1]), trained


def vehicles() -> tuple[np.ndarray, np.ndarray]:
    """Training vehicles, uint8 (20000, 32, 32, 3), and their labels 0 … 3 in CIFAR-10's order."""
    classes = data.classes("cifar10-train")
    labels = np.array([data.VEHICLES.index(c) if c in data.VEHICLES else -1 for c in classes])[
        data.labels("cifar10-train")
    ]
    return data.vehicles_train(), labels[labels >= 0]
