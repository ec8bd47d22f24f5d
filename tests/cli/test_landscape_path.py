"""`curvwatch path` and `curvwatch interpolate`, end to end on a tiny module."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from curvwatch.cli import main
from curvwatch.landscape import Interpolation, Path, Snapshots, align, surface_of, weights_of
from tests.cli.test_landscape_slice import SOURCE
from tests.support.modules import fit

RESIDUAL = """
class Residual(pl.LightningModule):
    \"\"\"x + block(x), with batch norm.\"\"\"
    def __init__(self, width: int = 5):
        super().__init__()
        self.save_hyperparameters()
        self.first = nn.Linear(4, width)
        inner = nn.Linear(width, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, width)
        self.block = nn.Sequential(*inner)
        self.last = nn.Linear(width, 3)
    def net(self, x):
        x = self.first(x)
        return self.last(x + self.block(x))
    training_step = Net.training_step
    configure_optimizers = Net.configure_optimizers

def no_spec():
    return [1]

def lacking():
    return {n: axes for n, axes in SPEC.items() if n != "last.weight"}

def spec():
    return SPEC

SPEC = {"first.weight": ["stream", None], "first.bias": ["stream"], "last.weight": [None, "stream"]}
SPEC |= {"block.0.weight": ("inner", "stream"), "block.0.bias": ("inner",)}
SPEC |= {"block.3.weight": ("stream", "inner"), "block.3.bias": ("stream",)}
SPEC |= {"block.1." + n: ("inner",) for n in ("weight", "bias", "running_mean", "running_var")}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a module, checkpoints of two trainings of it, and snapshots of the first."""
    folder = tmp_path_factory.mktemp("paths")
    (folder / "tiny_paths.py").write_text(SOURCE + RESIDUAL)
    sys.path.insert(0, str(folder))
    try:
        tiny = __import__("tiny_paths")
    finally:
        sys.path.remove(str(folder))
    for seed in range(2):
        torch.manual_seed(seed)
        snapshots = Snapshots(folder / f"snapshots{seed}")
        trainer = fit(tiny.Net(6), snapshots, data=tiny.Data(10), max_epochs=20, max_steps=30)
        trainer.save_checkpoint(folder / f"run{seed}.ckpt")
        trainer = fit(tiny.Residual(6), data=tiny.Data(10), max_steps=5)
        trainer.save_checkpoint(folder / f"residual{seed}.ckpt")
    return folder, tiny


@pytest.fixture
def run(project, monkeypatch, capsys):
    folder, _ = project
    monkeypatch.chdir(folder)

    def call(*arguments, status=0):
        before = list(sys.path)
        common = ["--module", "tiny_paths:Net", "--data", "tiny_paths:loader"]
        assert (
            main([arguments[0], *common, *map(str, arguments[1:])]) == status
        )  # a later --module counts
        assert sys.path == before
        return capsys.readouterr()

    return call


ENDS = ("--ckpt", "run0.ckpt", "--ckpt", "run1.ckpt")


def test_a_path(run, project, tmp_path):
    folder, tiny = project
    out, numbers = tmp_path / "path.png", tmp_path / "path.npz"
    told = run("path", *ENDS, "--kind", "chain", "--steps", 3, "-o", out, "--save", numbers)
    found = Path.load(numbers)
    assert found.kind == "chain"
    assert len(found.training) == 3
    assert f"chain: barrier {found.barrier:.4g}, above the higher end's loss" in told.out
    assert "line: barrier" in told.out  # for comparison
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    f = surface_of(tiny.Net.load_from_checkpoint(folder / "run1.ckpt"), list(tiny.loader()))
    assert found.losses[-1] == pytest.approx(f.loss(f.start), rel=1e-6)


def test_alignment(run, tmp_path):
    told = run("path", *ENDS, "--align", "--save", tmp_path / "a.npz", "--points", 11)
    assert "of the hidden units have another place, the distance falls from" in told.out
    assert "line, aligned: barrier" in told.out
    run("path", *ENDS, "--save", tmp_path / "b.npz", "--points", 11)
    aligned, plain = Path.load(tmp_path / "a.npz"), Path.load(tmp_path / "b.npz")
    assert aligned.length < plain.length
    np.testing.assert_allclose(aligned.losses[[0, -1]], plain.losses[[0, -1]], rtol=1e-6)


def test_alignment_of_other_networks_takes_a_spec(run, project, tmp_path):
    folder, tiny = project
    ends = ("--module", "tiny_paths:Residual", "--ckpt", "residual0.ckpt", "--ckpt", "residual1.ckpt")
    files = [folder / f"residual{i}.ckpt" for i in range(2)]
    module = tiny.Residual.load_from_checkpoint(files[1])
    x = next(iter(tiny.loader()))[0]
    expected = align(
        module, *files, spec=tiny.SPEC, inputs=x, forward=lambda module, x: module.net(x), seed=4
    )
    assert expected.distance < expected.distance_before
    for name in ("SPEC", "spec"):
        spec = ("--align-spec", f"tiny_paths:{name}")
        told = run("path", *ends, *spec, "--points", 3, "--seed", 4, "--save", tmp_path / "a.npz")
        assert f"from {expected.distance_before:.4g} to {expected.distance:.4g};" in told.out
        assert "the loss of the first batch changes by" in told.out
        assert "line, aligned: barrier" in told.out
        f = surface_of(module, list(tiny.loader()))
        end = weights_of(expected.state, f)
        assert torch.equal(Path.load(tmp_path / "a.npz").at(1.0), end)
    for spec, message in (
        (["--align"], "Residual is no chain of layers"),
        (["--align"], "--align-spec PACKAGE:NAME says which axes belong together"),
        (["--align-spec", "tiny_paths:lacking"], "the permuted network computes something else"),
        (["--align-spec", "tiny_paths:no_spec"], "gives a list: a mapping from the names of tensors"),
        (["--align-spec", "tiny_paths:nothing"], "has no nothing"),
    ):
        assert message in run("path", *ends, *spec, "--points", 3, status=1).err


def test_an_interpolation_from_snapshots(run, tmp_path):
    """Files of the callback are checkpoints like others, with the hyperparameters of the module."""
    ends = [f"snapshots0/step-{step:09d}.pt" for step in (0, 30)]
    told = run(
        *("interpolate", "--ckpt", ends[0], "--ckpt", ends[1], "--snapshots", "snapshots0"),
        *("-o", tmp_path / "line.svg", "--save", tmp_path / "line.npz", "--points", 9),
    )
    found = Interpolation.load(tmp_path / "line.npz")
    assert found.losses[-1] < found.losses[0]
    assert found.path_length > found.distance > 0
    assert found.gauss.joint > 0
    assert found.notes == ()
    assert f"length of the path through the snapshots {found.path_length:.4g}" in told.out
    assert "Gauss length" in told.out
    assert (tmp_path / "line.svg").read_text().startswith("<?xml")
    bare = run("interpolate", *ENDS, "--no-outputs", "--points", 5)
    assert "Gauss length" not in bare.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["path", "--ckpt", "run0.ckpt"], "two --ckpt are needed, and 1 were given"),
        (["path", *ENDS, "--bends", 2], "bends=2: kind='line' has no options"),
        (["path", *ENDS, "-o", "nowhere/x.png"], "there is no folder nowhere"),
        (["interpolate", *ENDS, "-o", "x.txt"], "is needed at its end"),
        (["interpolate", *ENDS, "--snapshots", "."], "there is no snapshot"),
        (["interpolate", *ENDS, "--points", 2], "points=2"),
    ],
)
def test_mistakes_are_told(run, arguments, message):
    assert message in run(*arguments, status=1).err
