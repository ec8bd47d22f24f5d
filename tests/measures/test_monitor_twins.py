"""What the monitor logs in a Trainer against dense twins in float64."""

from __future__ import annotations

import copy
import itertools

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from curvwatch import CurvatureMonitor, CurvwatchWarning, Rule, Sharpness, StepGeometry
from tests.support.cases import CASES, dense, flat
from tests.support.modules import fit
from tests.support.studies import only

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8),
    "adam": lambda p: torch.optim.Adam(p, lr=0.003, betas=(0.85, 0.99), eps=1e-6),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.003, weight_decay=0.1),
}
# the edge of each, worked out by hand: 2/lr, 2(1+m)/lr, 2(1+b1)/((1-b1) lr), and less for decay
EDGES = {
    "sgd": 2 / 0.05,
    "momentum": 2 * 1.8 / 0.05,
    "adam": 2 * 1.85 / (0.15 * 0.003),
    "adamw": 1.9 * (2 - 0.003 * 0.1) / (0.1 * 0.003),
}
STEPS = 4


class Module(L.LightningModule):
    def __init__(self, case, optimizer):
        super().__init__()
        self.case, self.optimizer = case, optimizer
        self.model = case.model()

    def training_step(self, batch, batch_idx):
        return self.case.loss(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return OPTIMIZERS[self.optimizer](self.model.parameters())


class Recorder(L.Callback):
    """Keeps weights, optimizer state and batch of each step."""

    def __init__(self):
        self.before, self.after, self.states, self.batches = [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before.append(flat(list(pl_module.model.parameters())))
        self.batches.append(batch)

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.after.append(flat(list(pl_module.model.parameters())))
        self.states.append(copy.deepcopy(trainer.optimizers[0].state_dict()["state"]))


def trained(case, optimizer, measures):
    torch.manual_seed(1)
    with torch.random.fork_rng():
        torch.set_default_dtype(torch.float64)
        batches = [case.batch(8) for _ in range(STEPS)]
        module = Module(case, optimizer)
        torch.set_default_dtype(torch.float32)
    recorder = Recorder()
    monitor = CurvatureMonitor(measures, every_n_steps=1, on_error="raise")
    data = DataLoader(batches, batch_size=None)
    fit(module, recorder, monitor, data=data, max_steps=STEPS, precision="64-true")
    return module, monitor.history, recorder


def adam_preconditioner(state, betas, eps):
    """P = (1 - b1^t) (sqrt(v / (1 - b2^t)) + eps), written out."""
    parts = []
    for s in state.values():
        t = float(s["step"])
        v = s["exp_avg_sq"].reshape(-1)
        parts.append((1 - betas[0] ** t) * ((v / (1 - betas[1] ** t)).sqrt() + eps))
    return torch.cat(parts)


# measures, and how close what they read is to the dense values
MEASURES = {"default": (None, 1e-3), "tight": ([Sharpness(rtol=1e-8), StepGeometry()], 1e-6)}


# each optimizer on a perceptron, and each other network with one of them
@pytest.mark.parametrize(
    ("which", "name", "optimizer"),
    only(
        itertools.product(MEASURES, CASES, OPTIMIZERS),
        take=[
            *(("tight", "mlp_cross_entropy", optimizer) for optimizer in OPTIMIZERS),
            ("tight", "mlp_mse", "momentum"),
            ("tight", "cnn_batchnorm", "adam"),
            ("default", "mlp_mse", "adam"),
            ("default", "transformer_sdpa", "sgd"),
            ("default", "mlp_cross_entropy", "adamw"),
        ],
    ),
)
def test_logged_values_equal_dense_twins(which, name, optimizer):
    case = CASES[name]
    measures, tolerance = MEASURES[which]
    module, history, seen = trained(case, optimizer, measures)
    close = {"rel": tolerance}

    def logged(metric, step):
        assert history[metric].steps.tolist() == list(range(STEPS))
        return history[metric].values[step]

    for step in range(STEPS):
        # the landscape: on the first batch, at w(t)
        at = dense(case, module.model, [seen.batches[0]], seen.before[step])
        top = float(torch.linalg.eigvalsh(at.hessian)[-1])
        lr = module.optimizers().param_groups[0]["lr"]
        assert logged("curvature/loss", step) == pytest.approx(at.loss, rel=1e-9)
        assert logged("curvature/sharpness", step) == pytest.approx(top, **close)
        assert logged("curvature/sharpness_x_lr", step) == pytest.approx(lr * top, **close)
        assert logged("curvature/edge", step) == pytest.approx(2 / lr)
        assert logged("curvature/residual", step) <= 1e-3
        effective = top
        if optimizer.startswith("adam"):
            if step == 0:  # second moments of one gradient
                assert np.isnan(logged("curvature/stability_ratio", 0))
                effective = None
            else:
                betas, eps = ((0.85, 0.99), 1e-6) if optimizer == "adam" else ((0.9, 0.999), 1e-8)
                s = adam_preconditioner(seen.states[step], betas, eps).rsqrt()
                effective = float(torch.linalg.eigvalsh(s[:, None] * at.hessian * s)[-1])
        if effective is not None:
            edge = EDGES[optimizer]
            assert logged("curvature/effective_sharpness", step) == pytest.approx(effective, **close)
            assert logged("curvature/effective_edge", step) == pytest.approx(edge, rel=1e-12)
            assert logged("curvature/stability_ratio", step) == pytest.approx(effective / edge, **close)

        # the step: on its own batch, at w(t)
        own = dense(case, module.model, [seen.batches[step]], seen.before[step])
        there = dense(case, module.model, [seen.batches[step]], seen.after[step])
        d = seen.after[step] - seen.before[step]
        slope, curvature = float(own.gradient @ d), float(d @ own.hessian @ d)
        length = float(d.norm())
        expected = {
            "step/gradient_correlation": slope / length,
            "step/gradient_cosine": slope / length / float(own.gradient.norm()),
            "step/directional_sharpness": curvature / length**2,
            "step/predicted_loss_change": slope + curvature / 2,
            "step/loss_change": there.loss - own.loss,
            "step/relative_loss_change": (there.loss - own.loss) / abs(own.loss),
            "step/stability_ratio": curvature / (-2 * slope),
            "step/update_norm": length,
            "step/relative_update": length / float(seen.before[step].norm()),
        }
        for metric, value in expected.items():
            assert logged(metric, step) == pytest.approx(value, rel=1e-7, abs=1e-12), metric


def test_the_secant_is_the_mean_curvature_along_the_step():
    case = CASES["mlp_mse"]
    module, history, seen = trained(case, "sgd", [StepGeometry(curvature="secant")])
    for step in range(STEPS):
        here = dense(case, module.model, [seen.batches[step]], seen.before[step])
        there = dense(case, module.model, [seen.batches[step]], seen.after[step])
        d = seen.after[step] - seen.before[step]
        mean = float((there.gradient - here.gradient) @ d / d.dot(d))
        assert history["step/directional_sharpness"].values[step] == pytest.approx(mean, rel=1e-6)


def test_the_predicted_loss_change_is_right_to_third_order():
    """|predicted - true| shrinks as lr^3: slope 3 in a log-log plot."""
    from curvwatch import Objective
    from curvwatch.measures import Step

    torch.manual_seed(0)
    case = CASES["mlp_cross_entropy"]
    model = case.model().double()
    x, y = case.batch(8)
    objective = Objective.of_batches(model, lambda b: case.loss(model(b[0]), b[1]), [(x.double(), y)])
    rates = np.array([0.4, 0.2, 0.1, 0.05])
    errors = []
    with objective.open() as f:
        gradient = f.linearize().gradient
        for lr in rates:
            values = StepGeometry().read(Step(f, -lr * gradient, 1.0)).values
            change = f.loss(-lr * gradient) - f.loss()
            assert values["step/loss_change"] == change
            errors.append(abs(values["step/predicted_loss_change"] - change))
    slope = np.polyfit(np.log(rates), np.log(errors), 1)[0]
    assert slope == pytest.approx(3.0, abs=0.15)


def test_several_probe_batches_are_averaged_by_their_size():
    torch.manual_seed(2)
    case = CASES["mlp_cross_entropy"]
    batches = [(x.double(), y) for x, y in (case.batch(9), case.batch(4))]
    module = Module(case, "sgd")
    module.double()
    monitor = CurvatureMonitor([Sharpness(rtol=1e-8)], every_n_steps=1, probe=batches, on_error="raise")
    recorder = Recorder()
    fit(module, recorder, monitor, data=DataLoader(batches, batch_size=None), max_steps=2)
    for step in range(2):
        twin = dense(case, module.model, batches, recorder.before[step])
        top = float(torch.linalg.eigvalsh(twin.hessian)[-1])
        assert monitor.history["curvature/loss"].values[step] == pytest.approx(twin.loss, rel=1e-9)
        assert monitor.history["curvature/sharpness"].values[step] == pytest.approx(top, rel=1e-6)
        # the error of a mean of two numbers with weights 9/13 and 4/13
        v = torch.linalg.eigh(twin.hessian).eigenvectors[:, -1]
        q = [
            float(v @ dense(case, module.model, [b], recorder.before[step]).hessian @ v)
            for b in batches
        ]
        w = np.array([9, 4]) / 13
        stderr = np.sqrt(2 * np.sum((w * (np.array(q) - w @ q)) ** 2))
        logged = monitor.history["curvature/sharpness_stderr"].values[step]
        assert logged == pytest.approx(stderr, rel=1e-7)


def test_a_reading_that_did_not_converge_says_so_and_alerts_nobody():
    torch.manual_seed(0)
    case = CASES["mlp_mse"]
    module = Module(case, "momentum")
    rules = [
        Rule(name=m, metric=f"curvature/{m}", above=-1e9, for_readings=1, meaning="always")
        for m in ("sharpness", "stability_ratio", "loss")
    ]
    monitor = CurvatureMonitor(
        [Sharpness(max_products=2)], every_n_steps=1, rules=rules, on_error="raise"
    )
    with pytest.warns(CurvwatchWarning) as warned:
        fit(module, monitor, data=DataLoader([case.batch(8)] * 3, batch_size=None), max_steps=3)
    told = [str(w.message) for w in warned if isinstance(w.message, CurvwatchWarning)]
    assert len(told) == 1
    assert "curvature/sharpness did not converge in 2 products" in told[0]
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
    assert "curvature/sharpness did not converge in 2 products" in monitor.history.notes[0].text
    assert [a.rule for a in monitor.alerts] == ["loss"]


def test_a_sharpness_dominated_by_rounding_is_marked():
    """Curvatures -1e6 and 1e-2: float32 has no digits left for the second."""

    class Saddle(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([1e-6, 0.3]))

        def training_step(self, batch, batch_idx):
            return (torch.tensor([-1e6, 1e-2]) * self.w**2).sum() / 2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-9)

    def read(**options):
        monitor = CurvatureMonitor(["sharpness"], every_n_steps=1)
        data = DataLoader([torch.zeros(1)], batch_size=None)
        fit(Saddle(), monitor, data=data, max_steps=1, **options)
        return monitor.history

    with pytest.warns(CurvwatchWarning, match="dominated by rounding"):
        history = read()
    assert history["curvature/residual"].values[0] > 0.01
    history = read(precision="64-true")
    assert history["curvature/sharpness"].values[0] == pytest.approx(1e-2, rel=1e-6)
    assert not history.notes
