"""LPIPS by another route: a plain forward written from the description, on the tensors alone."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from difftools import data, perceptual, weights
from difftools.code import noise


def plain(x, y):
    """LPIPS of images of 64 px or more, in float64: distances of unit activations, head by head."""
    net = load_file(data.ROOT / "weights" / perceptual.FILE)
    net = {k: v.double() for k, v in net.items()}
    mean = torch.tensor([-0.030, -0.088, -0.188]).double().view(1, 3, 1, 1)
    std = torch.tensor([0.458, 0.448, 0.450]).double().view(1, 3, 1, 1)
    pair = (torch.cat([x, y]).double() - mean) / std
    total = 0
    for i in range(5):
        if i in (1, 2):
            pair = F.max_pool2d(pair, kernel_size=3, stride=2)
        pair = F.conv2d(
            pair,
            net[f"features.{i}.weight"],
            net[f"features.{i}.bias"],
            stride=4 if i == 0 else 1,
            padding=(2, 2, 1, 1, 1)[i],
        ).clamp_min(0)
        a, b = (pair / pair.norm(dim=1, keepdim=True).clamp_min(1e-12)).chunk(2)
        head = net[f"lin.{i}.weight"].flatten()
        total += torch.einsum("bchw,c->bhw", (a - b) ** 2, head).mean((1, 2))
    return total


@pytest.fixture(scope="module")
def pictures():
    return data.domain("vehicles", 3)


def noisy(x, level):
    return x + level * noise(range(len(x)), x.shape[1:], "data")


def test_lpips_against_a_plain_forward_of_its_tensors(pictures):
    x = F.interpolate(pictures, size=64, mode="bicubic", antialias=True)
    y = noisy(x, 0.2)
    want = plain(x, y)
    assert 0.05 < float(want.min()) < float(want.max()) < 2
    torch.testing.assert_close(perceptual.lpips(x, y).double(), want, rtol=1e-4, atol=1e-6)
    wide = [F.interpolate(v, size=512, mode="nearest") for v in (x, y)]  # shown at 256 px
    want = plain(*(F.avg_pool2d(v, 2) for v in wide))
    torch.testing.assert_close(perceptual.lpips(*wide).double(), want, rtol=1e-4, atol=1e-6)


def test_small_pictures_are_enlarged_first(pictures):
    x, y = pictures, noisy(pictures, 0.2)
    large = [F.interpolate(v, size=64, mode="bicubic", antialias=True) for v in (x, y)]
    torch.testing.assert_close(perceptual.lpips(x, y), perceptual.lpips(*large))


def test_lpips_is_0_for_equal_pictures_symmetric_and_grows_with_noise(pictures):
    x = pictures
    assert float(perceptual.lpips(x, x).abs().max()) == 0
    levels = torch.stack([perceptual.lpips(x, noisy(x, v)) for v in (0.02, 0.1, 0.3, 0.6)])
    assert bool((levels.diff(dim=0) > 0).all())
    torch.testing.assert_close(perceptual.lpips(noisy(x, 0.1), x), levels[1])


def test_lpips_of_a_batch_is_that_of_its_pictures(pictures):
    y = noisy(pictures, 0.2)
    each = [perceptual.lpips(pictures[i : i + 1], y[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(perceptual.lpips(pictures, y), torch.cat(each))


def test_its_gradient_is_finite_even_on_black_and_on_the_target(pictures):
    for x in (pictures, torch.zeros_like(pictures)):
        v = x.clone().requires_grad_()
        perceptual.towards(pictures)(v).sum().backward()
        assert bool(v.grad.isfinite().all())


def test_two_shapes_are_refused(pictures):
    with pytest.raises(ValueError, match="expected one shape"):
        perceptual.lpips(pictures, pictures[:1])


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    raw = bytearray((data.ROOT / "weights" / perceptual.FILE).read_bytes())
    known = json.loads((data.ROOT / "weights" / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(known))
    monkeypatch.setattr(data, "ROOT", tmp_path)
    with pytest.raises(weights.ModelError, match="missing"):
        weights.shipped(perceptual.FILE)
    raw[len(raw) // 2] ^= 1
    (folder / perceptual.FILE).write_bytes(raw)
    with pytest.raises(weights.ModelError, match="not the registered file"):
        weights.shipped(perceptual.FILE)


def test_its_licences_are_stated():
    text = (data.ROOT / "LICENSES.md").read_text(encoding="utf-8")
    assert f"`weights/{perceptual.FILE}`" in text
    assert "Richard Zhang" in text and "Soumith Chintala" in text
