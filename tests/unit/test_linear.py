"""The linear code: projections, the best of their size, exact at the size of an image."""

import pytest
import scipy.fft
import torch

from difftools import data, metrics, zoo
from difftools.diffusion.linear import cosines

NUMBERS = (1, 96, 256, 257, 1024)


@pytest.fixture(scope="module")
def x():
    return torch.cat([data.domain("vehicles", 48), data.domain("emoji", 8)])


def linear(n):
    return zoo.load("linear-vehicles32", numbers=n)


@pytest.mark.parametrize("n", NUMBERS)
def test_encoding_is_an_orthogonal_projection(n, x):
    m = linear(n)
    off = (m.basis.T @ m.basis - torch.eye(n)).abs().max()
    assert float(off) < 1e-4  # components are stored in float16
    code = m.encode(x)
    back = m.decode(code)
    left = (x.double() - back).flatten(1)
    assert float((left @ m.basis).abs().max()) < 1e-3  # what is left is orthogonal to the code
    assert m.dof_per_value == n / 3072 and code["coordinates"].shape == (len(x), n)


def test_as_many_numbers_as_values_return_everything(x):
    m = linear(3072)
    assert float(metrics.psnr(x, m.decode(m.encode(x))).min()) > 150


def test_more_numbers_never_lose_within_a_basis(x):
    for some in ((16, 64, 256), (300, 900, 2700)):
        backs = [linear(n).decode(linear(n).encode(x)) for n in some]
        a, b, c = (((x - back) ** 2).flatten(1).sum(1) for back in backs)
        assert bool((a >= b - 1e-6).all() and (b >= c - 1e-6).all())


def test_principal_components_beat_any_other_basis_on_their_own_law():
    m, law = linear(64), zoo.gaussian_vehicles32()
    random = torch.linalg.qr(torch.randn(3072, 64, generator=torch.Generator().manual_seed(0))).Q
    kept = lambda B: float(((law.U.T @ B).square() * law.lam[:, None]).sum()
                           + law.rest * (64 - (law.U.T @ B).square().sum()))
    assert kept(m.basis.float()) > max(kept(random), kept(cosines((3, 32, 32))[:, :64].float()))


def test_cosines_are_a_basis_that_starts_with_colour():
    C = cosines((3, 8, 8))
    torch.testing.assert_close(C.T @ C, torch.eye(192).double(), atol=1e-10, rtol=0)
    flat = C[:, 0].reshape(3, 64)
    torch.testing.assert_close(flat, torch.full_like(flat, 192**-0.5))  # mean grey comes first
    plain = C[:, 1].reshape(3, 8, 8)[0].numpy()
    spectrum = abs(scipy.fft.dctn(plain, norm="ortho"))
    assert (spectrum > 1e-9).sum() == 1  # an oracle: one coefficient of scipy's transform


def test_draws_have_the_law_of_the_gaussian():
    m, law = linear(32), zoo.gaussian_vehicles32()
    z = m.prior(512)["coordinates"]
    ratio = z.var(0) / law.lam[:32].double()
    assert abs(float(ratio.mean()) - 1) < 0.06  # 512 draws of 32 variances
    few, many = (m.prior(n, seed=s)["coordinates"] for n, s in ((2, 3), (5, 0)))
    torch.testing.assert_close(few, many[3:])


@pytest.mark.parametrize("n", [0, 3073])
def test_a_wrong_number_is_refused(n):
    with pytest.raises(ValueError, match=f"given {n} numbers, expected 1 to 3072"):
        linear(n)
