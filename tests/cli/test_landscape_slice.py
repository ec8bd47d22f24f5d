"""`curvwatch slice`, end to end on a tiny module."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from curvwatch.cli import main
from curvwatch.landscape import Slice1D, Slice2D, load_slice, surface_of, weights_of
from tests.support.modules import fit

SOURCE = """
import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

def loader(n=12):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=g)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=5)

def half():
    return [next(iter(loader()))]

def dataset():
    return loader().dataset

class Data(pl.LightningDataModule):
    def __init__(self, n: int = 12):
        super().__init__()
        self.save_hyperparameters()
        self.n = n
        self.ready = False
    def setup(self, stage):
        self.ready = stage == "fit"
    def train_dataloader(self):
        assert self.ready
        return loader(self.n)

class Net(pl.LightningModule):
    def __init__(self, width: int = 5):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

class WithData(Net):
    def train_dataloader(self):
        return loader()

class Needs(Net):
    def __init__(self, width):
        pl.LightningModule.__init__(self)
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

def plain():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

def squared(module, batch):
    return module(batch[0]).square().mean()
"""

COUNT = [0]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a module `tiny...`, and checkpoints of three trainings of it."""
    COUNT[0] += 1
    folder = tmp_path_factory.mktemp("project")
    name = f"tiny_project_{COUNT[0]}"
    (folder / f"{name}.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    try:
        tiny = __import__(name)
    finally:
        sys.path.remove(str(folder))
    for seed in range(3):
        torch.manual_seed(seed)
        trainer = fit(tiny.Net(6), data=tiny.Data(10), max_steps=2)
        trainer.save_checkpoint(folder / f"run{seed}.ckpt")
    torch.manual_seed(0)
    torch.save(tiny.plain().state_dict(), folder / "plain.pt")
    return folder, name, tiny


@pytest.fixture
def run(project, monkeypatch, capsys, tmp_path):
    """Runs `curvwatch slice` in the project; `{}` stands for the name of its Python module."""
    folder, name, tiny = project
    monkeypatch.chdir(folder)

    def call(*arguments, status=0):
        before = list(sys.path)
        given = [str(a).replace("{}", name) for a in arguments]
        assert main(["slice", *given]) == status
        assert sys.path == before
        return capsys.readouterr()

    call.folder, call.tiny, call.out = folder, tiny, tmp_path
    return call


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_a_plane_through_a_lightning_checkpoint(run):
    out = run(
        "--module",
        "{}:Net",
        "--ckpt",
        "run0.ckpt",
        "--data",
        "{}:loader",
        "--points",
        5,
        "-o",
        run.out / "slice.png",
        "--save",
        run.out / "slice.npz",
    ).out
    assert is_picture(run.out / "slice.png")
    found = Slice2D.load(run.out / "slice.npz")
    module = run.tiny.Net.load_from_checkpoint(run.folder / "run0.ckpt", weights_only=True)
    surface = surface_of(module, run.tiny.loader())
    assert module.hparams.width == 6
    assert found.start_loss == surface.loss(weights_of(run.folder / "run0.ckpt", surface))
    assert found.losses.shape == (5, 5)
    assert "random (Gaussian, seed 0), filter-normalised" in out
    assert f"loss {found.start_loss:.6g} at the start" in out
    assert "25 passes over the data" in out
    assert "biases and other parameters" in out


@pytest.mark.parametrize("directions", ["hessian", "gradient", "random"])
def test_a_line(run, directions):
    run(
        "--module",
        "{}:WithData",
        "--ckpt",
        "run0.ckpt",
        "--directions",
        directions,
        "--dims",
        1,
        "--points",
        3,
        "--distance",
        0.5,
        "--save",
        run.out / "line.npz",
        "-o",
        run.out / "line.svg",
    )
    found = Slice1D.load(run.out / "line.npz")
    assert found.alphas.tolist() == [-0.5, 0.0, 0.5]
    assert (found.values is not None) == (directions == "hessian")
    assert (run.out / "line.svg").read_text().startswith("<?xml")


def test_how_well_eigenvectors_are_known(run):
    line = ("--module", "{}:WithData", "--ckpt", "run0.ckpt", "--directions", "hessian", "--dims", 1)
    products = []
    for more in ((), ("--rtol", 0.5)):
        run(*line, "--points", 3, "--save", run.out / "line.npz", *more)
        products.append(Slice1D.load(run.out / "line.npz").products)
    assert products[1] < products[0]


UPDATE = ("--ckpt", "run0.ckpt", "--ckpt", "run1.ckpt", "--data", "{}:Data", "--directions", "update")


@pytest.mark.parametrize("dims", [1, 2])
def test_an_update_from_one_checkpoint_to_another(run, dims):
    out = run(
        *("--module", "{}:Net", *UPDATE, "--dims", dims, "--points", 3, "--distance", 1),
        *("--save", run.out / "update.npz"),
    ).out
    found = load_slice(run.out / "update.npz")
    assert "update from run0 to run1" in out
    # the second direction is the gradient
    assert f"{dims - 1} gradients" in out
    surface = surface_of(run.tiny.Net(6), run.tiny.loader(10))
    own = [surface.loss(weights_of(run.folder / f"run{i}.ckpt", surface)) for i in range(2)]
    on_line = found.losses if dims == 1 else found.losses[:, 1]
    assert on_line[1:] == pytest.approx(own)
    assert found.point_losses == pytest.approx(own)


@pytest.mark.parametrize("dims", [1, 2])
def test_an_update_is_covered_and_something_beyond_it(run, dims):
    arguments = ("--module", "{}:Net", *UPDATE, "--dims", dims, "--points", 7)
    run(*arguments, "--save", run.out / "update.npz")
    found = load_slice(run.out / "update.npz")
    assert found.alphas == pytest.approx([-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
    if dims == 2:
        assert found.betas == pytest.approx([-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75])


def test_planes_through_several_checkpoints(run):
    files = [arg for i in range(3) for arg in ("--ckpt", f"run{i}.ckpt")]
    for directions in ("plane", "pca"):
        out = run(
            "--module",
            "{}:Net",
            *files,
            "--data",
            "{}:Data",
            "--directions",
            directions,
            "--points",
            6,
            "-o",
            run.out / "a.png",
            "--kind",
            "surface",
            "--save",
            run.out / "plane.npz",
        ).out
        found = Slice2D.load(run.out / "plane.npz")
        assert found.point_names == ("run0", "run1", "run2")
        assert found.path == (directions == "pca")
        module = run.tiny.Net(6)
        surface = surface_of(module, run.tiny.loader(10))  # the DataModule's hyperparameters are kept
        own = [surface.loss(weights_of(run.folder / f"run{i}.ckpt", surface)) for i in range(3)]
        np.testing.assert_array_equal(found.point_losses, own)
        assert f"run1: loss {own[1]:.6g}" in out


def test_a_plain_module_with_a_loss(run):
    run(
        "--module",
        "{}:plain",
        "--ckpt",
        "plain.pt",
        "--data",
        "{}:half",
        "--loss",
        "{}:squared",
        "--points",
        3,
        "--save",
        run.out / "plain.npz",
        "--mode",
        "train",
        "--keep-1d",
        "--normalize",
        "layer",
        "--seed",
        3,
        "--max-batches",
        1,
        "--device",
        "cpu",
    )
    found = Slice2D.load(run.out / "plain.npz")
    module = run.tiny.plain()
    module.load_state_dict(torch.load(run.folder / "plain.pt"))
    expected = run.tiny.squared(module, run.tiny.half()[0])
    assert found.start_loss == pytest.approx(float(expected.detach()))
    assert found.description == "random (Gaussian, seed 3), layer-normalised"


CONFIGS = {
    "subclass": (
        "model: {{class_path: {0}.Net, init_args: {{width: 6}}}}\n"
        "data: {{class_path: {0}.Data, init_args: {{n: 10}}}}\n",
        (),
    ),
    "fit": (
        "fit:\n  trainer: {{max_steps: 3}}\n  model: {{class_path: {0}.Net, init_args: {{width: 6}}}}\n"
        "  data: {{class_path: {0}.Data, init_args: {{n: 10}}}}\n",
        (),
    ),
    "fixed": (
        "seed_everything: 0\nmodel: {{width: 6}}\ndata: {{n: 10}}\n",
        ("--module", "{}:Net", "--data", "{}:Data"),
    ),
    "no_data": ("model: {{class_path: {0}.WithData, init_args: {{width: 6}}}}\n", ()),
    "other_data": (
        "model: {{class_path: {0}.Net, init_args: {{width: 6}}}}\n"
        "data: {{class_path: {0}.Data, init_args: {{n: 10}}}}\n",
        ("--data", "{}:loader"),
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_yaml_of_a_lightning_cli(run, kind):
    text, more = CONFIGS[kind]
    config = run.out / "config.yaml"
    config.write_text(text.format(run.tiny.__name__))
    run(
        "--config", config, "--ckpt", "run1.ckpt", *more, "--points", 3, "--save", run.out / "slice.npz"
    )
    found = Slice2D.load(run.out / "slice.npz")
    n = 10 if kind in ("subclass", "fit", "fixed") else 12
    surface = surface_of(run.tiny.Net(6), run.tiny.loader(n))
    assert found.start_loss == surface.loss(weights_of(run.folder / "run1.ckpt", surface))


def test_what_a_lightning_cli_writes_is_read(run, monkeypatch):
    from lightning.pytorch.cli import LightningCLI

    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.chdir(run.out)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 1,
        "enable_checkpointing": False,
        "default_root_dir": str(run.out),
    }
    arguments = ["fit", "--model.width=6", "--data.n=10"]
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    cli = LightningCLI(
        run.tiny.Net, run.tiny.Data, trainer_defaults=quiet, seed_everything_default=False
    )
    cli.trainer.save_checkpoint(run.out / "cli.ckpt")
    monkeypatch.chdir(run.folder)
    run(
        "--config",
        run.out / "config.yaml",
        "--module",
        "{}:Net",
        "--data",
        "{}:Data",
        "--ckpt",
        run.out / "cli.ckpt",
        "--points",
        3,
        "--save",
        run.out / "slice.npz",
    )
    assert np.isfinite(Slice2D.load(run.out / "slice.npz").losses).all()


TWO = ("--ckpt", "run0.ckpt", "--ckpt", "run1.ckpt")
ONE = ("--module", "{}:Net", "--ckpt", "run0.ckpt")
SAVE = ("--save", "unused.npz")
DATA = ("--data", "{}:Data")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--ckpt", "run0.ckpt", *SAVE), "--module PACKAGE:CLASS, or --config YAML"),
        (ONE, "-o FILE for a figure, or --save FILE"),
        (("--module", "{}:Net", *TWO, *SAVE), "random takes 1 --ckpt, and 2 were given"),
        (
            ("--module", "{}:Net", *TWO, "--directions", "pca", *SAVE),
            "pca takes 3 --ckpt or more, and 2",
        ),
        ((*ONE, *SAVE, *DATA, "--points", "4"), "points=4: an odd number"),
        ((*ONE, *SAVE, *DATA, "--distance", "-1"), "distance=-1.0"),
        (
            (*ONE, *TWO, *SAVE, "--directions", "plane", "--distance", "2"),
            "plane covers its checkpoints",
        ),
        (
            (*ONE, *SAVE, *DATA, "--directions", "hessian", "--normalize", "filter"),
            "turn an eigenvector",
        ),
        (
            (*ONE, *SAVE, *DATA, "--directions", "hessian", "--ends", "both", "--dims", "1"),
            "are two directions",
        ),
        (
            ("--module", "{}:Net", *TWO, "--directions", "update", "--normalize", "filter", *SAVE),
            "--normalize would turn what --directions update uses",
        ),
        ((*ONE, *SAVE, "--rtol", "1e-6"), "--rtol is of --directions hessian, not of random"),
        ((*ONE, *SAVE, *DATA, "--directions", "hessian", "--rtol", "2"), "rtol=2.0: a number between"),
        ((*ONE, "-o", "slice.tiff3"), "one of .*png.* is needed at its end"),
        ((*ONE, "-o", "nowhere/slice.png"), "there is no folder nowhere"),
        ((*ONE, *SAVE), "--data is missing"),
        ((*ONE, *SAVE, "--data", "loader"), "package.module:name is needed"),
        ((*ONE, *SAVE, "--data", "{}:nothing"), "has no nothing"),
        ((*ONE, *SAVE, "--data", "no_such_package_here:x"), "there is no module no_such_package_here"),
        ((*ONE, *SAVE, "--data", "{}:dataset"), "gives a Dataset: wrap it"),
        ((*ONE, *SAVE, "--data", "{}:loader", "--device", "cuda:99"), "--device cuda:99"),
        (("--module", "{}:Needs", "--ckpt", "run0.ckpt", *SAVE, "--data", "{}:loader"), None),
        (("--module", "{}:Needs", "--ckpt", "plain.pt", *SAVE), "cannot be called without arguments"),
        (("--module", "{}:Net", "--ckpt", "plain.pt", *SAVE), "plain.pt does not fit"),
        (("--module", "{}:loader", "--ckpt", "plain.pt", *SAVE), "makes a DataLoader and no nn.Module"),
        (
            ("--module", "{}:plain", "--ckpt", "plain.pt", *SAVE, "--data", "{}:half"),
            "is no LightningModule",
        ),
        (("--module", "{}:Net", "--ckpt", "none.ckpt", *SAVE), "there is no checkpoint none.ckpt"),
        (("--config", "none.yaml", "--ckpt", "run0.ckpt", *SAVE), "none.yaml cannot be read"),
    ],
)
def test_mistakes_are_told(run, arguments, says):
    if says is None:  # the hyperparameters of the checkpoint are enough
        run(*arguments, "--points", 3)
        (run.folder / "unused.npz").unlink()
        return
    err = run(*arguments, status=1).err
    assert err.startswith("curvwatch: ")
    assert re.search(says, err), err
    assert not Path(run.folder / "unused.npz").exists()


def test_configs_that_say_too_little_are_told(run):
    config = run.out / "config.yaml"
    for text, says in (
        ("trainer: {}", "has no `model:`"),
        ("model: {width: 6}", "name the class by --module"),
        (
            "model: {class_path: " + run.tiny.__name__ + ".Net, init_args: {depth: 6}}",
            "does not say how",
        ),
        ("model: {class_path: no.such.Net}", "does not say how"),
        ("model: [", "cannot be read as YAML"),
    ):
        config.write_text(text)
        err = run("--config", config, "--ckpt", "run0.ckpt", *SAVE, status=1).err
        assert says in err
