"""Faults planted in the heavy tables of the chapter on prior holes, and in what reads latents."""

import pytest

from difftools import hole_tables, results
from faults import each_turns_red, is_refused
from oracle import test_recorded_tables as spot

MUTANTS = {
    "whitening": ("hole_tables", "lam.clamp_min(1e-6 * lam[-1]).sqrt()", "lam"),
    "z_is_read": ("hole_tables", 'parts["z"].to(g.device, g.dtype), None)["w"]',
                  'parts["z"].to(g.device, g.dtype), None)["z"].repeat(1, 2)'),
    "what_is_read": ("hole_tables", "u.mean(1).square().mean(1)", "u.square().mean((1, 2))"),
    "sides": ("hole_tables", '"bld,sld->bs", u, normals) > 0', '"bld,sld->bs", u, normals) > -9'),
    "draws_repeat": ("hole_tables", "w.unflatten(0, (n, L))", "w.unflatten(0, (L, n)).mT"),
    "a_row_is": ("hole_tables", "m.encode(x, seeds)", "m.encode(-x, seeds)"),
    "images_of_the_gan": ("hole_tables", "x = m.decode(known)", "x = -m.decode(known)"),
    "the_work": ("hole_tables", "10_000 * k + first", "first"),
    "regions_that_nobody": ("holes", "in_q[a].mean(0) > p, -1.0", "in_q[b].mean(0) > p, -1.0"),
}
FILES = ("unit/test_hole_tables.py", "unit/test_holes.py", "gan_files.py")


def test_a_fault_in_the_reading_of_latents_turns_its_test_red(tmp_path):
    each_turns_red(MUTANTS, FILES, tmp_path)


def test_an_altered_number_turns_the_spot_check_red(recorded):
    todo, tolerance = spot.TABLES["prior_holes_steppers"]
    part = spot.first_images(todo()[0])
    table = results.shipped("prior_holes_steppers", todo(), recorded)
    assert results.same(part, table, tolerance) == []
    mine = (table.row == part.stepper) & (table.domain == part.domain)
    table.loc[mine, "psnr"] += 0.3
    assert "psnr" in results.same(part, table, tolerance)[0]


@pytest.mark.parametrize("what", ["weights", "steps", "images", "code", "missing"])
def test_a_table_that_rests_on_something_else_is_refused(recorded, what, monkeypatch):
    todo = hole_tables.gan_parts()
    is_refused("prior_holes", todo, what, (hole_tables, "_weights"), monkeypatch, recorded,
               steps={"steps": 299}, images={"x": -todo[-1].x})
