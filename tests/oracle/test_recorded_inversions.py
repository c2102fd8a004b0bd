"""The inversion tables that ship: none is stale, and parts picked by the commit come out again."""

from __future__ import annotations

import random

import pandas as pd
import pytest

from difftools import inversion_table as tables
from difftools import boomerang_tables, parallelism_tables, results
from oracle.test_recorded_few_shot import TABLES as FEW
from oracle.test_recorded_geodesics import TABLES as ROADS
from oracle.test_recorded_tables import TABLES, first_images, seed
from oracle.test_recorded_traversal import NAME as REPAIRS
from oracle.test_recorded_unseen import TABLES as UNSEEN

RACING = ("animals", "quickdraw", "emoji", "textures")
# The rows that the claims name, on more images.
NAMED = {k: r for k, r in tables.EMBEDDED.items()
         if k.split(",")[0] in ("linear code", "DAE", "LDM", "D2C", "BigGAN", "StyleGAN-XL", "SPHInX")
         and k not in ("D2C, released pipeline", "SPHInX, style", "SPHInX, style and content")}
# name -> (its parts, the columns that name a line, tolerances of the medians)
SHIPPED = {
    "inversion_tables": (
        lambda: tables.plan(tables.EMBEDDED, n=16)[0],
        ("row", "domain", "image"),
        {"psnr": 0.05, "ssim": 1e-3, "dof_per_value": 1e-5},
    ),
    "inversion_more": (
        lambda: [p for p in tables.plan(NAMED, n=48)[0] if p.first],
        ("row", "domain", "image"),
        {"psnr": 0.05, "ssim": 1e-3},
    ),
    "inversion_race": (
        lambda: tables.plan(tables.RACE, None, RACING, 16, tables.Race)[0],
        ("row", "domain", "image", "gmac"),
        {"psnr": 0.3},
    ),
    "inversion_budget": (
        lambda: tables.plan(tables.LONGER, None, tables.FEWER, 4)[0],
        ("row", "domain", "image"),
        {"psnr": 0.5},
    ),
}


def test_every_table_that_ships_is_looked_after():
    known = {*SHIPPED, *TABLES, *ROADS, *parallelism_tables.TABLES, REPAIRS, *FEW, *UNSEEN,
             *boomerang_tables.TABLES}
    for kind in ("csv", "json"):
        assert {f.stem for f in results.FOLDER.glob(f"*.{kind}")} == known


@pytest.mark.parametrize("name", SHIPPED)
def test_no_table_is_stale(name):
    todo, on, _ = SHIPPED[name]
    table = results.shipped(name, todo())
    assert not table.duplicated(list(on)).any()


def optimised(part) -> bool:
    return "recipe" in part.row.settings


def spread(part) -> dict[str, float]:
    """How far medians of three images may move. An optimiser amplifies the rounding of another
    batch size: over 24 parts by up to 0.28 dB and 0.02, and by up to 0.92 dB where SPHInX trains
    networks; three times that.
    """
    if not optimised(part):
        return {"latent_psnr": 0.05} if part.name in ("D2C", "LDM") else {}
    return {"psnr": 2.8 if "SPHInX" in part.name else 0.85, "ssim": 0.06}


@pytest.mark.parametrize("gan", [False, True], ids=["diffusion or control", "GAN"])
@pytest.mark.parametrize("name", ["inversion_tables", "inversion_more"])
def test_rows_of_the_table_come_out_again(name, gan):
    todo, on, tolerances = SHIPPED[name]
    table = pd.read_csv(results.FOLDER / f"{name}.csv")
    part = random.Random(seed()).choice([p for p in todo() if optimised(p) == gan])
    assert results.same(first_images(part), table, tolerances | spread(part), on) == []


def test_a_curve_of_the_race_comes_out_again():
    todo, on, tolerances = SHIPPED["inversion_race"]
    table = pd.read_csv(results.FOLDER / "inversion_race.csv")
    parts = [p for p in todo() if "SPHInX" not in p.name]
    part = random.Random(seed()).choice(parts)
    assert results.same(first_images(part), table, tolerances, on) == []


def test_an_altered_number_is_found():
    todo, on, tolerances = SHIPPED["inversion_tables"]
    table = pd.read_csv(results.FOLDER / "inversion_tables.csv")
    part = next(p for p in todo() if p.name == "linear code, 128 numbers")
    line = (table.row == part.name) & (table.domain == part.domain)
    table.loc[line, "psnr"] += 1.0
    assert "psnr" in results.same(first_images(part), table, tolerances, on)[0]
