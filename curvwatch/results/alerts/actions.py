"""What an alert does besides its message."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from curvwatch.checks import check_fraction, check_int
from curvwatch.errors import CurvwatchError, CurvwatchWarning
from curvwatch.results.alerts.alert import Alert

log = logging.getLogger("curvwatch")


class ControllableRun(Protocol):
    """What actions may do to a run."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0."""

    def stop(self, reason: str) -> None:
        """End the run after this step."""

    def save(self, name: str) -> str:
        """Save a checkpoint under `name`; its path."""

    def scale_rates(self, factor: float) -> str:
        """Multiply all learning rates from now on; returns the rates before and after, in words."""

    def warm_up(self, steps: int, start: float) -> str:
        """Let all learning rates rise from `start` times theirs; returns what changed, in words."""


class RunAction(ABC):
    """An action that changes the run or notifies others."""

    @abstractmethod
    def act(self, alert: Alert, run: ControllableRun) -> None:
        """Do it; every process calls it."""


@dataclass(frozen=True)
class LowerLR(RunAction):
    """See `lower_lr`."""

    factor: float

    def __post_init__(self) -> None:
        check_fraction("factor", self.factor, what="for lower_lr a number between 0 and 1")

    def act(self, alert: Alert, run: ControllableRun) -> None:
        """Multiply all learning rates from now on."""
        changed = run.scale_rates(self.factor)
        _log_change(alert, run, changed)


@dataclass(frozen=True)
class WarmUpAgain(RunAction):
    """See `warmup_again`."""

    steps: int
    start: float = 0.1

    def __post_init__(self) -> None:
        steps = "for warmup_again a number of steps, 1 or more,"
        check_int("steps", self.steps, at_least=1, what=steps)
        check_fraction("start", self.start, what="for warmup_again a number between 0 and 1")

    def act(self, alert: Alert, run: ControllableRun) -> None:
        """Begin to warm up."""
        changed = run.warm_up(self.steps, self.start)
        _log_change(alert, run, changed)


@dataclass(frozen=True)
class Webhook(RunAction):
    """See `webhook`."""

    url: str = field(repr=False)  # it may hold a key

    def __post_init__(self) -> None:
        try:
            import apprise
        except ImportError as error:
            raise CurvwatchError(
                "webhook(url) needs apprise: pip install 'curvwatch[webhook]'"
            ) from error
        if not apprise.Apprise().add(self.url):
            raise ValueError(
                f"webhook({self.url.partition(':')[0]!r}...): not an address that apprise supports, "
                "such as 'slack://...', 'discord://...', 'jsons://host/path' or 'mailto://...'"
            )

    def act(self, alert: Alert, run: ControllableRun) -> None:
        """Send the alert, from one process."""
        import apprise

        if not run.is_main_process:
            return
        sender = apprise.Apprise()
        sender.add(self.url)
        if not sender.notify(title=f"curvwatch: {alert.rule}", body=str(alert)):
            service = self.url.partition(":")[0]
            raise CurvwatchError(f"the webhook ({service}) refused the alert")


# names first: LightningCLI saves a configuration by the first type that fits
ActionName = Literal["stop", "checkpoint", "log", "warn"]
Action = ActionName | RunAction | Callable[[Alert], object]
_NAMES = get_args(ActionName)


def lower_lr(factor: float) -> RunAction:
    """An action that multiplies all learning rates by `factor` for the rest of the run.

    Schedules go on, from lower rates. It changes the run, and says so in the log.

    Args:
        factor: between 0 and 1.
    """
    return LowerLR(factor)


def warmup_again(steps: int, start: float = 0.1) -> RunAction:
    """An action that lets all learning rates rise once more, along a line, to what they would be.

    It changes the run, and says so in the log.

    Args:
        steps: of the optimizer, until they are back.
        start: what they are multiplied by at first, between 0 and 1.
    """
    return WarmUpAgain(steps, start)


def webhook(url: str) -> RunAction:
    """An action that sends the alert to Slack, Discord, mail, or any other service of apprise.

    Args:
        url: an address of apprise, https://github.com/caronc/apprise/wiki. The run waits for the
            answer.

    Raises:
        CurvwatchError: apprise is not installed.
    """
    return Webhook(url)


def check_actions(
    actions: Action | Sequence[Action] | None, name: str = "on_alert"
) -> tuple[Action, ...]:
    """`actions` as a tuple.

    Raises:
        ValueError: one of them is neither callable, nor an action, nor the name of one.
    """
    if actions is None:
        return ()
    several: Sequence[Any] = actions if isinstance(actions, (list, tuple)) else [actions]
    for action in several:
        if not callable(action) and not isinstance(action, RunAction) and action not in _NAMES:
            raise ValueError(
                f"{name}={action!r}: a function of one Alert, {', '.join(map(repr, _NAMES))}, "
                "lower_lr(...), warmup_again(...), webhook(...), or a list of these is needed"
            )
    return tuple(several)


def act(action: Action, alert: Alert, run: ControllableRun) -> None:
    """Do what `action` says; all processes have the same alerts, so all act alike."""
    if action == "stop":
        run.stop(f"curvwatch: {alert.rule}")
    elif action == "checkpoint":
        path = run.save(f"alert-{alert.rule.replace(' ', '-')}-step={alert.step}")
        if run.is_main_process:
            log.warning("curvwatch saved %s", path)
    elif action == "log":
        pass  # every alert is logged
    elif action == "warn":
        if run.is_main_process:
            warnings.warn(f"curvwatch alert, {alert}", CurvwatchWarning, stacklevel=2)
    elif isinstance(action, RunAction):
        action.act(alert, run)
    else:
        assert callable(action)
        action(alert)


def _log_change(alert: Alert, run: ControllableRun, changed: str) -> None:
    if run.is_main_process:
        log.warning("curvwatch CHANGES THE RUN at step %d (%s): %s", alert.step, alert.rule, changed)


def action_name(action: Action) -> str:
    """What messages call `action`."""
    return getattr(action, "__name__", str(action))
