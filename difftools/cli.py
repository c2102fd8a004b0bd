"""The command line: `difftools zoo | data | train | import | run | claims | bench | table |
invert | unseen | boomerang`.

Exit status: 0 done, 2 bad input (one clear line on stderr), anything else a defect.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
WORLDS = ["embedded", "paper"]
RECIPES = ["ddpm", "ddpm-eps", "dae", "ldm", "d2c", "v", "stylegan2", "biggan", "styleganxl"]


def show(rows: list[dict], as_json: bool) -> None:
    """A list of flat rows as JSON or as an aligned table."""
    if as_json:
        click.echo(json.dumps(rows, indent=1, default=str))
        return
    if not rows:
        click.echo("nothing to show")
        return
    text = {True: "yes", False: "no", None: "-"}
    table = [list(rows[0])]
    for r in rows:
        table.append(
            [
                text.get(v, str(v))
                if isinstance(v, bool | None)
                else f"{v:,}"
                if isinstance(v, int)
                else str(v)
                for v in r.values()
            ]
        )
    width = [min(60, max(len(r[i]) for r in table)) for i in range(len(table[0]))]
    for r in table:
        cut = (c if len(c) <= 60 else f"{c[:59]}…" for c in r)
        click.echo("  ".join(c.ljust(w) for c, w in zip(cut, width, strict=True)).rstrip())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="difftools")
def cli():
    """Put claims about diffusion latent spaces on trial.

    \b
    difftools zoo                      which models there are, and where each one stands
    difftools claims                   every claim, every world, every verdict
    difftools invert photo.png         invert your own image: three numbers, a latent, a picture
    difftools unseen photos/           sample the domain of your own images
    difftools boomerang photo.png      pictures near your own, from a level of noise that you choose
    difftools run inversion            run a chapter with other parameters
    """
    licences, handler = logging.getLogger("difftools.data"), logging.StreamHandler()
    licences.addHandler(handler)  # each set names its licence once
    licences.setLevel(logging.INFO)
    click.get_current_context().call_on_close(lambda: licences.removeHandler(handler))


@cli.command()
@JSON
def zoo(as_json):
    """List the models: system, world, parameters, degrees of freedom per pixel value, weights,
    quality floor.

    World S is solvable (exact score), E is embedded (weights in this repository). Any unconditional
    diffusers pipeline works too, by hub name (google/ddpm-cifar10-32) or local folder, wherever a
    model is asked for.
    """
    from . import zoo as z

    show(z.rows(), as_json)


@cli.group()
def data():
    """Image sets: list, fetch from their official source, import a local archive, verify hashes.

    Sets are checked by the hash of their decoded content, so any copy is as good as the official
    one. DIFFTOOLS_OFFLINE=1 forbids every download.
    """


@data.command("list")
@JSON
def data_list(as_json):
    """List every registered image set: where it is, how many images, which licence."""
    from . import data as d

    show(d.available(), as_json)


@data.command("fetch")
@click.argument("name")
def data_fetch(name):
    """Fetch a set from its official source (or your mirror) into the cache, with a progress bar."""
    from . import data as d

    click.echo(f"{name}: {d.fetch(name, progress=True)}")


@data.command("import")
@click.argument("path", type=click.Path(path_type=Path))
def data_import(path):
    """Import an archive or folder that you already have; its content decides which sets it
    holds.
    """
    from . import data as d

    click.echo("imported: " + ", ".join(d.import_archive(path)))


@data.command("verify")
@click.argument("name", required=False)
@JSON
def data_verify(name, as_json):
    """Recompute the content hash of every set on this machine (or of one)."""
    from . import data as d

    show(d.verify(name), as_json)


@cli.command()
@click.argument("name", type=click.Choice(RECIPES))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("trained"),
    show_default=True,
    help="Folder for weights, card and sample sheet. The book reads data/weights.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Folder whose run is resumed [default: OUT/run-NAME].",
)
@click.option("--images", type=click.IntRange(32), help="Images to show [default: the recipe's].")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
def train(name, out, checkpoint, images, device, threads):
    """Train an embedded model, measure it, and write weights, card and sample sheet.

    \b
    ddpm       the residual of a Gaussian denoiser (ddpm-vehicles32)
    ddpm-eps   the same network and images, plain epsilon-prediction: the control
    dae        semantic encoder and conditional denoiser, then a model of the codes
    ldm        VQ autoencoder, then a denoiser of its latents
    d2c        contrastive autoencoder, then a denoiser of its latents
    v          v-prediction on the cosine schedule, another architecture
    stylegan2  generator and critic, unconditional
    biggan     class-conditional, spectral norm, projection critic
    styleganxl a small classifier of CIFAR-10, then a conditional generator and critics that see
               through it

    Needs CIFAR-10 (`difftools data fetch cifar10-train`, or `difftools data import ARCHIVE`). An
    interrupted run goes on where it stopped.
    """
    import torch

    from . import train as t

    torch.set_num_threads(threads)
    card = t.run(name, out, checkpoint or out / f"run-{name}", images, device)
    click.echo(json.dumps(card["floor"], indent=1))


@cli.command()
@click.argument("chapter")
@click.option(
    "--profile",
    type=click.Choice(["smoke", "reference", "full"]),
    default="reference",
    show_default=True,
)
@click.option(
    "--world",
    type=click.Choice(WORLDS),
    help="Embedded models, or the official checkpoints that you downloaded [default: embedded].",
)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a notebook parameter.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Executed copy [default: ./CHAPTER-PROFILE.ipynb].",
)
def run(chapter, profile, world, parameters, out):
    """Run a chapter into a copy; the committed chapter stays as it is.

    Prints its verdicts: in profile smoke they rest on a handful of images. Checks compare only at
    the recorded parameters; with others the chapter reports. An unknown parameter is an error; a
    cell that stops the chapter is named, with status 1.
    Example: difftools run inversion --profile smoke -p seed=3
    """
    from papermill import PapermillExecutionError

    from . import book
    from . import claims as claims_

    given = {}
    for item in parameters:
        key, eq, value = item.partition("=")
        if not eq:
            raise ValueError(f"-p takes NAME=VALUE, got {item!r}")
        try:
            given[key] = json.loads(value)
        except json.JSONDecodeError:
            given[key] = value
    if world:
        given["world"] = world
    out = out or Path(f"{chapter}-{profile}.ipynb")
    try:
        records = book.run(chapter, out, profile=profile, **given)
    except PapermillExecutionError as err:
        told = f"{err.ename}: {err.evalue}"
        click.echo(f"difftools: {chapter} stopped in code cell {err.exec_count}. {told}", err=True)
        sys.exit(1)
    for record in records:
        if record["kind"] == "verdict":
            click.echo(claims_.line(record))
    click.echo(f"written to {out}")


@cli.command()
@JSON
def claims(as_json):
    """The scoreboard: every claim on trial, with its verdict (or `pending`) in each world."""
    from . import book

    rows = book.claims_table()
    if not as_json:
        rows = [
            {"claim": r["id"], "statement": r["statement"], "chapter": r["chapter"]}
            | {w: r["verdicts"].get(w, "–") for w in "SEP"}
            for r in rows
        ]
    show(rows, as_json)


@cli.command("import")
@click.argument("system")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Model of world P [default: the one whose shapes fit].")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON file with another architecture of the same class.",
)
@click.option(
    "--heads",
    type=click.Path(path_type=Path),
    help="For lpips-vgg: vgg.pth of LPIPS 0.1 [default: the copy in torchmetrics].",
)
def import_checkpoint(system, file, name, config, heads):
    """Convert an official checkpoint to safetensors and a note, for `difftools zoo` and world P.

    \b
    SYSTEM  dae  DiffAE, last.ckpt          d2c  D2C, model.ckpt
            ldm  latent diffusion, .ckpt    adm  guided-diffusion, improved-diffusion, FFHQ-10m, .pt
            stylegan2    NVIDIA .pkl (PyTorch or TensorFlow), rosinality .pt
            styleganxl   StyleGAN-XL, .pkl
            biggan       BigGAN-PyTorch, G_ema.pth
            biggan-deep  pytorch-pretrained-BigGAN, .bin
            lpips-vgg    torchvision's VGG16, vgg16-397923af.pth, for LPIPS
            vgg19        torchvision's VGG19, vgg19-dcbb9e9d.pth, for the style of few-shot rivals

    Takes the weights that official inference uses (averaged ones where there are some). Nothing in
    the file is executed; a file that would have to be is refused, and so is one with a missing, an
    extra or a misshapen tensor, by name.
    """
    from . import perceptual, zoo

    networks = perceptual.PUBLISHED
    known = (*zoo.SYSTEMS, *networks)
    if system not in known:
        raise ValueError(f"unknown system {system!r}; known: {', '.join(known)}")
    if system in networks and (name or config):
        raise ValueError(f"{system} is one network: it takes neither --name nor --config")
    if heads and system != "lpips-vgg":
        raise ValueError(f"{system} takes no --heads: they belong to lpips-vgg")
    if system in networks:
        done = perceptual.import_network(system, file, heads)
    else:
        given = json.loads(config.read_text()) if config else None
        done = zoo.import_official(system, file, name, given)
    click.echo(f"{done}: {zoo.imported(done)}")


@cli.command()
@click.option("--steps", type=click.IntRange(2), default=20, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True)
@click.option("--repeats", type=click.IntRange(3), default=7, show_default=True)
@click.option("--to-45-db", is_flag=True, help="Instead: what a round trip of 45 dB costs.")
@click.option(
    "--gan",
    is_flag=True,
    help="Instead: PSNR and degrees of freedom of GAN inversion, and its seconds to equal PSNR "
    "beside diffusion inversion's.",
)
def bench(steps, batch, repeats, to_45_db, gan):
    """Speed of inversion, side by side in one run: ours, diffusers', and the bare network as the
    limit.
    """
    import runpy

    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    if gan:
        runpy.run_path(str(folder / "gan_and_diffusion.py"))["main"]()
    elif to_45_db:
        runpy.run_path(str(folder / "evaluations_to_45_db.py"))["main"]()
    else:
        runpy.run_path(str(folder / "inversion_speed.py"))["main"](steps, batch, repeats)


@cli.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--world",
    type=click.Choice(WORLDS),
    default="embedded",
    show_default=True,
    help="Embedded models, or the official checkpoints that you imported.",
)
@click.option(
    "--rows", "labels", multiple=True, metavar="ROW", help="A row, repeatable [default: all]."
)
@click.option(
    "--domain",
    "domains",
    multiple=True,
    help="Without FOLDER: a bundled image set, repeatable [default: all of chapter 5].",
)
@click.option("-n", type=click.IntRange(1), help="Without FOLDER: images of each set.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("table"), show_default=True)
def table(folder, world, labels, domains, n, out):
    """Invert every image of FOLDER by every system: one tidy table, with provenance.

    Sub-folders of FOLDER are domains. Pictures are cut to their centred square and resized to the
    size of each row's model, 32 px for the embedded ones. Rows have names of their own ("zero
    network", "StyleGAN2, W+"); an unknown one lists them all. All rows take hours: start with a
    few. An interrupted run goes on where it stopped. On several GPUs or machines: accelerate
    launch -m difftools.inversion_table FOLDER …, with the same options; on processors: torchrun
    --nproc_per_node 2 -m difftools.inversion_table FOLDER …. The table is the same but for its
    seconds. Writes OUT/table.csv (one row an image; a few carry their picture as text),
    OUT/table.json (what it rests on, and the files by domain) and OUT/parts/.
    """
    from . import inversion_table as t

    if folder and (domains or n):
        raise ValueError("--domain and -n choose from the bundled sets: with FOLDER leave them out")
    domains = domains or t.DOMAINS
    found = t.run(out, world, labels, folder, domains, n)
    if found is None:
        click.echo(f"this process is done; another one still works on {out}/parts")
        return
    rows = t.summary(found).round(3).to_dict("records")
    click.echo("PSNR in dB: median over images, 95 % interval by bootstrap")
    show(rows, False)
    click.echo(f"written to {out}/table.csv")


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="ddpm-vehicles32",
    show_default=True,
    help="Name from `difftools zoo`, hub name or folder.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Steps of the grid [default: 20], or of a GAN's optimisation [default: its recipe's, at "
    "most 1000].",
)
@click.option(
    "--stepper",
    help="Diffusion models: ddim, fixed_point_ddim, heun, dpm2m, pec, reversible_heun, edict, bdia "
    "or belm [default: pec].",
)
@click.option(
    "--refine",
    type=click.IntRange(0),
    help="Diffusion models: passes of iterative refinement [default: 0].",
)
@click.option(
    "--recipe",
    help="GANs: what is optimised and how: z, w, w_plus, w_plus_noise, projector, sphinx_style, "
    "sphinx_content, sphinx, pulse, brgm, brgm_pytorch, xl, biggan, sphinx_pulse or sphinx_brgm.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all noise.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("inverted"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def invert(path, model, steps, stepper, refine, recipe, seed, out, as_json):
    """Invert an image file or a folder of images: image → latent → image.

    Each image is cut to its centre square and resized to the model's size (32 px for the models
    that ship). Prints for each the round trip's PSNR and SSIM, and beside them what a PSNR alone
    does not say: for a diffusion model statistics of its latent and their range for white noise
    (chapter 1), for a GAN the degrees of freedom per pixel value and the seconds that it took.
    Writes OUT/latents.safetensors, OUT/reconstruction/*.png, OUT/report.json and OUT/sheet.png
    (image, latent if it is a picture, reconstruction). Unreadable files end the run before anything
    is written.

    \b
    difftools invert photo.png --steps 50 --stepper ddim
    difftools invert photo.png --model stylegan2-vehicles32 --recipe sphinx
    """
    from .invert import invert_files

    settings = {"steps": steps, "stepper": stepper, "refine": refine, "recipe": recipe}
    report = invert_files(path, out, model, **settings, seed=seed)
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    show(report["images"], False)
    for name, (low, high) in report.get("white_noise_95", {}).items():
        click.echo(f"{name}: 95 % of white noise lies in {low:.3f} … {high:.3f}")
    click.echo(f"prepared: {report['preparation']}; written to {out}/")


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="ddpm-vehicles32",
    show_default=True,
    help="A diffusion model: name from `difftools zoo`, hub name or folder.",
)
@click.option("-n", "n", type=click.IntRange(1), default=64, show_default=True, help="Samples.")
@click.option(
    "--fit",
    "kind",
    default="spectral",
    show_default=True,
    help="The Gaussian: scalar (one variance, as in the source), diagonal, low-rank or spectral.",
)
@click.option(
    "--t-m", type=float, default=603, show_default=True, help="Where to sample, t of 1000."
)
@click.option("--eta", type=float, default=0.0, show_default=True, help="Noise on the way down.")
@click.option("--reject", is_flag=True, help="Keep only draws with all three geometric properties.")
@click.option("--steps", type=click.IntRange(2), default=20, show_default=True, help="Of the grid.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all noise.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("unseen"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def unseen(folder, model, n, kind, t_m, eta, reject, steps, seed, out, as_json):
    """Sample the domain of your own images with a model that never saw it (chapter 11).

    Inverts the images of FOLDER to the mixing step, fits a Gaussian to their latents, draws N
    latents from it and decodes them. Writes OUT/samples/*.png, OUT/latents.safetensors,
    OUT/report.json and OUT/sheet.png (two rows of your images, then samples). The report says how
    near the samples come to your images (KID, beside that of draws of the same Gaussian fitted to
    pixels, and of two halves of your images), how new they are (0: copies, 1: as new as one of
    your images to another), and what share of draws has each geometric property. A fit needs 4
    images; below 50 it says little. 64 samples from 60 images of 32 px take about a minute.
    Unreadable files end the run before anything is written.

    \b
    difftools unseen photos/ -n 64
    difftools unseen photos/ --fit scalar --t-m 500 --eta 0.1 --reject --out rejected
    """
    from .unseen_files import unseen_files

    report = unseen_files(folder, out, model, n, kind, t_m, eta, reject, steps, seed)
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    words = report.pop("in words")  # longer than a column
    show([{"what": k, "value": v} for k, v in report.items()], False)
    click.echo(f"the samples: {words}\nwritten to {out}/")


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="ddpm-vehicles32",
    show_default=True,
    help="Diffusion model from `difftools zoo`, hub name or folder; with --prompt a folder of "
    "Stable Diffusion.",
)
@click.option(
    "--t",
    type=float,
    default=0.4,
    show_default=True,
    help="Share of the noise schedule to fly to, above 0 and at most 1.",
)
@click.option(
    "-n", type=click.IntRange(1), default=8, show_default=True, help="Runs of each image."
)
@click.option(
    "--eta",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="1: stochastic walk (DDPM), 0: deterministic (DDIM), which ends closer.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=20, show_default=True, help="Steps of the walk."
)
@click.option(
    "--spacing",
    type=click.Choice(["time", "log_snr"]),
    default="time",
    show_default=True,
    help="Strides even in time (FastDPM) or in log-SNR.",
)
@click.option("--prompt", default="", help="Stable Diffusion alone: what the way back is told.")
@click.option(
    "--guidance", type=float, default=7.5, show_default=True, help="Weight of the prompt."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the first run.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("returned"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def boomerang(
    path, model, t, n, eta, steps, spacing, prompt, guidance, seed, out, as_json
):
    """Fly an image file or a folder of images: image → noise of level t → n images near it.

    Each image is cut to its centre square and resized to the model's size (32 px for the models
    that ship). t sets how far a run goes on average; the same t is more noise in another schedule,
    so the level's log-SNR is printed too. Prints for each image the mean PSNR of its runs, their mean
    squared distance from it, and that of two runs from each other (chapter 12 compares the two).
    No number says that a picture is anonymous. Writes OUT/returned/*.png, OUT/sheet.png (a row an
    image, the original first), OUT/latents.safetensors (the noised states, their seeds) and
    OUT/report.json. Unreadable files end the run before anything is written.

    \b
    difftools boomerang photo.png --t 0.4 -n 8
    difftools boomerang photo.png --t 0.2 --eta 0 --model dae-vehicles32
    difftools boomerang photo.png --model sd15 --prompt "person" --eta 0 --t 0.5
    """
    from .boomerang_files import boomerang_files

    settings = {"t": t, "n": n, "eta": eta, "steps": steps, "spacing": spacing, "seed": seed}
    report = boomerang_files(path, out, model, **settings, prompt=prompt, guidance=guidance)
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    show(report["images"], False)
    at = report["level"]
    click.echo(f"t = {t:g} is time {at['time']:g}, log-SNR {at['log_snr']:.2f}: "
               f"{at['alpha']:.2f} image + {at['sigma']:.2f} noise; "
               f"{report['evaluations']} evaluations a run")
    click.echo(f"prepared: {report['preparation']}; written to {out}/")


def main(argv: list[str] | None = None) -> None:
    """Entry point: bad input ends with one line on stderr and status 2."""
    try:
        cli.main(argv, prog_name="difftools", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as err:
        err.show()
        sys.exit(2)
    except (ValueError, KeyError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as err:
        message = err.args[0] if isinstance(err, KeyError) and err.args else err
        click.echo(f"difftools: {message}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
