"""difftools: the package behind *Diffusion Latents on Trial*."""

__version__ = "0.1.0"

import contextlib
import warnings

with contextlib.suppress(ImportError), warnings.catch_warnings():
    # In a notebook without ipywidgets tqdm warns when it is first imported; text bars do as well.
    warnings.simplefilter("ignore")
    import tqdm.auto  # noqa: F401
