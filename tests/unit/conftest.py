import pytest
import torch

from difftools import gaussians
from difftools.code import noise
from difftools.diffusion import denoiser as D
from difftools.diffusion.model import PixelDiffusion

SHAPE = (3, 4, 4)


@pytest.fixture(scope="session")
def law():
    """A Gaussian on R^48 with a spread spectrum and a mean, small enough for images in [-1, 1]."""
    gen = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(48, 48, generator=gen, dtype=torch.float64)).Q
    lam = torch.logspace(-1, -3, 48, dtype=torch.float64)
    mean = 0.1 * torch.randn(48, generator=gen, dtype=torch.float64)
    return gaussians.Gaussian(mean, lam, Q)


@pytest.fixture(scope="session")
def mixture(law):
    """Two Gaussians far enough apart that the score is not linear."""
    other = gaussians.Gaussian(-3 * law.mean, law.lam.flip(0) / 2, law.U)
    return gaussians.Mixture(torch.tensor([0.4, 0.6], dtype=torch.float64), [law, other])


@pytest.fixture(scope="session")
def images(law):
    """Eight draws of the law as images (8, 3, 4, 4), inside [-1, 1]."""
    x = law.sample(noise(range(8), (48,), "data", torch.float64)).reshape(8, *SHAPE)
    return x.clamp(-1, 1).float()


@pytest.fixture
def gaussian_model(law):
    return PixelDiffusion(D.exact(law, SHAPE))


@pytest.fixture
def mixture_model(mixture):
    return PixelDiffusion(D.exact(mixture, SHAPE))
