"""Sets come from anywhere and are trusted for their content only; domains are stable and paired."""

import hashlib
import http.server
import io
import logging
import tarfile
import threading

import numpy as np
import pytest
import torch

from difftools import data, generators, images

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 3
BUNDLED = sorted(p.stem for p in (data.ROOT / "slices").iterdir())


def spec(array):
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": data.sha256(array)}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A registry of two sets in an empty house: `toy` to fetch, `mini` bundled; offline."""
    entry = {"title": "Toys", "licence": "CC0-1.0", "homepage": "https://toys.example",
             "redistributable": True, "classes": ["a", "b", "c"],
             "arrays": {"images": spec(IMAGES), "labels": spec(LABELS)}}
    sets = {"toy": entry | {"archive": {"url": "https://toys.example/toy.npz", "sha256": "0" * 64}},
            "mini": entry | {"arrays": {"images": spec(IMAGES[:5])}}}
    monkeypatch.setattr(data, "registry", lambda: sets)
    monkeypatch.setattr(data, "ROOT", tmp_path / "data")
    monkeypatch.setattr(data, "USED", {})
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("DIFFTOOLS_OFFLINE", "1")
    for name in ("DIFFTOOLS_ARCHIVES", "DIFFTOOLS_SOURCES"):
        monkeypatch.delenv(name, raising=False)
    data._show_licence.cache_clear()
    (tmp_path / "data" / "slices").mkdir(parents=True)
    np.savez_compressed(tmp_path / "data" / "slices" / "mini.npz", images=IMAGES[:5])
    yield tmp_path
    data._show_licence.cache_clear()


def archive(path, **arrays):
    np.savez(path, **(arrays or {"images": IMAGES, "labels": LABELS}))
    return path


def cached(toy):
    return sorted(p.name for p in (toy / "cache").rglob("*")) if (toy / "cache").exists() else []


# what ships


def test_every_bundled_set_has_its_registered_content():
    rows = {r["name"]: r for r in data.verify()}
    assert all(rows[name]["status"] == "ok" for name in BUNDLED)
    assert {n for n, e in data.registry().items() if "archive" not in e} == set(BUNDLED)


def test_slices_are_small_and_their_licences_are_stated():
    text = (data.ROOT / "LICENSES.md").read_text(encoding="utf-8")
    assert all(f"`slices/{name}.npz`" in text for name in BUNDLED)
    assert sum((data.ROOT / "slices" / f"{n}.npz").stat().st_size for n in BUNDLED) <= 7 * 10**6
    for name, entry in data.registry().items():
        assert {"title", "licence", "homepage", "citation", "redistributable"} <= entry.keys(), name


def test_cifar_slices_are_balanced_and_disjoint():
    rows = {n: data.arrays(n) for n in ("vehicles", "animals", "horses")}
    where = np.concatenate([r["index"] for r in rows.values()])
    assert len(set(where.tolist())) == len(where) == 1068
    counts = np.bincount(rows["vehicles"]["labels"]).tolist()
    assert counts == [128, 128, 0, 0, 0, 0, 0, 0, 128, 128]
    assert set(rows["horses"]["labels"]) == {7} and 7 not in rows["animals"]["labels"]


def test_cifar_slices_are_pixels_of_the_test_split():
    if data._place("cifar10-test") is None:
        pytest.skip("CIFAR-10 is not on this machine")
    whole = data.arrays("cifar10-test")
    for name in ("vehicles", "animals", "horses"):
        part = data.arrays(name)
        assert np.array_equal(whole["images"][part["index"]], part["images"])
        assert np.array_equal(whole["labels"][part["index"]], part["labels"])


# domains

HERE = [name for name in data.DOMAINS if name != "vehicles-train"]


@pytest.mark.parametrize("name", HERE)
def test_domain_is_valid_and_a_prefix_of_more(name):
    x = data.domain(name, 16)
    assert images.validate(x, 32).shape == (16, 3, 32, 32) and x.dtype == torch.float32
    assert torch.equal(data.domain(name, 8), x[:8])
    assert torch.equal(data.domain(name, 16), x)
    assert not torch.equal(data.domain(name, 16, seed=1), x)
    assert data.DOMAINS[name]["kind"] in {"in-domain", "extended", "near", "far", "noise"}


def test_domain_without_n_is_every_image_once():
    x = data.domain("horses")
    assert len(x) == 300
    as_stored = images.to_float(data.load("horses"))
    assert torch.equal(x.sum((1, 2, 3)).sort().values, as_stored.sum((1, 2, 3)).sort().values)


def test_sunglasses_are_paired():
    plain = data.domain("avatars", 64, seed=3, split="paired")
    shaded = data.domain("avatars-sunglasses", 64, seed=3, split="paired")
    assert torch.equal(shaded, data.domain("avatars-sunglasses", 64, seed=3))
    same = (plain == shaded).all(1).float().mean((1, 2))            # share of pixels left alone
    other = (plain == shaded.roll(1, 0)).all(1).float().mean((1, 2))
    assert same.min() > 0.8 and same.mean() > other.mean() + 0.2


def test_polarity_is_an_option():
    x = data.domain("quickdraw", 8)
    assert x[:, :, 0].min() == 1                                    # default: black on white
    assert torch.equal(data.domain("quickdraw", 8, invert=False), -x)
    assert data.domain("fashion", 8)[:, :, 0].max() == -1           # default: as stored


def test_classes_of_a_domain():
    assert len(data.domain("icons")) == (data.labels("emoji") == 3).sum() == 51
    trucks = data.domain("vehicles", only=["truck"])
    assert len(trucks) == 128
    whole = data.domain("sketches")
    assert len(whole) == sum(len(data.domain("quickdraw", only=[c])) for c in data.SKETCHES)


@pytest.mark.parametrize("call, message", [
    (lambda: data.domain("vehicle"), "'vehicle', which is unknown: did you mean 'vehicles'"),
    (lambda: data.domain("horses", 301), "n = 301, expected 1 to 300"),
    (lambda: data.domain("horses", 0), "n = 0"),
    (lambda: data.domain("horses", split="train"), "'train', expected slice or test for horses"),
    (lambda: data.domain("emoji", only=["ships"]), "emoji has no class ships: it has animals, "),
    (lambda: data.load("cifar-10-test"), "did you mean 'cifar10-test'"),
    (lambda: data.load("?"), "unknown: known are cifar10-train, "),
    (lambda: data.labels("lorelei"), "has no labels"),
    (lambda: generators.generate("noise", 1), "expected 1 or more of one of dsprites"),
    (lambda: data.domain("constant", 0), "given 0 images"),
])
def test_bad_requests(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# procedural sets


@pytest.mark.parametrize("name", generators.GENERATORS)
def test_generated_images_depend_on_seed_and_place_only(name):
    x = generators.generate(name, 12, seed=5)
    assert x.shape == (12, 32, 32, 3) and x.dtype == np.uint8
    assert np.array_equal(x[:5], generators.generate(name, 5, seed=5))
    assert len(np.unique(x.reshape(12, -1), axis=0)) == 12


def test_sprites_are_white_on_black_antialiased_and_inside():
    x = generators.generate("dsprites", 64)
    assert (x[..., 0] == x[..., 2]).all() and x[:, [0, -1]].max() == x[:, :, [0, -1]].max() == 0
    share = (x[..., 0] / 255).mean((1, 2))
    assert x.max() == 255 and 0.004 < share.min() and share.max() < 0.1
    assert ((x > 0) & (x < 255)).any((1, 2, 3)).mean() > 0.9


def test_turbulence_is_smooth_and_colourful():
    x = images.to_float(generators.generate("turbulence", 32)).double()
    power = torch.fft.fft2(images.grayscale(x)[:, 0]).abs().square().mean(0)
    k = torch.fft.fftfreq(32, 1 / 32).abs()
    ring = torch.hypot(k[:, None], k).round()
    low, high = (power[ring == r].mean() for r in (2, 12))
    assert 30 < (low / high).item() < 300                           # 6^(8/3) = 119
    level = np.linspace(0, 1, 256)
    luma = generators.cubehelix(level) @ np.array(images.LUMA)
    assert (np.diff(luma) > -1).all() and luma[0] == 0 and luma[-1] == pytest.approx(255)


# integrity


def test_bundled_files_are_recorded(toy):
    assert np.array_equal(data.load("mini"), IMAGES[:5])
    raw = (toy / "data" / "slices" / "mini.npz").read_bytes()
    assert data.USED == {"data/slices/mini.npz": hashlib.sha256(raw).hexdigest()}


def test_truncated_or_flipped_slice_is_refused(toy):
    file = toy / "data" / "slices" / "mini.npz"
    raw = file.read_bytes()
    spoilt = [raw[: len(raw) // 2], b"", b"no archive"]
    for at in range(80, len(raw) - 200, len(raw) // 40):
        spoilt.append(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
    for each in spoilt:
        file.write_bytes(each)
        with pytest.raises(data.DataError, match=r"mini\.npz is .*restore it with git"):
            data.load("mini")
    assert data.verify("mini")[0]["status"] == "damaged" and not data.USED


@pytest.mark.parametrize("arrays, what", [
    ({"images": IMAGES[1:6]}, "images"),
    ({"images": IMAGES[:5].reshape(5, 32, 96)}, "images"),
    ({"images": IMAGES[:5].view(np.int8)}, "images"),
    ({"images": IMAGES[:5], "extra": LABELS}, "extra"),
    ({"labels": LABELS}, "images, labels"),
])
def test_other_content_is_refused(toy, arrays, what):
    np.savez_compressed(toy / "data" / "slices" / "mini.npz", **arrays)
    with pytest.raises(data.DataError, match=rf"registered set 'mini' \(it differs in {what}\)"):
        data.load("mini")


def test_damaged_cache_says_delete(toy):
    data.import_archive(archive(toy / "a.npz"))
    file = toy / "cache" / "toy.npz"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(data.DataError, match=r"toy\.npz is damaged .*delete it and fetch"):
        data.load("toy")


def test_a_package_without_its_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "ROOT", tmp_path)
    with pytest.raises(data.DataError, match="datasets.toml is missing.*clone the repository"):
        data.registry.__wrapped__()


# where sets come from


def test_import_then_load(toy):
    assert data.import_archive(archive(toy / "any name.npz")) == ["toy"]
    assert np.array_equal(data.load("toy"), IMAGES) and np.array_equal(data.labels("toy"), LABELS)
    assert cached(toy) == ["toy.npz"] and not data.USED
    assert [r["where"] for r in data.available()] == ["cached", "bundled"]


def test_names_inside_an_archive_play_no_part(toy):
    assert data.import_archive(archive(toy / "a.npz", x=LABELS, y=IMAGES, z=IMAGES[:2])) == ["toy"]
    assert np.array_equal(data.load("toy"), IMAGES)


@pytest.mark.parametrize("arrays", [{"images": IMAGES[::-1], "labels": LABELS}, {"images": IMAGES}])
def test_failing_import_writes_nothing(toy, arrays):
    with pytest.raises(data.DataError, match=r"holds images \(12, 32, 32, 3\).*no registered set"):
        data.import_archive(archive(toy / "a.npz", **arrays))
    assert cached(toy) == []


def test_import_of_nonsense(toy):
    (toy / "x").write_text("hello")
    for path in (toy / "x", toy / "nowhere"):
        with pytest.raises(data.DataError, match="nothing recognised|does not exist"):
            data.import_archive(path)
    assert cached(toy) == []


def test_interrupted_write_leaves_no_file(toy, monkeypatch):
    path = archive(toy / "a.npz")

    def broken(file, **arrays):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="no space"):
        data.import_archive(path)
    assert cached(toy) == []


def test_offline_error_says_what_to_put_where(toy):
    with pytest.raises(data.DataError) as err:
        data.load("toy")
    for part in ("toy is not here", "DIFFTOOLS_OFFLINE", "https://toys.example/toy.npz", "0" * 64,
                 "difftools data import FILE", "DIFFTOOLS_ARCHIVES"):
        assert part in str(err.value)


def test_offline_never_touches_the_network(toy, monkeypatch):
    monkeypatch.setattr(data.pooch, "retrieve", lambda *a, **k: pytest.fail("network"))
    with pytest.raises(data.DataError):
        data.fetch("toy")


def test_local_archives(toy, monkeypatch):
    folder = toy / "downloads"
    folder.mkdir()
    (folder / "holiday.txt").write_text("not this one")
    archive(folder / "labels.npz", labels=LABELS)
    archive(folder / "pixels.npz", images=IMAGES)                   # two files make the set
    monkeypatch.setenv("DIFFTOOLS_ARCHIVES", str(folder))
    assert np.array_equal(data.load("toy"), IMAGES)
    assert cached(toy) == ["toy.npz"]
    monkeypatch.setenv("DIFFTOOLS_ARCHIVES", str(toy / "nowhere"))
    assert np.array_equal(data.load("toy"), IMAGES)                 # the cache comes first
    (toy / "cache" / "toy.npz").unlink()
    with pytest.raises(data.DataError, match="DIFFTOOLS_ARCHIVES names .*nowhere"):
        data.load("toy")


@pytest.fixture
def server(toy, monkeypatch):
    """A server on this machine that hands out files of toy/www; the network switch is on."""
    (toy / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(toy / "www"))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        monkeypatch.setenv("DIFFTOOLS_OFFLINE", "0")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def official(url, file=None):
    sha = hashlib.sha256(file.read_bytes()).hexdigest() if file else "0" * 64
    data.registry()["toy"]["archive"] = {"url": url, "sha256": sha}


def tar(path, **arrays):
    raw = io.BytesIO()
    np.savez(raw, **arrays)
    with tarfile.open(path, "w:gz") as out:
        info = tarfile.TarInfo("deep/inside/x.npz")
        info.size = raw.tell()
        raw.seek(0)
        out.addfile(info, raw)
    return path


def test_fetch_from_the_official_address(toy, server):
    official(f"{server}/a.tgz", tar(toy / "www" / "a.tgz", images=IMAGES, labels=LABELS))
    assert data.fetch("toy") == toy / "cache" / "toy.npz"
    assert np.array_equal(data.load("toy"), IMAGES) and cached(toy) == ["toy.npz"]


def test_a_mirror_helps_and_is_checked_by_content(toy, server, monkeypatch):
    official(f"{server}/gone.tgz")
    sources = toy / "sources.toml"
    sources.write_text(f'[toy]\nurl = "{server}/b"\n')
    monkeypatch.setenv("DIFFTOOLS_SOURCES", str(sources))
    tar(toy / "www" / "b", images=IMAGES[::-1], labels=LABELS)
    with pytest.raises(data.DataError, match="not be fetched .*no registered set.*download http"):
        data.load("toy")
    assert cached(toy) == []
    tar(toy / "www" / "b", images=IMAGES, labels=LABELS)
    assert np.array_equal(data.load("toy"), IMAGES)


def test_a_wrong_official_archive_is_refused(toy, server):
    tar(toy / "www" / "a.tgz", images=IMAGES, labels=LABELS)
    official(f"{server}/a.tgz")
    with pytest.raises(data.DataError, match="could not be fetched .*hash"):
        data.fetch("toy")
    assert cached(toy) == []


def test_unreadable_sources(toy, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_OFFLINE", "")
    monkeypatch.setenv("DIFFTOOLS_SOURCES", str(toy / "nowhere.toml"))
    with pytest.raises(data.DataError, match="DIFFTOOLS_SOURCES names .*nowhere.toml"):
        data.fetch("toy")


def test_licence_is_logged_once_per_set(toy, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="difftools.data"):
        data.load("mini"), data.load("mini")
    assert [r.getMessage() for r in caplog.records] == [
        "mini: Toys; licence: CC0-1.0; https://toys.example"]
    assert capsys.readouterr() == ("", "")


def test_verify_says_what_is_missing(toy):
    assert [(r["name"], r["status"]) for r in data.verify()] == [("toy", "missing"), ("mini", "ok")]
    with pytest.raises(data.DataError, match="unknown"):
        data.verify("toys of another house")
