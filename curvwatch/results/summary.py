"""One line on a run that is over."""

from __future__ import annotations

import math

from curvwatch.results.advice import Advices, advise
from curvwatch.results.advice.refusals import LEAST
from curvwatch.results.history import History

# readings of the landscape that a proposed cadence is to give
_PROPOSED = 12


def run_summary(history: History, *, share: float, steps: int) -> str:
    """How many readings there were, what they took, the last stability ratio, and advice in a clause.

    Args:
        history: of the run.
        share: of the time of the run that readings and everything else of the monitor took.
        steps: optimizer steps of the run.
    """
    counts = {
        "of the step": _readings(history, "step/"),
        "of the landscape": _readings(history, "curvature/"),
    }
    if not any(counts.values()):
        return f"curvwatch: no readings in this run of {steps} steps"
    step, landscape = counts.values()
    noun = "reading" if step == 1 else "readings"
    read = f"{step} {noun} of the step and {landscape} of the landscape"
    parts = [f"curvwatch: {read} took {share:.1%} of the time", *_last_ratios(history)]
    return "; ".join([*parts, _advice(history, counts["of the landscape"], steps)])


def _readings(history: History, prefix: str) -> int:
    steps = {int(t) for name in history if name.startswith(prefix) for t in history[name].steps}
    return len(steps)


def _last_ratios(history: History) -> list[str]:
    found = []
    for name in history:
        metric, _, suffix = name.partition("stability_ratio")
        if metric != "curvature/" or (suffix and not suffix.startswith("-")):
            continue
        steps, values = history[name]
        if len(values) and math.isfinite(values[-1]):
            of = f" of {suffix[1:]}" if suffix else ""
            found.append(f"last stability ratio{of} {values[-1]:.2g} (step {steps[-1]})")
    return found


def _advice(history: History, readings: int, steps: int) -> str:
    advices = advise(history)
    given = {suffix: advice for suffix, advice in advices.items() if advice.given}
    if given:
        clauses = [
            f"learning rate{f' of {suffix[1:]}' if suffix else ''} {advice.learning_rate:.3g}, "
            f"{advice.factor:.2g} times the largest of this run"
            for suffix, advice in given.items()
        ]
        return f"advice: {', '.join(clauses)} (advice() says why)"
    if 0 < readings < LEAST <= steps:
        n = max(1, steps // _PROPOSED)
        return (
            f"advice needs {LEAST} readings of the landscape: every_n_steps={n} would have given "
            f"{math.ceil(steps / n)}"
        )
    return f"no advice: {_reason(advices)}"


def _reason(advices: Advices) -> str:
    """The first sentence of the first refusal."""
    sentences = next(iter(advices.values())).sentences
    text = sentences[0] if sentences else "the readings do not allow it"
    return text.removeprefix("No advice: ").rstrip(".")
