"""difftools: the package behind *Diffusion Latents on Trial*."""

__version__ = "0.1.0"
