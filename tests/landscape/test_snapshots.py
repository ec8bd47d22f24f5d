"""The callback that keeps checkpoints: few, the right ones, and no trace on the run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from curvwatch import CurvwatchError
from curvwatch.landscape import Snapshot, Snapshots, snapshots_in, surface_of, weights_of
from curvwatch.landscape.snapshots.files import taken_of
from curvwatch.landscape.snapshots.grid import is_due, least_missed
from tests.support.modules import Classifier, ClassifierMixin, adam, batches, fit, mlp, told
from tests.support.trace import Witness, assert_same, state_of
from tests.training.lightning.test_resume import Saver


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3)
    )


class Recorder(pl.Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.states: dict[int, dict[str, Tensor]] = {}

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.states[trainer.global_step] = {n: t.clone() for n, t in module.state_dict().items()}

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.states[trainer.global_step] = {n: t.clone() for n, t in module.state_dict().items()}


def run(folder: Path, *callbacks: Any, steps: int = 14, **options: Any) -> tuple[Snapshots, pl.Trainer]:
    torch.manual_seed(0)
    fit_options = {k: options.pop(k) for k in ("ckpt_path", "accumulate_grad_batches") if k in options}
    snapshots = Snapshots(folder, **options)
    module = Classifier(net(), adam)
    trainer = fit(module, snapshots, *callbacks, max_steps=steps, logger=False, **fit_options)
    return snapshots, trainer


# which steps


def test_the_grids():
    def due(last: int, **options: Any) -> list[int]:
        return [s for s in range(1, last + 1) if is_due(s - 1, s, **options)]

    expected = sorted({round(10 ** (k / 10)) for k in range(61)})
    assert due(5000, every=None, grid="log") == [s for s in expected if s <= 5000]
    assert due(3000, every=None, grid="1-2-5") == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    assert due(20, every=6, grid="log") == [6, 12, 18]
    # a look after several steps, as with several optimizers
    assert is_due(18, 22, every=None, grid="1-2-5")
    assert not is_due(20, 49, every=None, grid="1-2-5")
    for d in range(1, 9):
        assert is_due(10**d - 1, 10**d, every=None, grid="log")


def kept_of(steps: Iterable[int], files: int, *, even: bool) -> tuple[list[int], list[int]]:
    """What is kept of `steps` while a run goes on, and where it ends after the last of them."""
    kept: list[int] = []
    end: list[int] = []
    for step in steps:
        end = [*kept, step]
        kept = [*kept, step]
        if len(kept) > files:
            end.remove(least_missed(end, even=even, ended=True))
            kept.remove(least_missed(kept, even=even, ended=False))
    return kept, end


def unevenness(places: Any) -> float:
    gaps = np.diff(places)
    return float(gaps.max() / gaps.min())


@pytest.mark.parametrize(("files", "bound"), [(3, 2.0), (4, 3.0), (5, 3.0), (20, 4.0)])
def test_thinning_is_even_whenever_the_run_ends_and_keeps_the_ends(files, bound):
    for last in (*range(8 * files, 8 * files + 40), 600, 601, 767, 769):
        kept, end = kept_of(range(last + 1), files, even=True)
        assert (kept[0], len(kept)) == (0, files)
        assert unevenness(kept) <= min(bound, 3.0)
        assert last - kept[-1] <= 2 * np.diff(kept).max()
        assert (end[0], end[-1], len(end)) == (0, last, files)
        assert unevenness(end) <= bound


@pytest.mark.parametrize(("files", "bound"), [(3, 2.2), (6, 3.1), (12, 3.5)])
def test_thinning_is_even_in_logarithms(files, bound):
    # as many steps a decade as the grid has
    due = [0, *(s for s in range(1, 20_000) if is_due(s - 1, s, every=None, grid="log"))]
    for count in range(25, len(due)):
        kept, end = kept_of(due[:count], files, even=False)
        assert unevenness(np.log1p(kept)) <= bound
        assert (end[0], end[-1], len(end)) == (0, due[count - 1], files)
        assert unevenness(np.log1p(end)) <= bound


def test_with_two_the_newest_is_kept_and_with_three_the_middle():
    assert kept_of(range(601), 2, even=True) == ([0, 600], [0, 600])
    assert kept_of(range(601), 3, even=True)[1] == [0, 256, 600]
    assert kept_of(range(61), 3, even=True)[1] == [0, 32, 60]
    assert kept_of(range(601), 3, even=False)[1] == [0, 8, 600]  # logarithms 0, 2.2, 6.4


# in a run


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [*range(7), 8, 10, 13, 14]),
        ({"grid": "1-2-5"}, [0, 1, 2, 5, 10, 14]),
        ({"every_n_steps": 4}, [0, 4, 8, 12, 14]),
    ],
)
def test_files_hold_the_weights_of_their_steps(tmp_path, options, steps):
    recorder = Recorder()
    snapshots, trainer = run(tmp_path / "s", recorder, **options)
    assert list(snapshots.paths) == steps
    assert snapshots_in(tmp_path / "s") == snapshots.paths
    module = trainer.lightning_module
    surface = surface_of(module, list(batches()))
    for step, path in snapshots.paths.items():
        content = torch.load(path, weights_only=True)
        assert content["step"] == step
        assert content["stored"] is None
        taken = Snapshot.load(path)
        assert_same(
            dict(sorted(taken.state.items())),
            dict(sorted(recorder.states[step].items())),
            f"step {step}",
        )  # buffers, too
        flat = [recorder.states[step][n].reshape(-1) for n, _ in module.named_parameters()]
        assert torch.equal(weights_of(path, surface), torch.cat(flat))


def test_the_run_is_bit_for_bit_the_same(tmp_path):
    pictures = []
    for callbacks in ([], [Snapshots(tmp_path / "s", every_n_steps=2, max_files=3)]):
        torch.manual_seed(0)
        witness = Witness()
        trainer = fit(Classifier(net(), adam), witness, *callbacks, max_steps=8)
        pictures.append([*witness.pictures, state_of(trainer, trainer.lightning_module)])
    assert_same(*pictures, "run")


def test_files_are_bounded(tmp_path):
    snapshots, _ = run(tmp_path / "few", every_n_steps=1, max_files=5, steps=30)
    assert len(snapshots.paths) == 5 == len(list((tmp_path / "few").iterdir()))
    kept = list(snapshots.paths)
    assert (kept[0], kept[-1]) == (0, 30)
    assert unevenness(kept) <= 3
    three, _ = run(tmp_path / "three", every_n_steps=1, max_files=3, steps=30)
    assert list(three.paths) == [0, 16, 30]
    size = next(iter(snapshots.paths.values())).stat().st_size
    small, _ = run(tmp_path / "small", every_n_steps=1, max_bytes=int(3.5 * size), steps=10)
    assert sum(p.stat().st_size for p in (tmp_path / "small").iterdir()) <= 3.5 * size
    assert list(small.paths) == [0, 4, 10]
    with told() as texts:
        run(tmp_path / "none", max_bytes=10, steps=3)
    assert len(texts) == 1
    assert "more than max_bytes=10" in texts[0]
    assert list(snapshots_in(tmp_path / "none")) == [0, 3]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_said_in_the_file_and_cast_back(tmp_path, dtype):
    recorder = Recorder()
    half, trainer = run(tmp_path / "half", recorder, grid="1-2-5", dtype=dtype)
    full, _ = run(tmp_path / "full", grid="1-2-5")
    path = half.paths[5]
    content = torch.load(path, weights_only=True)
    assert content["stored"] == dtype
    assert content["state_dict"]["net.0.weight"].dtype == getattr(torch, dtype)
    assert content["state_dict"]["net.1.num_batches_tracked"].dtype == torch.int64
    taken = Snapshot.load(path)
    assert taken.stored == dtype
    for name, t in recorder.states[5].items():
        assert taken.state[name].dtype == t.dtype
        torch.testing.assert_close(taken.state[name], t, rtol=1e-2, atol=1e-4)
    surface = surface_of(trainer.lightning_module, list(batches()))
    assert weights_of(path, surface).dtype == torch.float32
    assert path.stat().st_size < full.paths[5].stat().st_size


def test_numbers_too_large_for_half_precision_keep_their_own(tmp_path):
    module = mlp()
    with torch.no_grad():
        module[0].weight[0, 0] = 1e5
    state = {n: t.detach() for n, t in module.named_parameters()}
    path = Snapshot(3, 0, "run", state, "float16").save(tmp_path)
    content = torch.load(path, weights_only=True)["state_dict"]
    assert content["0.weight"].dtype == torch.float32
    assert content["3.weight"].dtype == torch.float16
    assert Snapshot.load(path).state["0.weight"][0, 0] == 1e5


def test_frozen_weights_are_left_out_and_accumulation_counts_steps(tmp_path):
    class Frozen(Classifier):
        def configure_model(self) -> None:
            self.net[0].requires_grad_(False)

    snapshots = Snapshots(tmp_path / "s", every_n_steps=1)
    fit(Frozen(), snapshots, max_steps=3, accumulate_grad_batches=2, logger=False)
    assert list(snapshots.paths) == [0, 1, 2, 3]
    assert set(Snapshot.load(snapshots.paths[2]).state) == {"net.3.weight", "net.3.bias"}


def test_a_tied_weight_is_there_under_both_names(tmp_path):
    class Tied(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.net[0]

    snapshots = Snapshots(tmp_path / "s")
    module = Tied()
    fit(module, snapshots, max_steps=1, logger=False)
    state = Snapshot.load(snapshots.paths[1]).state
    assert set(state) == set(module.state_dict())
    module.load_state_dict(state)


def test_both_namespaces(tmp_path):
    class Other(ClassifierMixin, pytorch_lightning.LightningModule):
        pass

    snapshots = Snapshots(tmp_path / "s")
    trainer = pytorch_lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        callbacks=[snapshots],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Other(), batches())
    assert list(snapshots.paths) == [0, 1, 2]


def test_the_end_is_kept_on_an_exception_too(tmp_path):
    class Breaks(Classifier):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                raise KeyError("mine")

    snapshots = Snapshots(tmp_path / "s", grid="1-2-5")
    with pytest.raises(KeyError, match="mine"):
        fit(Breaks(), snapshots, max_steps=6, logger=False)
    assert list(snapshots.paths) == [0, 1, 2, 4]


# folders and runs


def test_where_they_go(tmp_path):
    logger = CSVLogger(tmp_path, name="mine", version=3)
    snapshots = Snapshots()
    assert dict(snapshots.paths) == {}
    fit(Classifier(), snapshots, max_steps=2, logger=logger)
    assert snapshots.paths[2].parent == tmp_path / "mine" / "version_3" / "snapshots"
    bare = Snapshots()
    fit(Classifier(), bare, max_steps=2, logger=False, default_root_dir=tmp_path / "root")
    assert bare.paths[2].parent == tmp_path / "root" / "snapshots"
    nothing = Snapshots(tmp_path / "dry")
    fit(Classifier(), nothing, fast_dev_run=1, logger=False)
    assert dict(nothing.paths) == {}
    assert not (tmp_path / "dry").exists()


def test_another_run_does_not_touch_the_files_of_the_first(tmp_path):
    first, _ = run(tmp_path / "s", steps=3)
    before = {p: p.read_bytes() for p in first.paths.values()}
    second, _ = run(tmp_path / "s", steps=2)
    fit(Classifier(), second, max_steps=1, logger=False)  # the same callback, another Trainer
    assert {p: p.read_bytes() for p in before} == before
    assert list(snapshots_in(tmp_path / "s-1")) == [0, 1, 2]
    assert list(snapshots_in(tmp_path / "s-2")) == [0, 1] == list(second.paths)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("moved", [False, True])
def test_a_resumed_run_goes_on(tmp_path, moved):
    cut = tmp_path / "cut.ckpt"
    run(tmp_path / "two", Saver(cut, "on_train_batch_end", at=5), every_n_steps=2, steps=9)
    folder = tmp_path / "two"
    stray = folder / "step-000000077.pt"
    torch.save({"weights": torch.zeros(1)}, stray)
    if moved:
        folder = folder.rename(tmp_path / "three")
    with told() as texts:
        two, _ = run(folder, every_n_steps=2, steps=7, ckpt_path=cut)
    assert texts == []
    assert list(two.paths) == [0, 2, 4, 6, 7]
    # 6 was taken again, 8 and 9 of the first attempt are gone; what is not of the run stays
    names = {p.name for p in folder.iterdir()}
    assert names == {stray.name, *(p.name for p in two.paths.values())}
    assert {p.parent for p in two.paths.values()} == {folder}
    assert Snapshot.load(two.paths[0]).run == Snapshot.load(two.paths[7]).run


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_run_that_is_resumed_without_its_beginning_says_so(tmp_path):
    cut = tmp_path / "cut.ckpt"
    fit(Classifier(net(), adam), Saver(cut, "on_train_batch_end", at=5), max_steps=6, logger=False)
    with told() as texts:
        late, _ = run(tmp_path / "s", steps=8, ckpt_path=cut)
    assert list(late.paths) == [5, 6, 8]
    (text,) = texts
    assert "goes on from step 5 and there is no snapshot of its initialisation" in text


def test_fit_again_with_one_trainer_goes_on(tmp_path):
    snapshots, trainer = run(tmp_path / "s", grid="1-2-5", steps=3)
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(trainer.lightning_module, batches())
    assert list(snapshots.paths) == [0, 1, 2, 3, 5, 6]


def test_a_folder_that_cannot_be_written_is_told_once_and_training_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    with told() as texts:
        snapshots, trainer = run(tmp_path / "file" / "s", steps=4)
    assert trainer.global_step == 4
    assert dict(snapshots.paths) == {}
    assert len(texts) == 1
    assert "saving a snapshot failed" in texts[0] or "preparing the folder" in texts[0]
    with pytest.raises(OSError):
        run(tmp_path / "file" / "s", steps=4, on_error="raise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": "linear"}, "grid='linear': one of '1-2-5', 'log'"),
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"max_files": 1}, "max_files=1: a whole number of 2 or more"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"dtype": "int8"}, "dtype='int8': one of 'float16', 'bfloat16'"),
        ({"on_error": "hide"}, "on_error='hide'"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Snapshots(**options)


def test_files_that_are_no_snapshots(tmp_path):
    with pytest.raises(CurvwatchError, match="there is no snapshot"):
        snapshots_in(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CurvwatchError, match="is no snapshot that this curvwatch can read"):
        Snapshot.load(tmp_path / "other.pt")


def test_two_of_them_keep_apart(tmp_path):
    often = Snapshots(tmp_path / "often", every_n_steps=1, name="often")
    seldom = Snapshots(tmp_path / "seldom", grid="1-2-5")
    fit(Classifier(), often, seldom, max_steps=4, logger=False)
    assert often.state_key != seldom.state_key
    assert (len(often.paths), len(seldom.paths)) == (5, 4)


def test_other_ranks_write_nothing(tmp_path):
    snapshots = Snapshots(tmp_path / "s")
    trainer = SimpleNamespace(
        is_global_zero=False,
        global_step=0,
        log_dir=None,
        default_root_dir=".",
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    snapshots.on_train_start(trainer, Classifier())
    trainer.global_step = 1
    snapshots.on_train_batch_end(trainer, Classifier(), None, None, 0)
    snapshots.on_train_end(trainer, Classifier())
    assert dict(snapshots.paths) == {}
    assert not (tmp_path / "s").exists()


def test_weights_that_are_spread_over_processes_are_refused():
    module = Classifier()
    module.net[0].weight.ds_id = 3  # as DeepSpeed marks them
    with pytest.raises(CurvwatchError, match=r"spread over processes \(net\.0\.weight is"):
        taken_of(module, step=0, epoch=0, run="run", stored=None, lightning="")
