"""Repairs through latents: damage, frames, networks, linear maps, the best estimate, the parts."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from difftools import data, images, inversion_table, metrics, zoo
from difftools import traversal as T
from difftools.code import Code
from difftools.gaussians import Gaussian
from tiny import save_pipeline


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def x():
    return data.domain("animals", 6)


@pytest.fixture(scope="module")
def few():
    """Twenty pictures: fourteen pairs, four judged."""
    return T.Pictures("few", T.near(14, 6).x, 14, 4)


# Damage


@pytest.mark.parametrize("name", T.TASKS)
def test_damage_takes_each_image_alone_and_measures_affinely(name, x):
    task = T.TASKS[name]
    for f in (task.measure, task.picture):
        alone = torch.cat([f(v[None]) for v in x])
        torch.testing.assert_close(f(x), alone, rtol=0, atol=1e-6)
    a, b = x[:1].double(), x[1:2].double()
    between = task.measure(0.3 * a + 0.7 * b)
    torch.testing.assert_close(between, 0.3 * task.measure(a) + 0.7 * task.measure(b))
    assert task.picture(x).shape == x.shape
    images.validate(task.picture(x), 32)


def test_the_box_has_the_papers_share_of_the_picture():
    for size in (32, 256):
        covered = T.boxed(-torch.ones(1, 3, size, size)) > 0
        assert int(covered[0, 0].sum()) * 64 == size**2  # 32² of 256²
        assert torch.equal(covered, T.around(torch.ones(1, 3, size, size)) == 0)


def test_what_is_left_has_as_many_numbers_as_the_name_says(x):
    assert T.TASKS["enlarge 4"].measure(x).shape[1:] == (3, 4, 4)
    assert T.TASKS["enlarge 8"].measure(x).shape[1:] == (3, 8, 8)
    flat = torch.full((1, 3, 4, 4), 0.25)
    torch.testing.assert_close(T.enlarge(flat, 32), torch.full((1, 3, 32, 32), 0.25))


# Frames and spheres


@pytest.fixture()
def code():
    tensors = {"semantic": 3 + 2 * random(9, 5), "noise": random(9, 2, 4, 4, seed=1)}
    return Code(tensors, {"semantic": "flat", "noise": "sphere"}, tuple(range(9)))


def test_vectors_and_codes_are_inverse(code):
    frame = T.Frame.of(code)
    v = frame.vectors(code)
    assert v.shape == (9, 37)
    back = frame.codes(v, range(9))
    for name in code.tensors:
        torch.testing.assert_close(back[name], code[name], rtol=0, atol=1e-5)
    assert back.geometry == code.geometry and back.seeds == code.seeds


def test_flat_parts_are_taken_in_units_of_their_deviation_and_spheres_as_they_are(code):
    frame = T.Frame.of(code)
    v = frame.vectors(code)
    assert frame.spans == [(0, 32)]
    torch.testing.assert_close(v[:, :32].double(), code.flat("noise"), rtol=0, atol=1e-6)
    torch.testing.assert_close(v[:, 32:].mean(0), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(v[:, 32:].std(0), torch.ones(5))


def test_a_frame_refuses_other_codes_and_a_single_one(code):
    frame = T.Frame.of(code)
    with pytest.raises(ValueError, match="does not fit"):
        frame.vectors(code.drop("semantic"))
    with pytest.raises(ValueError, match="two codes"):
        T.Frame.of(code.select([0]))


def test_the_sphere_sets_lengths_and_nothing_else():
    v, spans = random(4, 10), [(0, 3), (5, 9)]
    on = T.on_spheres(v, spans)
    for a, b in spans:
        torch.testing.assert_close(on[:, a:b].norm(dim=1), torch.full((4,), math.sqrt(b - a)).double())
        cos = torch.cosine_similarity(on[:, a:b], v[:, a:b])
        torch.testing.assert_close(cos, torch.ones(4).double())
    assert torch.equal(on[:, [3, 4, 9]], v[:, [3, 4, 9]])
    torch.testing.assert_close(T.on_spheres(on, spans), on)
    torch.testing.assert_close(T.on_spheres(7 * v, [(0, 10)]), T.on_spheres(v, [(0, 10)]))


def test_no_gradient_along_the_radius():
    v = random(3, 6).requires_grad_()
    (T.on_spheres(v, [(0, 6)]) * random(3, 6, seed=2)).sum().backward()
    assert float((v.grad * v).sum(1).abs().max().detach()) < 1e-12


# Networks


def test_the_network_has_five_layers_and_a_bottleneck():
    net = T.mlp(12, 8, 3)
    widths = [(m.in_features, m.out_features) for m in net if isinstance(m, torch.nn.Linear)]
    assert widths == [(12, 8), (8, 3), (3, 3), (3, 8), (8, 12)]
    assert [type(m).__name__ for m in net] == ["Linear", "ReLU"] * 4 + ["Linear"]
    for i in range(4):  # its derivative passes through three numbers
        J = torch.autograd.functional.jacobian(net, random(12, seed=i, dtype=torch.float32))
        assert int(torch.linalg.matrix_rank(J)) <= 3


def test_the_convolutional_map_starts_as_the_identity_and_is_as_large():
    net, v = T.ConvMap(), random(2, 3, 32, 32, dtype=torch.float32)
    assert torch.equal(net(v), v)
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(net) == pytest.approx(count(T.mlp(3072)), rel=0.03)


def test_a_convolutional_step_of_latents_starts_at_zero_and_keeps_parts_apart():
    shapes = {"a": (5,), "noise": (3, 32, 32), "z": (4,)}
    net, v = T.seeded(lambda: T.LatentConv(shapes), 0), random(2, 3081, dtype=torch.float32)
    assert torch.equal(net(v), torch.zeros_like(v))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(0))
    whole = v[:, 5:-4].reshape(2, 3, 32, 32)
    torch.testing.assert_close(net(v)[:, 5:-4], (net.conv(whole) - whole).flatten(1))
    rest = net.rest(torch.cat([v[:, :5], v[:, -4:]], 1))
    torch.testing.assert_close(torch.cat([net(v)[:, :5], net(v)[:, -4:]], 1), rest)
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(T.LatentConv({"noise": (3, 32, 32), "semantic": (64,)})) == pytest.approx(
        count(T.mlp(3136)), rel=0.05)


def test_the_convolutional_map_sees_every_scale():
    net, v = T.seeded(T.ConvMap, 0), random(1, 3, 32, 32, dtype=torch.float32)
    torch.nn.init.normal_(net.last.weight, generator=torch.Generator().manual_seed(0))
    moved = v.clone()
    moved[0, 0, 0, 0] += 1.0
    change = (net(moved) - net(v)).abs().sum((0, 1)).detach()
    assert float(change[-1, -1]) > 0 and float(change[0, 0]) > float(change[-1, -1])


def test_a_seed_decides_the_start_and_leaves_torch_alone():
    state = torch.get_rng_state()
    a, b, c = (T.seeded(lambda: T.mlp(6, 4, 2), s)[0].weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


def test_the_two_readings_differ_by_the_input():
    net, s = T.mlp(6, 4, 2), random(3, 6, dtype=torch.float32)
    plain = T.as_map(net, T.Recipe("latent", False))(s)
    torch.testing.assert_close(T.as_map(net, T.Recipe("step", False))(s), s + plain)
    on = T.as_map(net, T.Recipe("step", True), [(0, 6)])(s)
    torch.testing.assert_close(on, T.on_spheres(s + plain, [(0, 6)]))


@pytest.mark.parametrize("wrong", [{"reading": "both"}, {"epochs": -1}, {"width": 0}])
def test_a_recipe_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        T.Recipe(**wrong)


def trained(recipe=None, seed=0, scale=1.0):
    recipe = recipe or T.Recipe("latent", False, epochs=30, batch=8, lr=0.01, hidden=16, width=8)
    s = random(40, 6, dtype=torch.float32)
    t = scale * s.flip(1)
    net = T.seeded(lambda: T.mlp(6, recipe.hidden, recipe.width), seed)
    f = T.as_map(net, recipe, [(0, 6)])
    return T.train(net, f, s[:32], t[:32], recipe, seed, (s[32:], t[32:])), net


def test_training_descends_and_is_the_same_twice():
    curve, net = trained()
    assert [c["epoch"] for c in curve] == T.marked(30) == [0, 1, 2, 4, 7, 10, 20, 30]
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"] and curve[-1]["angle"] < curve[0]["angle"]
    again, twin = trained()
    assert curve == again
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters()))
    assert trained(seed=1)[0] != curve


def test_the_curve_starts_before_training_and_measures_what_it_says():
    s, t = random(8, 6, dtype=torch.float32), random(8, 6, seed=1, dtype=torch.float32)
    recipe = T.Recipe("step", False, epochs=1, hidden=4, width=2)
    net = T.seeded(lambda: T.mlp(6, 4, 2), 0)
    before = T.as_map(copy.deepcopy(net), recipe)
    first = T.train(net, T.as_map(net, recipe), s, t, recipe, 0, (s[:3], t[:3]))[0]
    out = before(s).detach()
    assert first["loss"] == pytest.approx(float((out - t).abs().mean()), rel=1e-6)
    assert first["held"] == pytest.approx(float((out[:3] - t[:3]).abs().mean()), rel=1e-6)
    cos = torch.cosine_similarity(out[:3].double(), t[:3].double())
    assert first["angle"] == pytest.approx(float(cos.arccos().mean()) * 180 / math.pi, rel=1e-6)


def test_a_look_sees_the_network_of_its_epoch():
    s = random(8, 6, dtype=torch.float32)
    recipe = T.Recipe("latent", False, epochs=3, hidden=4, width=2)
    net, seen = T.mlp(6, 4, 2), []

    def look(epoch):
        seen.append(float((net(s) - s).abs().mean().detach()))
        return {"twice": 2 * epoch}

    curve = T.train(net, net, s, s, recipe, 0, (s, s), look)
    assert [c["twice"] for c in curve] == [0, 2, 4, 6] == [2 * c["epoch"] for c in curve]
    assert seen == pytest.approx([c["loss"] for c in curve], rel=1e-6)


def test_training_refuses_unpaired_and_infinite_numbers():
    s = random(8, 6, dtype=torch.float32)
    net = T.mlp(6, 4, 2)
    with pytest.raises(ValueError, match="pairs are needed"):
        T.train(net, net, s, s[:4], T.Recipe(), 0, (s, s))
    with pytest.raises(FloatingPointError, match="smaller lr"):
        T.train(net, net, s, s * math.inf, T.Recipe(), 0, (s, s))


def test_epochs_to_a_level_are_read_between_epochs():
    assert T.epochs_to([0, 1, 2], [4.0, 2.0, 1.0], 3.0) == pytest.approx(0.5)
    assert T.epochs_to([0, 1, 5], [4.0, 2.0, 1.0], 1.25) == pytest.approx(4.0)
    assert T.epochs_to([0, 1, 2], [4.0, 5.0, 1.0], 3.0) == pytest.approx(1.5)
    assert T.epochs_to([0, 1], [4.0, 2.0], 4.0) == 0
    assert math.isnan(T.epochs_to([0, 1], [4.0, 2.0], 1.0))


# Linear maps


def test_ridge_picks_the_strength_that_leaving_one_out_picks():
    s, noise = random(30, 4), random(30, 3, seed=2)
    t = s @ random(4, 3, seed=1) + 3 * noise + 5
    fresh = random(5, 4, seed=3)

    def fit(a, rows):
        u, v = s[rows], t[rows]
        du, dv = u - u.mean(0), v - v.mean(0)
        A = torch.linalg.solve(du.T @ du + a * torch.eye(4).double(), du.T @ dv)
        return lambda q: v.mean(0) + (q - u.mean(0)) @ A

    def left_out(a):
        rest = [[j for j in range(30) if j != i] for i in range(30)]
        return sum(float(((fit(a, r)(s[i : i + 1]) - t[i]) ** 2).sum()) for i, r in enumerate(rest))

    best = min(T.ALPHAS, key=left_out)
    torch.testing.assert_close(T.ridge(s, t)(fresh), fit(best, list(range(30)))(fresh))


def test_the_linear_code_is_that_of_scikit_learn_and_keeps_what_it_can():
    v, fresh = random(20, 7) @ random(7, 7, seed=1), random(5, 7, seed=2)
    pca = PCA(3).fit(v.numpy())
    want = pca.inverse_transform(pca.transform(fresh.numpy()))
    code = T.span(v, 3)
    torch.testing.assert_close(code(fresh), torch.from_numpy(want))
    torch.testing.assert_close(code(code(fresh)), code(fresh))
    torch.testing.assert_close(T.span(v[:5], 99)(v[:5]), v[:5])  # all components of five rows


def test_the_bracket_is_the_fit_and_the_fit_without_each_row():
    y, v = random(12, 3), random(12, 5, seed=1)
    inside, outside = T.bracket(y, v)
    A = torch.cat([y, torch.ones(12, 1).double()], 1)
    torch.testing.assert_close(inside, v - A @ torch.linalg.lstsq(A, v).solution)
    for i in range(12):
        rest = [j for j in range(12) if j != i]
        left = v[i] - A[i] @ torch.linalg.lstsq(A[rest], v[rest]).solution
        torch.testing.assert_close(outside[i], left)


def test_the_bracket_encloses_the_best_linear_error():
    low, high = [], []
    for seed in range(60):  # x = y + noise of variance 1: the best linear error is 1
        y, noise = random(16, 4, seed=seed), random(16, 4, seed=1000 + seed)
        inside, outside = T.bracket(y, y + noise)
        low.append(float(inside.square().mean()))
        high.append(float(outside.square().mean()))
    assert metrics.t_interval(low)[1] < 1 < metrics.t_interval(high)[0]
    assert np.mean(low) == pytest.approx(1 - 5 / 16, abs=0.06)


def test_the_bracket_wants_more_images_than_numbers_and_no_copies():
    with pytest.raises(ValueError, match="expected more"):
        T.bracket(random(5, 4), random(5, 2))
    y = random(9, 2)
    with pytest.raises(ValueError, match="dependent"):
        T.bracket(torch.cat([y, y], 1), random(9, 2))


# The best estimate of a Gaussian


@pytest.fixture(scope="module")
def law():
    """A Gaussian on pictures of 8 px, and its covariance."""
    d = 3 * 8 * 8
    U = torch.linalg.qr(random(d, 10)).Q
    lam = torch.linspace(5, 1, 10).double()
    g = Gaussian(0.1 * random(d, seed=1), lam, U, 0.3)
    return g, (U * lam) @ U.T + 0.3 * (torch.eye(d).double() - U @ U.T)


@pytest.mark.parametrize("name", T.TASKS)
def test_the_best_estimate_is_the_conditional_mean(name, law):
    g, C = law
    measure = T.TASKS[name].measure
    best = T.Wiener(g, measure, 8)
    v = g.sample(random(6, g.d, seed=5)).reshape(-1, 3, 8, 8)
    eye = torch.eye(g.d).double().reshape(-1, 3, 8, 8)
    M = measure(eye).flatten(1) - measure(torch.zeros(1, 3, 8, 8).double()).flatten(1)
    seen = (v.flatten(1) - g.mean) @ M
    want = g.mean + seen @ torch.linalg.pinv(M.T @ C @ M, rtol=1e-9) @ M.T @ C
    torch.testing.assert_close(best(v).flatten(1), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(measure(best(v)), measure(v), rtol=0, atol=1e-6)  # what is seen stays


def transfer(estimate, g):
    """Matrix T of estimate(x) − mean = (x − mean) T."""
    at = lambda v: estimate(v.reshape(-1, 3, 8, 8)).flatten(1)  # noqa: E731
    return at(g.mean + torch.eye(g.d).double()) - at(g.mean[None])


def test_every_choice_of_k_numbers_leaves_the_same_latent_error(law):
    g, _ = law
    best = T.Wiener(g, images.grayscale, 8)  # tells 64 numbers
    root = g.apply(torch.sqrt, torch.eye(g.d).double())
    found = []
    for seed in (0, 1):
        L = root @ transfer(best.through(20, seed), g) @ torch.linalg.inv(root)  # latent -> latent
        error = float((torch.eye(g.d).double() - L).square().sum())
        assert error == pytest.approx(g.d - 20, rel=1e-6)
        found.append(L)
    assert float((found[0] - found[1]).abs().max()) > 0.01
    v = g.sample(random(4, g.d, seed=5)).reshape(-1, 3, 8, 8)
    torch.testing.assert_close(best.through(64)(v), best(v), rtol=0, atol=1e-6)
    torch.testing.assert_close(best.through(999)(v), best(v), rtol=0, atol=1e-6)


# The parts of the table


def test_what_is_judged(x):
    black = -torch.ones_like(x)
    found = T.judged(x, T.boxed(x), range(6), "inpaint")
    assert (found.pasted == found.psnr).all() and list(found.image) == list(range(6))
    put_back = T.judged(x, black, range(6), "inpaint")
    assert (put_back.pasted > put_back.psnr + 5).all()
    assert T.judged(x, x, range(6), "colour").pasted.isna().all()
    torch.testing.assert_close(
        torch.tensor(T.judged(x, 3 * x, range(6), "colour").psnr.to_numpy()),
        metrics.psnr(x, 3 * x, clip=True), rtol=0, atol=1e-2)
    again = inversion_table.to_picture(T.judged(x, x, range(6), "colour").picture[0])
    torch.testing.assert_close(again, x[0], rtol=0, atol=1e-6)
    assert put_back.picture.notna().tolist() == [True] + 5 * [False]


def test_a_set_needs_pictures_on_both_sides(x):
    with pytest.raises(ValueError, match="leave none to judge"):
        T.Pictures("few", x, 6)
    p = T.Pictures("few", x, 4, 8)
    assert p.judged == [4, 5]
    less = p.less(2, 1, 1)
    assert torch.equal(less.x, x[[0, 1, 4]]) and less.judged == [2] and less.name == "few"


def test_the_books_sets_are_split_without_overlap():
    p = T.near()
    assert len(p.x) == T.PAIRS + T.HELD and p.pairs == T.PAIRS
    drawn = T.far()
    assert (len(drawn.x), drawn.pairs, len(drawn.judged)) == (sum(T.LESS[:2]), T.LESS[0], T.LESS[2])
    for q in (p, drawn):
        apart = torch.cdist(q.x[q.pairs :].flatten(1), q.x[: q.pairs].flatten(1))
        assert float(apart.min()) > 1


@pytest.fixture(scope="module")
def still(few):
    """A part of two trainings that hardly move, and its rows."""
    recipe = T.Recipe("step", False, epochs=1, lr=1e-12)
    part = T.MapPart("DDPM", "ddpm-vehicles32", few, "colour", recipe, 2, steps=2, looks=(0,),
                     own=2, picture=True)
    return part, part.run()


def test_an_untrained_step_returns_the_damaged_picture(few, still):
    part, found = still
    frame, source, target = T.pairs(part.model, 2, few, "colour")
    m, rows, want = zoo.load(part.model, steps=2), few.judged, []
    for seed in (0, 1):
        net = T.seeded(lambda: T.mlp(source.shape[1]), seed)
        with torch.no_grad():
            back = m.decode(frame.codes(T.as_map(net, part.recipe)(source[rows]), rows))
        want.append(metrics.psnr(few.x[rows], back.to(few.x), clip=True))
    held = found[T.kinds(found) == "held"]
    np.testing.assert_allclose(held.psnr, sum(want) / 2, atol=0.02)  # the mean over seeds
    walk = T.LatentPart("DDPM", "ddpm-vehicles32", few, "colour", 4, steps=2).run()
    given = walk[walk.how == "damaged, there and back"]
    np.testing.assert_allclose(held.psnr, given.psnr, atol=0.4)  # the first step is small
    assert list(found[T.kinds(found) == "own"].image) == [0, 1]
    assert held.picture.notna().tolist() == [True] + [False] * 3
    assert float(held.psnr.iloc[0]) != float(held.psnr.iloc[1])


def test_a_curve_holds_the_scores_of_each_seed_where_it_was_looked_at(still):
    part, found = still
    curve = found[T.kinds(found) == "epoch"].set_index(["seed", "epoch"])
    assert list(curve.index) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    held = found[T.kinds(found) == "held"]
    for k in ("psnr", "ssim", "lpips"):
        assert curve.xs(1, level="epoch")[k].mean() == pytest.approx(held[k].mean(), abs=2e-3)
    np.testing.assert_allclose(curve.psnr.xs(0, level="epoch"), curve.psnr.xs(1, level="epoch"),
                               atol=0.02)  # it has hardly moved
    unseen = replace(part, seeds=1, looks=(), own=0, note="once").run()
    assert unseen[T.kinds(unseen) == "epoch"].psnr.isna().tolist() == [True, False]
    alone = replace(part, seeds=1, own=0).run()
    assert set(T.kinds(alone)) == {"held"} and len(alone) == 4


def test_a_side_row_keeps_the_end_of_each_training_and_the_pictures(still):
    part, found = still
    names = ("row", "model", "pictures", "task", "recipe", "seeds", "steps")
    side = T.SidePart(**{k: getattr(part, k) for k in names})
    kept = side.run()
    assert side.key != replace(part, looks=(), own=0, picture=False).key
    assert kept.epoch.dropna().tolist() == [1, 1] and kept.seed.dropna().tolist() == [0, 1]
    held = found[T.kinds(found) == "held"].psnr.to_numpy()
    np.testing.assert_allclose(kept[T.kinds(kept) == "held"].psnr, held, atol=0.01)


def test_an_oracle_is_given_what_it_should_find(few):
    frame, source, target = T.pairs("d2c-vehicles32", 2, few, "none")
    assert torch.equal(source, target)
    recipe = T.Recipe("step", False, epochs=1, lr=1e-12)
    part = T.MapPart("D2C", "d2c-vehicles32", few, "none", recipe, steps=2)
    walk = T.LatentPart("D2C", "d2c-vehicles32", few, "none", 4, steps=2).run()
    there = walk[walk.how == "original, there and back"].psnr
    np.testing.assert_allclose(part.run().psnr, there, atol=0.4)


def test_pairs_start_from_the_same_noise_and_do_not_see_the_batch(few):
    frame, source, target = T.pairs("ddpm-vehicles32", 2, few, "inpaint")
    m = zoo.load("ddpm-vehicles32", steps=2)
    alone = m.encode(few.x[17:18], [17])
    torch.testing.assert_close(target[17:18], frame.vectors(alone), rtol=0, atol=1e-3)
    alone = m.encode(T.boxed(few.x[17:18]), [17])
    torch.testing.assert_close(source[17:18], frame.vectors(alone), rtol=0, atol=1e-3)


def test_what_the_latents_give_without_a_network(few):
    part = T.LatentPart("DAE", "dae-vehicles32", few, "enlarge 8", 4, steps=3)
    found = pd.concat([part.run(), replace(part, task="none").run()])
    by = found.groupby("how").psnr.median()
    assert by["original, there and back"] > by["damaged, there and back"]
    assert by["original, there and back"] > by["true latent, linear code"]
    frame, source, target = T.pairs("dae-vehicles32", 3, few, "enlarge 8")
    mean = frame.codes(target[:14].mean(0, keepdim=True), few.judged[:1])
    back = zoo.load("dae-vehicles32", steps=3).decode(mean)
    want = float(metrics.psnr(few.x[14:15], back.to(few.x), clip=True)[0])
    assert found[found.how == "mean latent"].psnr.iloc[0] == pytest.approx(want, abs=0.02)
    assert (found.groupby("how").size() == 4).all()


def test_what_pixels_give_without_latents(few):
    part = T.PixelPart("pixels", few, "inpaint", 4, T.Recipe("step", False, epochs=1), conv=False)
    found = part.run().set_index(["how", "image"]).psnr.unstack("how")
    assert (found["ridge of pixels"] > found["as given"]).all()
    want = metrics.psnr(few.x, T.boxed(few.x))[14:18]
    np.testing.assert_allclose(found["as given"], want, atol=0.01)


def test_a_gan_restores_from_what_is_left(few):
    part = T.GANPart("SPHInX-BRGM", "stylegan2-vehicles32", "sphinx_brgm", few, "enlarge 8", 3, 2)
    found = part.run()
    assert list(found.image) == [14, 15] and found.psnr.notna().all()
    with pytest.raises(ValueError, match="unknown recipe"):
        replace(part, recipe="sphinx_brg").run()


def test_a_walk_of_a_gan_is_looked_at_and_ends_where_restoring_ends(few):
    gan = ("SPHInX-BRGM", "stylegan2-vehicles32", "sphinx_brgm", few, "enlarge 8")
    part = T.BudgetPart(*gan, steps=30, shown=2, looks=(0, 25, 30))
    found = part.run()
    assert list(zip(found.epoch, found.image)) == [(e, i) for e in (0, 25, 30) for i in (14, 15)]
    assert set(T.kinds(found)) == {"epoch"} and set(found.how) == {"30 steps"}
    loss = found.loss.to_numpy().reshape(3, 2)
    assert (np.diff(loss, axis=0) <= 0).all() and (loss[2] < loss[0]).all()
    end = T.GANPart(*gan, steps=30, shown=2).run()
    np.testing.assert_allclose(found.psnr[found.epoch == 30], end.psnr, atol=0.02)
    early = replace(part, looks=(0,)).run()
    np.testing.assert_allclose(early.loss, loss[0], atol=1e-3)
    assert len({part.key, replace(part, looks=(0,)).key, T.GANPart(*gan, 30, 2).key}) == 3


def test_in_the_solvable_world_the_best_estimate_is_best():
    found = T.SolvablePart("exact", "enlarge 8", T.Recipe("latent", False, epochs=1), 64, 24).run()
    by = found[T.kinds(found) == "held"].groupby("how").psnr.mean()
    assert by["best estimate"] > by["as given"] and by["best estimate"] > by["latent"]
    assert by["best through 256 numbers"] == pytest.approx(by["best estimate"], abs=0.02)
    only = T.SolvablePart("exact", "enlarge 8", T.Recipe("step", False, epochs=1), 64, 24).run()
    assert set(only.how) == {"step"}


def test_a_key_changes_with_what_decides_the_part(few):
    part = T.MapPart("DAE", "dae-vehicles32", few, "colour", T.Recipe())
    other = T.Pictures("few", few.x.flip(0), 14, 4)
    changed = [{"seeds": 2}, {"looks": (0,)}, {"own": 1}, {"note": "long"}, {"task": "inpaint"},
               {"recipe": T.Recipe("step")}, {"limit": 8},
               {"steps": 9}, {"pictures": other}, {"model": "ddpm-vehicles32"}, {"net": "conv"},
               {"recipe": T.Recipe(epochs=11)}, {"pictures": replace(few, pairs=13)}]
    keys = [part.key, *(replace(part, **c).key for c in changed)]
    assert len(set(keys)) == len(keys)
    assert part.key == replace(part, pictures=replace(few)).key  # by value, not by object


def test_the_books_parts_are_all_there_and_all_different():
    todo = T.parts()
    assert len({p.label for p in todo}) == len({p.key for p in todo}) == len(todo)
    mine = [p for p in todo if type(p) is T.MapPart and p.seeds > 1 and not p.note]
    beneath = [p for p in todo if isinstance(p, T.SidePart)]
    assert {p.seeds for p in beneath} == {T.SEEDS}
    assert {(p.row, p.pictures.name) for p in beneath} == {
        *((r, "near") for r in ("DAE", "D2C", "LDM", "DDPM")), ("DAE", "far")}
    side = [p for p in todo if isinstance(p, T.MapPart) and p.note and p.task != "none"]
    assert {(p.note, p.task, p.recipe.reading, p.recipe.sphere, p.recipe.epochs, p.seeds)
            for p in side} == {(n, t, r.reading, r.sphere, e, s) for t in T.CUT for r in T.READINGS
                               for n, e, s in (("long", T.LONG, 1), ("untrained", 0, T.SEEDS))}
    assert {(p.row, p.pictures.name, p.seeds) for p in mine} == {("DAE", T.NEAR, T.SEEDS)}
    asked = set(itertools.product(T.TASKS, T.READINGS))
    assert {(p.task, p.recipe) for p in mine} == asked and T.SEEDS >= 5
    lines = {(p.row, p.pictures.name, p.task) for p in todo if isinstance(p, T.LatentPart)}
    every = {(r, "near", t) for r in ("DAE", "D2C") for t in (*T.TASKS, "none")}
    assert lines == every | {(r, s, t) for t in (*T.CUT, "none") for r, s in (
        ("LDM", "near"), ("DDPM", "near"), ("DAE", "far"))}
    assert {(p.net, p.task) for p in todo if getattr(p, "net", "mlp") == "conv"} == {
        ("conv", t) for t in T.CUT}
    for kind, steps, tasks in ((T.GANPart, T.GAN_STEPS, T.TASKS), (T.BudgetPart, 5000, T.CUT)):
        assert {(p.row, p.task, p.steps) for p in todo if type(p) is kind} == {
            (r, t, steps) for r in T.GANS for t in tasks}
    assert set(T.facts(todo)) == {"code", "sets (name, pairs, held out)", "steps", "GAN steps"}


# A model and pictures of yours


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    save_pipeline(place / "pipeline")
    (place / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            place / "pictures" / f"{i}.png")
    return place


def test_a_model_and_a_folder_of_yours_make_the_same_table(own):
    todo = T.own_parts(str(own / "pipeline"), own / "pictures", seeds=2, epochs=1)
    p = todo[0].pictures
    assert (p.name, len(p.x), p.pairs, p.judged) == ("yours", 10, 8, [8, 9])
    kinds = [type(t) for t in todo]
    assert kinds.count(T.MapPart) == 4 * 4 + 2 * 2 * 4 and T.GANPart not in kinds
    found = next(t for t in todo if isinstance(t, T.MapPart)).run()
    assert list(found.columns) == T.COLUMNS and set(found.seed.dropna()) == {0, 1}
    kinds = T.kinds(found)
    assert found[kinds != "epoch"].psnr.notna().all()
    assert (kinds == "held").sum() == 2 and (kinds == "epoch").sum() == 4
    with_gan = T.own_parts(str(own / "pipeline"), own / "pictures", "stylegan2-vehicles32")
    assert sum(isinstance(t, T.GANPart) for t in with_gan) == 8


def test_without_a_folder_the_books_pictures_serve_at_32_px_only(own, monkeypatch):
    todo = T.own_parts(str(own / "pipeline"), n=10, seeds=1)
    assert todo[0].pictures.name == T.NEAR and len(todo[0].pictures.x) == 10
    monkeypatch.setattr(zoo, "load", lambda name: type("m", (), {"size": 256}))
    with pytest.raises(ValueError, match="download a set such as LHQ-256"):
        T.own_parts("ffhq")
