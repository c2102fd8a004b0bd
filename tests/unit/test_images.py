"""One range, edits that treat each image alone, and clear errors for bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.nn import functional as F

from difftools import images as I


def generators(n, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


@pytest.fixture
def batch():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


EDITS = {
    "grayscale": I.grayscale,
    "blur": lambda x: I.blur(x, 1.3),
    "white_box": lambda x: I.white_box(x, 9),
    "white_box at": lambda x: I.white_box(x, 9, at=(0, 23)),
    "contrast": lambda x: I.contrast(x, 0.98),
    "more contrast": lambda x: I.contrast(x, 3.0),
    "drop_bit": I.drop_bit,
    "colour_invert": I.colour_invert,
    "downsample": lambda x: I.downsample(x, 4),
    "bicubic": lambda x: I.bicubic(x, 4),
    "fill_box": lambda x: I.fill_box(x, -x, 9),
}


def test_bytes_round_trip_exactly():
    every = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 32, 32, 3)
    x = I.to_float(every)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert np.array_equal(I.to_uint8(x), every)
    assert np.array_equal(I.to_uint8(x.double()), every)
    assert torch.equal(I.to_float(every, invert=True), I.colour_invert(x))
    assert torch.equal(I.drop_bit(x, 0), I.to_float(every & 254))


def test_channels_and_rows_keep_their_place():
    a = np.zeros((1, 32, 32, 3), np.uint8)
    a[0, 3, 7] = (255, 0, 127)
    x = I.to_float(a)
    assert x[0, 0, 3, 7] == 1 and x[0, 1, 3, 7] == -1 and abs(x[0, 2, 3, 7]) < 0.01
    assert (x == -1).sum() == 3 * 32 * 32 - 2


def test_grey_rule():
    a = np.full((2, 28, 28), 200, np.uint8)
    rgb = I.grey_to_rgb(a)
    assert rgb.shape == (2, 32, 32, 3)
    assert (rgb[:, 2:30, 2:30] == 200).all() and rgb.astype(int).sum() == 2 * 28 * 28 * 3 * 200
    assert np.array_equal(I.grey_to_rgb(a, invert=True), 255 - rgb)
    assert torch.equal(I.to_float(a, invert=True), -I.to_float(a))


@pytest.mark.parametrize("shape", [(2, 27, 27), (2, 33, 33), (2, 28, 28, 3)])
def test_grey_rule_refuses(shape):
    with pytest.raises(ValueError, match="given grey images"):
        I.grey_to_rgb(np.zeros(shape, np.uint8))


def test_to_float_refuses():
    with pytest.raises(ValueError, match="given float64 images, expected uint8"):
        I.to_float(np.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match="expected .B, H, W, 3."):
        I.to_float(np.zeros((1, 3, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="NaN"):
        I.to_uint8(torch.full((1, 3, 4, 4), torch.nan))


def test_validate_passes_good_images(batch):
    assert I.validate(batch, 32) is batch
    I.validate(batch.double())
    I.validate((batch / batch.abs().max()) * (1 + 1e-6))            # float rounding is no error


@pytest.mark.parametrize("change, message", [
    (lambda x: x.numpy(), "type float32.*images.to_float"),
    (lambda x: x.tolist(), "type list"),
    (lambda x: x.half(), "type torch.float16"),
    (lambda x: (x > 0).to(torch.uint8), "type torch.uint8.*images.to_float"),
    (lambda x: x[0], r"shape \(3, 32, 32\).*image\[None\]"),
    (lambda x: x[:, :1], r"shape \(6, 1, 32, 32\).*repeat grey"),
    (lambda x: torch.cat([x, x[:, :1]], 1), r"shape \(6, 4, 32, 32\).*drop alpha"),
    (lambda x: x.permute(0, 2, 3, 1), r"shape \(6, 32, 32, 3\).*channels come second"),
    (lambda x: x[:0], "empty"),
    (lambda x: x[:, :, :16], r"shape \(6, 3, 16, 32\), expected float32 \(B, 3, 32, 32\).*resize"),
    (lambda x: torch.where(x > 0.99, torch.nan, x), "NaN"),
    (lambda x: torch.where(x > 0.99, torch.inf, x), "NaN or infinite"),
    (lambda x: (x + 1) * 127.5, "values from .*images.to_float"),
    (lambda x: 1.2 * x, "values from -1.2 to 1.2"),
])
def test_validate_refuses(batch, change, message):
    with pytest.raises(ValueError, match=message) as err:
        I.validate(change(batch), 32)
    assert "expected float32 (B, 3, 32, 32) in [-1, 1]" in str(err.value)


@pytest.mark.parametrize("name", EDITS)
def test_batch_equals_loop(batch, name):
    whole = EDITS[name](batch)
    loop = torch.cat([EDITS[name](x[None]) for x in batch])
    assert (whole - loop).abs().max() <= 2e-7
    assert whole.dtype == batch.dtype and EDITS[name](batch.double()).dtype == torch.float64
    I.validate(whole)


@pytest.mark.parametrize("name", EDITS)
def test_edits_leave_their_input(batch, name):
    before = batch.clone()
    EDITS[name](batch)
    assert torch.equal(batch, before)


@pytest.mark.parametrize("edit", [I.pixel_shuffle, lambda x, g: I.white_box(x, 7, g)])
def test_random_edits_depend_on_their_generator_only(batch, edit):
    whole = edit(batch, generators(6))
    loop = torch.cat([edit(x[None], g) for x, g in zip(batch, [[g] for g in generators(6)])])
    assert torch.equal(whole, loop)
    assert not torch.equal(whole, edit(batch, generators(6, first=9)))
    with pytest.raises(ValueError, match="given 5 generators for 6 images"):
        edit(batch, generators(5))


def test_pixel_shuffle_moves_whole_pixels(batch):
    shuffled = I.pixel_shuffle(batch, generators(6))
    for a, b in zip(batch.flatten(2), shuffled.flatten(2)):
        assert torch.equal(a[:, a[0].argsort()], b[:, b[0].argsort()])


def test_grayscale_keeps_grey(batch):
    grey = I.grayscale(batch)
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert (I.grayscale(grey) - grey).abs().max() < 3e-7
    red = -torch.ones(1, 3, 2, 2)
    red[:, 0] = 1
    assert I.grayscale(red)[0, 0, 0, 0].item() == pytest.approx(2 * 0.299 - 1)


def test_blur_is_a_gaussian():
    point = -torch.ones(1, 3, 33, 33, dtype=torch.float64)
    point[..., 16, 16] = 1
    got = (I.blur(point, 1.5)[0, 0] + 1) / 2
    y = torch.arange(33, dtype=torch.float64) - 16
    assert got.sum().item() == pytest.approx(1)
    assert ((got.sum(1) * y**2).sum()).item() == pytest.approx(1.5**2, rel=0.03)   # cut at 3 sigma
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert (I.blur(flat, 5.0) - 0.3).abs().max() < 1e-6             # wider than the image
    with pytest.raises(ValueError, match="sigma"):
        I.blur(flat, 0)


def test_white_box_places(batch):
    dark = -torch.ones_like(batch)
    assert (I.white_box(dark, 8)[:, :, 12:20, 12:20] == 1).all()
    assert (I.white_box(dark, 8, at=(24, 0))[:, :, 24:, :8] == 1).all()
    assert ((I.white_box(dark, 8, generators(6)) + 1).sum((1, 2, 3)) == 2 * 3 * 64).all()
    for bad in [dict(size=33), dict(size=0), dict(size=8, at=(25, 0)), dict(size=8, at=(-1, 0))]:
        with pytest.raises(ValueError, match="given a (box|corner)"):
            I.white_box(dark, **bad)


@settings(max_examples=8, deadline=None)
@given(bit=st.integers(0, 7))
def test_drop_bit_is_exact_on_bytes(bit):
    every = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 32, 32, 3)
    dropped = I.to_uint8(I.drop_bit(I.to_float(every), bit))
    assert np.array_equal(dropped, every & ~np.uint8(1 << bit))


def test_two_percent_contrast_is_invisible(batch):
    assert (I.contrast(batch, 0.98) - batch).abs().max() < 0.03
    assert torch.allclose(I.contrast(batch, 1.0), batch, atol=1e-6)


def test_downsample(batch):
    assert torch.equal(I.downsample(batch, 1), batch)
    assert torch.allclose(I.downsample(batch, 32)[..., 0, 0], batch.mean((2, 3)), atol=1e-6)
    area = F.interpolate(batch, scale_factor=0.25, mode="area")
    assert torch.allclose(I.downsample(batch, 4), area, atol=1e-6)
    with pytest.raises(ValueError, match="divisor"):
        I.downsample(batch, 5)


def test_bicubic_is_pillow_s(batch):
    planes = [Image.fromarray(p.numpy()) for p in batch.flatten(0, 1)]
    want = np.stack([p.resize((8, 8), Image.Resampling.BICUBIC) for p in planes])
    np.testing.assert_allclose(I.bicubic(batch, 4).flatten(0, 1), want, atol=1e-5)
    with pytest.raises(ValueError, match="divisor"):
        I.bicubic(batch, 5)


def test_fill_box_keeps_what_is_around(batch):
    inside = -batch
    for at in (None, (0, 23), generators(6)):
        at2 = generators(6) if isinstance(at, list) else at
        box = I.white_box(torch.zeros_like(batch), 9, at) == 1
        got = I.fill_box(batch, inside, 9, at2)
        assert torch.equal(got[box], inside[box]) and torch.equal(got[~box], batch[~box])


@pytest.mark.parametrize("name", ["grayscale", "white_box", "downsample", "bicubic"])
def test_a_restoration_can_descend_through_an_edit(batch, name):
    """Gradients as finite differences give them; none from under the box."""
    x = batch[:1, :, :16, :16].double().requires_grad_()
    assert torch.autograd.gradcheck(EDITS[name], x, eps=1e-3, atol=1e-6, fast_mode=True)


def test_grid(batch):
    sheet = I.grid(batch, columns=4, gap=2)
    assert sheet.shape == (2 * 34 - 2, 4 * 34 - 2, 3) and sheet.dtype == np.uint8
    assert np.array_equal(sheet[34:66, 34:66], I.to_uint8(batch)[5])
    assert (sheet[34:, 68:] == 255).all()


# reading files

QUADRANTS = np.zeros((64, 64, 3), np.uint8)
QUADRANTS[:32, :32] = (255, 0, 0)


def test_read_png_and_jpeg(tmp_path):
    Image.fromarray(QUADRANTS).save(tmp_path / "a.png")
    Image.fromarray(QUADRANTS).save(tmp_path / "b.jpg", quality=95)
    x = I.read(tmp_path)
    assert I.validate(x, 32).shape == (2, 3, 32, 32)
    assert x[0, 0, 4, 4] == 1 and x[0, 1, 4, 4] == -1 and x[0, 0, 28, 28] == -1
    assert (x[0] - x[1]).abs().mean() < 0.05
    assert torch.equal(I.read(tmp_path / "a.png"), x[:1])


def test_read_crops_the_centre(tmp_path):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert I.read(tmp_path / "a.png").min() == 1
    assert I.read(tmp_path / "a.png", size=16).shape == (1, 3, 16, 16)


def test_read_antialiases(tmp_path):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert I.read(tmp_path / "a.png")[:, :, 4:-4, 4:-4].abs().max() < 0.05


def test_read_alpha_over_white(tmp_path):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:16, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    x = I.read(tmp_path / "a.png")
    assert x[0, 0, 2, 2] == -1 and x[0, 0, -2, -2] == 1


def test_read_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                                # turn clockwise to view
    Image.fromarray(QUADRANTS).save(tmp_path / "a.jpg", exif=exif, quality=95)
    x = I.read(tmp_path / "a.jpg")
    assert x[0, 0, 4, 28] > 0.9 and x[0, 0, 4, 4] < -0.9


def test_read_sixteen_bit_grey(tmp_path):
    ramp = np.linspace(0, 65535, 32, dtype=np.uint16)[None].repeat(32, 0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    x = I.read(tmp_path / "a.png")
    assert x[0, 0, 0, 0] == -1 and x[0, 0, 0, -1] == 1 and abs(x[0, 0, 0, 16]) < 0.1


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA"])
def test_read_every_mode(tmp_path, mode):
    Image.new(mode, (40, 50)).save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    I.validate(I.read(tmp_path), 32)


def test_read_folder_is_sorted_recursive_and_skips_the_rest(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, level in [("b.png", 0), ("sub/a.PNG", 255), (".hidden/c.png", 9)]:
        Image.new("RGB", (32, 32), (level,) * 3).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    assert [p.name for p in I.paths(tmp_path)] == ["b.png", "a.PNG"]
    assert I.read(tmp_path).mean((1, 2, 3)).tolist() == [-1, 1]


def test_read_refuses(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        I.read(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="holds no image"):
        I.read(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.png, which is empty \(0 bytes\)"):
        I.read(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="text.png, which cannot be read as an image"):
        I.read(tmp_path / "text.png")


def test_read_refuses_truncated_and_bombs(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="b.png, which cannot be read"):
        I.read(tmp_path)                                            # a.png is good, nothing returns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="a.png, which cannot be read.*bomb"):
        I.read(tmp_path / "a.png")


def test_read_ignores_metadata(tmp_path):
    info = PngInfo()
    info.add_text("Comment", "x" * 1000)
    Image.fromarray(QUADRANTS).save(tmp_path / "a.png", pnginfo=info)
    Image.fromarray(QUADRANTS).save(tmp_path / "b.png")
    a, b = I.read(tmp_path)
    assert torch.equal(a, b)
