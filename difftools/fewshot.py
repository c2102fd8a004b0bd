"""Two rivals that move a StyleGAN2 to the domain of ten images.

`ojha` fine-tunes the generator and keeps the distances between its samples; `latent_learner`
freezes the generator and learns where in w+ the domain lies. Both were written from a description
of the papers and of what the published programs do; the docstrings say where the two part.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import images
from .nets.stylegan2 import Conv, Discriminator, StyleGAN2
from .train.gan import critic_loss, generator_loss

Maps = Callable[[Tensor], Sequence[Tensor]]  # images (B, 3, H, W) -> feature maps (B, c, h, w)


@dataclass(frozen=True)
class OjhaRecipe:
    """All numbers of `ojha`; the defaults fit 32 px."""

    steps: int = 500
    batch: int = 4
    anchors: int = 10  # fixed z whose surroundings the critic of whole images sees
    jitter: float = 0.1  # standard deviation around an anchor
    whole_every: int = 4  # one step in four is for whole images, the others for patches
    patch: int = 16  # side of the critic's map that the patch head reads
    mixing: float = 0.9  # probability that a free z shares its w+ with another one
    consistency: float = 1000.0
    lr: float = 2e-3
    gamma: float = 10.0  # of R1
    gamma_every: int = 16
    path: float = 0.0  # weight of the path length regulariser; 0 leaves it out
    path_every: int = 4
    ema: float = 50.0  # half-life of the average, steps


@dataclass(frozen=True)
class LearnerRecipe:
    """All numbers of `latent_learner`; the defaults fit 32 px."""

    chains: int = 4  # side by side; each carries its state from episode to episode
    samples: int = 10  # images of an episode
    iterations: int = 25
    batch: int = 8  # of the critic
    adversarial: float = 5.0  # falls linearly to 0 over an episode
    style: float = 5000.0
    lr: float = 2e-3


# At 32 px the 16×16 map sees patches of 12 px, three eighths of the side; the 8×8 map 30 px, all
# but the whole image. At 256 px the 32×32 map sees 66 px, a quarter.
OJHA = OjhaRecipe()
# README: 4,000 to 5,000 steps for paintings and sketches, about 1,000 for babies and sunglasses.
OJHA_OFFICIAL = OjhaRecipe(steps=5002, patch=32, path=2.0, ema=10_000 / 32)
# With the published weight the Gram matrices of the small classifier slope a thousandth as steeply
# as the critic, and one Adam takes both: their steps would vanish. Rows of 128 instead of 512
# numbers allow four times the rate, and with it half the iterations.
LATENT_LEARNER = LearnerRecipe()
LATENT_LEARNER_OFFICIAL = LearnerRecipe(iterations=51, style=50.0, lr=5e-4)


def _checked(g: StyleGAN2, d: Discriminator, shots: Tensor) -> Tensor:
    """The shots, on the generator's device and in its dtype, if all three fit; else ValueError."""
    if not isinstance(g, StyleGAN2) or g.classes or not isinstance(d, Discriminator):
        raise ValueError(
            f"given {type(g).__name__} and {type(d).__name__}, expected a StyleGAN2 without "
            "classes and its Discriminator"
        )
    if d.sizes[0] != g.size:
        raise ValueError(f"given a critic of {d.sizes[0]} px, expected {g.size} px as g has")
    images.validate(shots, g.size)
    if len(shots) < 2:
        raise ValueError("given 1 shot, expected at least 2: one image is no domain")
    return shots.to(g.mapping.w_avg)


def _normal(gens: Sequence[torch.Generator], *shape: int) -> Tensor:
    """N(0, 1) (len(gens), *shape), each row from its own generator."""
    return torch.stack([torch.randn(shape, generator=gen) for gen in gens])


def _order(gens: Sequence[torch.Generator], total: int, n: int) -> Tensor:
    """n numbers below `total` (len(gens), n), none twice before all were taken."""
    return torch.stack([torch.randperm(total, generator=gen) for gen in gens])[
        :, torch.arange(n) % total
    ]


def _descend(opt: torch.optim.Optimizer, loss: Tensor, place: str) -> float:
    """One step on the parameters of `opt` and on no others; the loss as a number."""
    value = loss.item()
    if not math.isfinite(value):
        raise RuntimeError(f"the loss is {value} at {place}; lower the learning rate")
    params = opt.param_groups[0]["params"]
    for p, slope in zip(params, torch.autograd.grad(loss, params, allow_unused=True), strict=True):
        p.grad = slope
    opt.step()
    return value


def similarities(features: Sequence[Tensor], layers: Tensor) -> Tensor:
    """log softmax of the cosine similarities of each sample to the others, (B, B − 1).

    features: one (B, C, r, r) per layer; layers (B,): from which one sample i is compared.
    Source: Ojha et al. 2021, section 3.1.
    """
    rows = []
    for i, layer in enumerate(layers.tolist()):
        h = features[layer].flatten(1)
        cosine = F.cosine_similarity(h[i : i + 1], h)
        rows.append(torch.cat([cosine[:i], cosine[i + 1 :]]))
    return torch.stack(rows).log_softmax(1)


def distance_consistency(
    source: Sequence[Tensor], target: Sequence[Tensor], layers: Tensor
) -> Tensor:
    """KL(y_source ‖ y_target) over the number of entries B (B − 1), a scalar >= 0.

    y: softmax of `similarities`; source, target: activations of the two generators for the same z.
    The paper sums over the layers. This is the published program's: one layer for each sample,
    this direction of the divergence and this mean, to which its weight of 1000 belongs.
    Source: Ojha et al. 2021, equation 1.
    """
    q, p = similarities(target, layers), similarities(source, layers)
    return F.kl_div(q, p, reduction="sum", log_target=True) / p.numel()


def r1(logits: Tensor, x: Tensor) -> Tensor:
    """Mean over images of ‖∂ sum(logits) / ∂x‖². Source: Mescheder et al. 2018, section 4.1."""
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()


def path_lengths(x: Tensor, w_plus: Tensor, y: Tensor) -> Tensor:
    """‖Jᵀ y‖ over √num_ws for each image x (B, 3, H, W) of w_plus (B, num_ws, w); y ~ N(0, I / HW).

    Source: Karras et al. 2020, section 3.2.
    """
    (slope,) = torch.autograd.grad((x * y).sum(), w_plus, create_graph=True)
    return slope.square().sum(2).mean(1).sqrt()


def ojha(
    g: StyleGAN2,
    d: Discriminator,
    shots: Tensor,
    recipe: OjhaRecipe = OJHA,
    seed: int = 0,
    watch: Callable[[int, dict[str, float], StyleGAN2], None] | None = None,
) -> StyleGAN2:
    """A generator of the domain of the shots (N, 3, H, W) in [-1, 1]; g and d stay as they are.

    All of g and d is fine-tuned. Near fixed anchors in z the critic sees whole images, elsewhere
    patches alone; `distance_consistency` keeps the samples as far apart as their sources were.
    Returned is the moving average. watch: called as watch(step, losses, average) after each step.
    As in the published program: the patch head is one 3×3 convolution on one map; R1 is taken of
    the critic in use, which every sixteenth step is that of whole images. Ours: source and target
    take the same noise maps, so that the consistency is 0 at the start, and w_avg is
    tracked. Raises ValueError on shots or networks that do not fit, RuntimeError on a loss that is
    not finite. Source: Ojha et al. 2021. Built in: few_shot.
    """
    shots = _checked(g, d, shots)
    if recipe.patch not in d.sizes[1:]:
        raise ValueError(f"given a patch map of {recipe.patch}, expected one of {d.sizes[1:]}")
    gen = torch.Generator().manual_seed(seed)
    normal = lambda *shape: _normal([gen], *shape)[0].to(shots)
    noise = lambda n: [normal(n, *s) for s in g.noise_shapes]
    target, critic = (copy.deepcopy(net).requires_grad_(True) for net in (g, d))
    average = copy.deepcopy(g).eval().requires_grad_(False)
    with torch.random.fork_rng([]):  # the global stream stays where it is
        head = Conv(getattr(d, f"b{2 * recipe.patch}").conv1.weight.shape[0], 1, 3)
    nn.init.normal_(head.weight, generator=gen)
    head.to(shots)
    anchors = normal(recipe.anchors, g.z)

    def adam(params, every: int | None):
        r = every / (every + 1) if every else 1.0  # a regulariser's steps are extra ones
        return torch.optim.Adam(params, recipe.lr * r, betas=(0.0, 0.99**r))

    opt_g = adam(list(target.parameters()), recipe.path_every if recipe.path else None)
    opt_d = adam([*critic.parameters(), *head.parameters()], recipe.gamma_every)

    def latents(n: int, whole: bool) -> Tensor:
        """w+ of the target (n, num_ws, w): near the anchors, or anywhere, with mixed styles."""
        if whole:
            k = torch.randint(recipe.anchors, (n,), generator=gen)
            return target.w_plus(target.mapping(anchors[k] + recipe.jitter * normal(n, g.z)))
        w = target.mapping(normal(2 * n, g.z))
        target.mapping.track(w.detach())
        cut = torch.randint(1, g.num_ws, (n,), generator=gen)
        cut[torch.rand(n, generator=gen) >= recipe.mixing] = g.num_ws
        first = (torch.arange(g.num_ws) < cut[:, None])[..., None].to(w.device)
        return torch.where(first, *(target.w_plus(half) for half in w.chunk(2)))

    def judge(x: Tensor, whole: bool) -> Tensor:
        return critic(x) if whole else head(critic.features(x, recipe.patch)[-1])

    length = None  # running mean of the path lengths
    bar = tqdm(range(recipe.steps), unit="step", disable=None)
    for step in bar:
        whole, place, losses = step % recipe.whole_every == 0, f"step {step}", {}
        real = shots[_order([gen], len(shots), recipe.batch)[0]]
        flip = torch.rand(len(real), 1, 1, 1, generator=gen).to(real) < 0.5
        real = torch.where(flip, real.flip(3), real)
        with torch.no_grad():
            fake = target.synthesise(latents(recipe.batch, whole), noise(recipe.batch))
        value = critic_loss("logistic", judge(real, whole), judge(fake, whole))
        losses["d"] = _descend(opt_d, value, place)
        if step % recipe.gamma_every == 0:
            real.requires_grad_(True)
            value = recipe.gamma / 2 * r1(judge(real, whole), real)
            losses["r1"] = _descend(opt_d, recipe.gamma_every * value, place)

        fake = target.synthesise(latents(recipe.batch, whole), noise(recipe.batch))
        value = generator_loss("logistic", judge(fake, whole))
        z, maps, before, after = normal(recipe.batch, g.z), noise(recipe.batch), [], []
        with torch.no_grad():
            g.synthesise(g.mapping(z), maps, activations=before)
        target.synthesise(target.mapping(z), maps, activations=after)
        layers = torch.randint(1, len(before), (recipe.batch,), generator=gen)
        apart = distance_consistency(before, after, layers)
        losses["g"] = _descend(opt_g, value + recipe.consistency * apart, place)
        losses["consistency"] = apart.item()
        if recipe.path and step % recipe.path_every == 0:
            w_plus = latents(max(1, recipe.batch // 2), False)
            x = target.synthesise(w_plus, noise(len(w_plus)))
            lengths = path_lengths(x, w_plus, normal(*x.shape) / g.size)
            length = torch.lerp(0 * lengths[0] if length is None else length, lengths.mean(), 0.01)
            length = length.detach()
            value = recipe.path * recipe.path_every * (lengths - length).square().mean()
            losses["path"] = _descend(opt_g, value, place)

        with torch.no_grad():
            pairs = list(average.parameters()), list(target.parameters())
            torch._foreach_lerp_(*pairs, 1 - 0.5 ** (1 / recipe.ema))
        average.mapping.w_avg.copy_(target.mapping.w_avg)
        bar.set_postfix({k: f"{v:.3g}" for k, v in losses.items()})
        if watch is not None:
            watch(step, losses, average)
    return average


def grams(features: Sequence[Tensor]) -> list[Tensor]:
    """F Fᵀ / (c h w) of each map F (B, c, h, w), as (B, c, c). Source: Gatys et al. 2016."""
    flat = [f.flatten(2) for f in features]
    return [f @ f.transpose(1, 2) / f[0].numel() for f in flat]


def style_loss(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Sum over maps of the mean squared difference of Gram matrices, (B,); wanted: `grams`."""
    pairs = zip(grams(features), wanted, strict=True)
    return sum((a - b).square().mean((1, 2)) for a, b in pairs)


def mlps(gens: Sequence[torch.Generator], w: int) -> list[Tensor]:
    """Three layers 2w -> w -> w -> w for each generator: weight (E, cin, cout), bias (E, 1, cout),
    and so on, uniform within ± 1 / √cin.
    """
    layers = []
    for cin in (2 * w, w, w):
        for rows in (cin, 1):
            u = torch.stack([torch.rand(rows, w, generator=gen) for gen in gens])
            layers.append((2 * u - 1) / math.sqrt(cin))
    return layers


def learned(layers: Sequence[Tensor], target: Tensor, auxiliary: Tensor) -> Tensor:
    """w+ (E, k, num_ws, w) of the two states of that shape: row by row, each episode's network."""
    x = torch.cat([target, auxiliary], 3).flatten(1, 2)  # (E, k · num_ws, 2w)
    for i in range(0, len(layers), 2):
        x = torch.baddbmm(layers[i + 1], x if i == 0 else F.leaky_relu(x, 0.01), layers[i])
    return x.unflatten(1, target.shape[1:3])


def episode(
    g: StyleGAN2,
    d: Discriminator,
    maps: Maps,
    shots: Tensor,
    target: Tensor,
    gens: Sequence[torch.Generator],
    recipe: LearnerRecipe = LATENT_LEARNER,
    bar: tqdm | None = None,
) -> Tensor:
    """One episode of E chains side by side: states (E, samples, num_ws, w) -> w+ of that shape.

    Row t of the result is made of state t and of the state of shot t (modulo their number). Each
    chain has its generator of random numbers, its small network from scratch and its copy of
    the critic, so that a chain does not depend on its neighbours.
    """
    E, k, n = len(gens), recipe.samples, recipe.batch
    to = lambda x: x.to(target)
    fixed = {name: p.detach() for name, p in d.named_parameters()}
    critic = {name: p.expand(E, *p.shape).clone().requires_grad_() for name, p in fixed.items()}
    judge = torch.func.vmap(lambda p, x: torch.func.functional_call(d, p, (x,)))
    layers = [to(v).requires_grad_() for v in mlps(gens, g.w)]
    opt_d, opt = (
        torch.optim.Adam(params, recipe.lr, betas=(0.0, 0.99))
        for params in (list(critic.values()), layers)
    )
    auxiliary = to(_normal(gens, len(shots), *target.shape[2:]))  # one state for each shot
    with torch.no_grad():
        wanted = grams(maps(shots))
    chain = torch.arange(E)[:, None]

    def render(a: Tensor, b: Tensor) -> Tensor:
        """Images (E · m, 3, H, W) of the pairs of states a, b (E, m), with fresh noise."""
        w_plus = learned(layers, target[chain, a], auxiliary[chain, b]).flatten(0, 1)
        noise = [to(_normal(gens, a.shape[1], *s)).flatten(0, 1) for s in g.noise_shapes]
        return g.synthesise(w_plus, noise)

    for i in range(recipe.iterations):
        place = f"iteration {i} of an episode"
        real = shots[_order(gens, len(shots), n)]  # (E, n, 3, H, W)
        a, b = _order(gens, k, n), _order(gens, len(shots), n)
        with torch.no_grad():
            fake = render(a, b).unflatten(0, (E, n))
        value = critic_loss("logistic", judge(critic, real), judge(critic, fake))
        _descend(opt_d, E * value, place)  # a sum over chains: each moves as if alone

        value = generator_loss("logistic", judge(critic, render(a, b).unflatten(0, (E, n))))
        _descend(opt, recipe.adversarial * (1 - i / recipe.iterations) * E * value, place)
        shot = torch.stack([torch.randint(len(shots), (k,), generator=gen) for gen in gens])
        for t, j in zip(_order(gens, k, k).split(1, 1), shot.split(1, 1), strict=True):
            value = style_loss(maps(render(t, j)), [m[j[:, 0]] for m in wanted])
            _descend(opt, recipe.style * value.sum(), place)
        if bar is not None:
            bar.update()
    with torch.no_grad():
        return learned(layers, target, auxiliary[:, torch.arange(k) % len(shots)])


def latent_learner(
    g: StyleGAN2,
    d: Discriminator,
    maps: Maps,
    shots: Tensor,
    n: int,
    recipe: LearnerRecipe = LATENT_LEARNER,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """n images (n, 3, H, W), about [-1, 1], and their w+ (n, num_ws, w); g, d, maps stay as they
    are.

    A small network takes two random states to w+, one of which stands for a shot. It and the
    critic learn for one episode; its `samples` outputs are kept and are the first states of the
    next episode. Chains of episodes run side by side, each with its own random numbers. maps:
    images (B, 3, H, W) in [-1, 1] -> feature maps of a network in eval mode that is not the one
    that judges: `Features.maps` at 32 px; at 256 px `perceptual.vgg19_maps`.
    Where paper and program differ, this is the program: leaky ReLU of slope 0.01, one Adam for
    both kinds of steps, and each style step shows one pair of states and the shot of the second.
    Not inherited: chains of three episodes that all start from one seed, [-1, 1] images given to
    VGG as if [0, 1], the images' noise maps (ours are `g.synthesise(w_plus)`). Raises ValueError
    on shots, networks or n that do not fit, RuntimeError on a loss that is not finite.
    Source: Mondal et al. 2023. Built in: few_shot.
    """
    shots = _checked(g, d, shots)
    if n < 1:
        raise ValueError(f"given n = {n}, expected at least 1 image")
    chains = min(recipe.chains, math.ceil(n / recipe.samples))
    seeds = torch.randint(2**31, (chains,), generator=torch.Generator().manual_seed(seed))
    gens = [torch.Generator().manual_seed(s) for s in seeds.tolist()]
    found, codes = [], []
    rounds = math.ceil(n / (chains * recipe.samples))
    target = _normal(gens, recipe.samples, g.num_ws, g.w).to(shots)
    with tqdm(total=rounds * recipe.iterations, unit="iteration", disable=None) as bar:
        for _ in range(rounds):
            target = episode(g, d, maps, shots, target, gens, recipe, bar)
            codes.append(target.flatten(0, 1))
            with torch.no_grad():
                found.append(g.synthesise(codes[-1]))
    return torch.cat(found)[:n], torch.cat(codes)[:n]
