"""`python -m benchmarks.advice`: take the advice of short probe runs, and train at multiples of it.

docs/advice.md says what is measured; its tables are written from docs/advice.json.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.alerts.ladder import make_optimizer
from benchmarks.alerts.tasks import TASKS
from benchmarks.report import between, machine, markdown_table
from curvwatch import History, Watch
from curvwatch.measures import Sharpness, StepGeometry
from curvwatch.results.advice import Advice, advise

_DOCS = Path(__file__).parents[1] / "docs"
PAGE, RESULTS = _DOCS / "advice.md", _DOCS / "advice.json"
TUNED_ON, SEEDS = 0, (1, 2, 3)
# of the advice of the probe run, and of that of the run at it
MULTIPLES, AGAIN = (0.5, 1.0, 2.0, 4.0), (1.0, 2.0)
PROBE_STEPS, STEPS = 400, 200
# steps between readings of the landscape, where advice is asked for, and in other runs
ASKED_EVERY, EVERY = 10, 25
# what leaves stability: fixed before the table; the floor came from seed 0, whose batches scatter
JUMP, JUMP_OF, MEDIAN_OF, FLOOR = 3.0, 5, 50, 0.05
OVERSHOOTS = 20
TRAINS, END, EDGE = 0.9, 20, 0.8

Fate = Literal["under", "edge", "left"]
Rate = Callable[[int], float]


@dataclass(frozen=True)
class Setting:
    """A task with an optimizer, and the small learning rate of its probe run."""

    task: str
    optimizer: str
    probe_rate: float

    @property
    def label(self) -> str:
        """For people."""
        return f"{TASKS[self.task].label}, {'SGD .9' if self.optimizer == 'momentum' else 'Adam'}"


SETTINGS = (
    *(Setting("mlp", "momentum", 0.03), Setting("mlp", "adam", 1e-3)),
    *(Setting("cnn", "momentum", 7e-3), Setting("cnn", "adam", 2e-3)),
    *(Setting("gpt", "momentum", 8e-3), Setting("gpt", "adam", 3e-3)),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        multiple: of the advice; 0: the probe run.
        rate: its learning rate, after a warmup if one was advised.
        fate: "left" stability, at its "edge", or "under" it.
        why: it left, in a word; "" if it did not.
        first: training loss of the first step.
        last: median of the last 20; nan where it is not finite.
        chi: median of the landscape's stability ratio in the second half; nan: there is none.
        overshoot: largest median of the steps' stability ratio over 20 steps in a row.
    """

    multiple: float
    rate: float
    fate: Fate
    why: str
    first: float
    last: float
    chi: float
    overshoot: float


@dataclass(frozen=True)
class Round:
    """One advice and the runs that test it.

    Attributes:
        rates: learning rate, low, high; nan without one.
        warmup: learning rate to begin with, first step of the rise, and its last; empty: none.
        said: the advice in words.
        outcomes: of the runs at multiples of it.
        unwarmed: of the run at it without the warmup; None: none was advised.
    """

    rates: tuple[float, float, float]
    warmup: tuple[float, ...]
    said: str
    outcomes: tuple[Outcome, ...]
    unwarmed: Outcome | None

    @property
    def given(self) -> bool:
        """Whether there is advice."""
        return not math.isnan(self.rates[0])


@dataclass(frozen=True)
class Case:
    """A probe run and what followed.

    Attributes:
        setting: index in `SETTINGS`.
        seed: of weights and batches.
        probe: what became of the probe run.
        rounds: its advice, and that of the run at it.
    """

    setting: int
    seed: int
    probe: Outcome
    rounds: tuple[Round, ...]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.advice", description=__doc__)
    parser.add_argument("--tuning", action="store_true", help=f"seed {TUNED_ON} alone, and no page")
    parser.add_argument("--redraw", action="store_true", help="the page anew, without a run")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    console, begin = Console(), time.perf_counter()
    if not chosen.redraw:
        seeds = (TUNED_ON,) if chosen.tuning else SEEDS
        jobs = [(i, seed) for seed in seeds for i in range(len(SETTINGS))]
        context = multiprocessing.get_context("spawn")
        with context.Pool(chosen.processes, torch.set_num_threads, (1,)) as pool:
            done = track(pool.imap_unordered(case, jobs), "training", len(jobs), console=console)
            cases = sorted(done, key=lambda c: (c.setting, c.seed))
        for cells in (*rows(cases, 0), *rows(cases, 1), *warmups(cases)):
            console.print("  ".join(cells), markup=False, soft_wrap=True)
        if chosen.tuning:
            return
        write_results(RESULTS, cases, machine())
    write_page(PAGE, RESULTS)
    console.print(f"{PAGE}: {time.perf_counter() - begin:.0f} s")


def case(job: tuple[int, int]) -> Case:
    """Probe, ask, train at multiples of the advice, and ask again."""
    index, seed = job
    setting = SETTINGS[index]
    history, losses = trained(
        setting, lambda _: setting.probe_rate, steps=PROBE_STEPS, seed=seed, every=ASKED_EVERY
    )
    probe = outcome(0.0, setting.probe_rate, history, losses)
    rounds = []
    for multiples in (MULTIPLES, AGAIN):
        advice = advise(history).only
        outcomes = []
        for multiple in multiples if advice.given else ():
            every = ASKED_EVERY if multiple == 1.0 else EVERY
            rate = schedule(advice, multiple)
            run, losses = trained(setting, rate, steps=STEPS, seed=seed, every=every)
            outcomes.append(outcome(multiple, multiple * advice.learning_rate, run, losses))
            if multiple == 1.0:
                history = run
        unwarmed = None
        if advice.warmup is not None:
            rate = schedule(replace(advice, warmup=None), 1.0)
            run, losses = trained(setting, rate, steps=STEPS, seed=seed)
            unwarmed = outcome(1.0, advice.learning_rate, run, losses)
        rounds.append(
            Round(
                rates=(advice.learning_rate, advice.low, advice.high),
                warmup=() if advice.warmup is None else tuple(advice.warmup),
                said=str(advice),
                outcomes=tuple(outcomes),
                unwarmed=unwarmed,
            )
        )
        if not advice.given:
            break
    return Case(index, seed, probe, tuple(rounds))


def schedule(advice: Advice, multiple: float) -> Rate:
    """`multiple` of the advised rate, with the warmup that was advised, as many times higher."""
    if advice.warmup is None:
        return lambda _: multiple * advice.learning_rate
    least, start, until = advice.warmup
    rise = advice.learning_rate - least
    return lambda step: multiple * (least + rise * min(1.0, max(0.0, (step - start) / (until - start))))


def trained(
    setting: Setting, rate: Rate, *, steps: int, seed: int, every: int = EVERY
) -> tuple[History, np.ndarray]:
    """A run's readings and its training losses, shape (steps made,); until one is not finite."""
    task = TASKS[setting.task]
    torch.manual_seed(seed)
    net = task.net()
    optimizer = make_optimizer(setting.optimizer, net.parameters(), rate(0))
    generator = torch.Generator().manual_seed(1000 + seed)
    losses: list[float] = []
    watch = Watch(
        net,
        optimizer,
        lambda net, batch: task.loss(net(batch[0]), batch[1]),
        [Sharpness(every_n_steps=every), StepGeometry(curvature="secant", every_n_steps=1)],
        probe_batches=1 if setting.task == "mlp" else 4,
        alerts="off",
    )
    with watch:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate(step)
            batch = task.batch(generator)
            loss = task.loss(net(batch[0]), batch[1])
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.step(batch)
    return watch.history, np.array(losses)


def outcome(multiple: float, rate: float, history: History, losses: np.ndarray) -> Outcome:
    """What became of a run, from its losses and the ratios of its steps."""
    ratios = _values(history, "step/stability_ratio")
    worst = max(
        (float(np.median(ratios[i : i + OVERSHOOTS])) for i in range(len(ratios) - OVERSHOOTS + 1)),
        default=math.nan,
    )
    last = float(np.median(losses[-END:])) if np.isfinite(losses).all() else math.nan
    chi = _values(history, "curvature/stability_ratio")
    chi_late = float(np.median(chi[len(chi) // 2 :])) if len(chi) else math.nan
    why = ""
    if not math.isfinite(last):
        why = "diverges"
    elif last > TRAINS * losses[0]:
        why = "does not train"
    elif jumps(losses):
        why = "loss jumps"
    elif worst > 1.0:
        why = "overshoots"
    fate: Fate = "left" if why else "edge" if chi_late >= EDGE else "under"
    return Outcome(multiple, rate, fate, why, float(losses[0]), last, chi_late, worst)


def jumps(losses: np.ndarray) -> bool:
    """Whether 5 losses in a row have a median over 3 times that of the 50 before them.

    Losses under a twentieth of the first one count as that: single batches scatter by as much.
    """
    for i in range(JUMP_OF, len(losses) - JUMP_OF + 1):
        before = np.median(losses[max(0, i - MEDIAN_OF) : i])
        if np.median(losses[i : i + JUMP_OF]) > JUMP * max(before, FLOOR * losses[0]):
            return True
    return False


def _values(history: History, name: str) -> np.ndarray:
    values = history[name].values if name in history else np.empty(0)
    return values[np.isfinite(values)]


def write_results(path: Path, cases: Sequence[Case], told: str) -> None:
    """Keep all, a line for each case; nan is null."""
    lines = [json.dumps(_plain(asdict(c))) for c in cases]
    text = f'{{"machine": {json.dumps(told)},\n"cases": [\n' + ",\n".join(lines) + "\n]}\n"
    path.write_text(text, encoding="utf-8")


def read_results(path: Path) -> tuple[list[Case], str]:
    """What `write_results` wrote, and the machine."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [_case(told) for told in content["cases"]], content["machine"]


def _case(told: dict[str, Any]) -> Case:
    rounds = tuple(
        Round(
            rates=tuple(map(_number, r["rates"])),  # type: ignore[arg-type]
            warmup=tuple(r["warmup"]),
            said=r["said"],
            outcomes=tuple(map(_outcome, r["outcomes"])),
            unwarmed=_outcome(r["unwarmed"]) if r["unwarmed"] else None,
        )
        for r in told["rounds"]
    )
    return Case(told["setting"], told["seed"], _outcome(told["probe"]), rounds)


def _outcome(told: dict[str, Any]) -> Outcome:
    return Outcome(**{name: _number(value) for name, value in told.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def _number(value: Any) -> Any:
    return math.nan if value is None else value


HEAD = ("run", "seed", "probe lr", "advice (low to high)", "warmup", *(f"{m:g}x" for m in MULTIPLES))
HEAD_WARMUPS = ("run", "seed", "lr", "advice (low to high)", "warmup", "1x", "1x without warmup")
HEAD_AGAIN = ("run", "seed", "lr", "advice (low to high)", "warmup", *(f"{m:g}x" for m in AGAIN))
_FATES = {"under": "under", "edge": "edge", "left": "**left**"}
_LOST = ("diverges", "does not train")


def row(c: Case, turn: int) -> list[str]:
    """The cells of one advice: the first, or that which was asked for again."""
    made = c.probe.rate if turn == 0 else c.rounds[0].rates[0]
    cells = [SETTINGS[c.setting].label, str(c.seed), f"{made:.2g}"]
    asked = c.rounds[turn]
    if not asked.given:
        return [*cells, asked.said]
    rate, low, high = asked.rates
    cells.append(f"{rate:.2g} ({low:.2g} to {high:.2g})")
    cells.append("{:.2g}, steps {:.0f} to {:.0f}".format(*asked.warmup) if asked.warmup else "-")
    return cells + [_told(o) for o in asked.outcomes]


def _told(o: Outcome) -> str:
    what = o.why if o.why in _LOST else f"{o.why} {o.last:.2g}".strip()
    return f"{_FATES[o.fate]}: {what}"


def rows(cases: Sequence[Case], turn: int) -> list[list[str]]:
    """Of all that got so far."""
    return [row(c, turn) for c in cases if len(c.rounds) > turn]


def warmups(cases: Sequence[Case]) -> list[list[str]]:
    """The advice with a warmup, of both rounds: the run at it with and without."""
    found = []
    for turn in (0, 1):
        for c in cases:
            asked = c.rounds[turn] if len(c.rounds) > turn else None
            if asked is not None and asked.unwarmed is not None:
                at_it = next(o for o in asked.outcomes if o.multiple == 1.0)
                found.append([*row(c, turn)[:5], _told(at_it), _told(asked.unwarmed)])
    return found


def counts(cases: Sequence[Case], turn: int) -> list[list[str]]:
    """For each multiple: how many runs, and what became of them."""
    asked = [c.rounds[turn] for c in cases if len(c.rounds) > turn]
    runs = [o for r in asked for o in r.outcomes]
    return [
        _counted(f"{m:g} x advice", [o for o in runs if o.multiple == m])
        for m in (MULTIPLES, AGAIN)[turn]
    ]


def bounds(cases: Sequence[Case], turn: int) -> list[list[str]]:
    """The same by where the learning rate lies in the range of the advice."""
    given = [
        (r.rates, o)
        for c in cases
        if len(c.rounds) > turn
        for r in [c.rounds[turn]]
        for o in r.outcomes
    ]
    return [
        _counted("under low", [o for (_, low, _), o in given if o.rate < low]),
        _counted("low to high", [o for (_, low, high), o in given if low <= o.rate <= high]),
        _counted("over high", [o for (_, _, high), o in given if o.rate > high]),
    ]


def _counted(label: str, runs: Sequence[Outcome]) -> list[str]:
    trains = sum(o.why not in _LOST for o in runs)
    return [label, *map(str, (len(runs), trains, *(sum(o.fate == f for o in runs) for f in _FATES)))]


def write_page(page: Path, results: Path) -> None:
    """The tables of the page anew."""
    page.write_text(with_tables(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def with_tables(text: str, results: Path) -> str:
    """`text` with the tables of `results`."""
    cases, told = read_results(results)
    head = ["learning rate", "runs", "train", "under the edge", "at the edge", "left stability"]
    given = sum(c.rounds[0].given for c in cases)
    sections = {
        "machine": textwrap.fill(f"{len(cases)} probe runs, {given} with advice; {told}.", 110),
        "counts": markdown_table(head, counts(cases, 0)),
        "bounds": markdown_table(head, bounds(cases, 0)),
        "runs": markdown_table(HEAD, rows(cases, 0)),
        "counts-again": markdown_table(head, counts(cases, 1)),
        "warmups": markdown_table(HEAD_WARMUPS, warmups(cases)),
        "runs-again": markdown_table(HEAD_AGAIN, rows(cases, 1)),
    }
    for name, content in sections.items():
        text = between(text, name, f"\n{content}\n")
    return text


if __name__ == "__main__":
    main()
