"""An action is done once, whichever rules fire, until all that asked for it is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from curvwatch import CurvatureMonitor, Rule, lower_lr, warmup_again
from curvwatch.results.alerts import Alert, Episodes
from tests.support.modules import Classifier, batches, fit


def alert(rule: str, step: int, *, level: Any = "warning", resolved: int | None = None) -> Alert:
    return Alert(rule, "step/x", step, 2.0, f"{rule} fires", level, resolved)


def test_three_rules_of_one_step_do_an_action_once_for_the_gravest() -> None:
    episodes, alerts = Episodes(), [alert("a", 5), alert("b", 5, level="critical"), alert("c", 5)]
    asked: list[Any] = [(action, a) for a in alerts for action in (lower_lr(0.1), "warn")]
    assert episodes.choose(asked, alerts) == [
        *(("warn", a) for a in alerts),
        (lower_lr(0.1), alerts[1]),
    ]


def test_an_episode_goes_on_until_all_that_asked_are_resolved() -> None:
    episodes = Episodes()
    a, b = alert("a", 5), alert("b", 7)

    def done(new: Alert, *all_alerts: Alert) -> bool:
        return bool(episodes.choose([("checkpoint", new)], all_alerts))

    assert done(a, a)
    assert not done(b, a, b)
    a = replace(a, resolved=9)
    again = alert("a", 12)
    assert not done(again, a, b, again)  # b is not over
    b, again = replace(b, resolved=14), replace(again, resolved=15)
    new = alert("b", 20)
    assert done(new, a, b, again, new)


def test_two_actions_have_an_episode_each_and_equal_ones_share_it() -> None:
    episodes, a = Episodes(), alert("a", 5)
    asked: list[Any] = [(lower_lr(0.1), a), (lower_lr(0.1), a), (lower_lr(0.5), a), ("stop", a)]
    assert [action for action, _ in episodes.choose(asked, [a])] == [
        *(lower_lr(0.1), lower_lr(0.5), "stop")
    ]


def test_state_goes_on_alike() -> None:
    actions: list[Any] = ["checkpoint", lower_lr(0.1)]
    first, second = Episodes(), Episodes()
    first.know(actions)
    second.know(actions)
    a, b = alert("a", 5), alert("b", 8)
    first.choose([(lower_lr(0.1), a)], [a])
    second.load_state_dict(first.state_dict())
    assert second.choose([(lower_lr(0.1), b), ("checkpoint", b)], [a, b]) == [("checkpoint", b)]
    resolved = replace(a, resolved=7), replace(b, resolved=9)
    new = alert("a", 20)
    assert second.choose([(lower_lr(0.1), new)], [*resolved, new]) == [(lower_lr(0.1), new)]


# in runs

_AT = Rule("one", "step/loss_change", above=-1e9, clear=-2e9)
_THREE = [_AT, replace(_AT, name="two", level="critical"), replace(_AT, name="three", action="warn")]


def rates_of(action: Any, path: Path | None = None, steps: int = 6) -> list[float]:
    """The learning rate after each step of a run in which three rules fire at the first reading."""
    seen: list[float] = []

    class Keeps(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    monitor = CurvatureMonitor(every_n_steps=1, rules=_THREE[:2], on_alert=action)
    fit(Keeps(), monitor, data=batches(64), max_steps=steps, ckpt_path=path)
    assert {a.rule for a in monitor.alerts} == {"one", "two"}
    return seen


def test_rates_are_lowered_once_by_three_rules() -> None:
    assert rates_of(lower_lr(0.1)) == pytest.approx([1.0] + 5 * [0.1])


def test_a_warmup_begins_once() -> None:
    assert rates_of(warmup_again(4, start=0.2)) == pytest.approx([1.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_function_is_called_once_with_the_gravest_alert() -> None:
    called: list[Alert] = []
    rates_of(called.append)
    assert [a.rule for a in called] == ["two"]


def test_a_checkpoint_in_the_midst_of_an_episode_does_not_begin_it_anew(tmp_path: Path) -> None:
    def monitor() -> CurvatureMonitor:
        return CurvatureMonitor(every_n_steps=1, rules=_THREE[:2], on_alert=lower_lr(0.1))

    path = tmp_path / "cut.ckpt"
    fit(Classifier(), monitor(), data=batches(24), max_epochs=1).save_checkpoint(path)
    resumed = monitor()
    trainer = fit(Classifier(), resumed, data=batches(24), max_epochs=2, ckpt_path=path)
    before = Classifier().configure_optimizers()
    rate = before.param_groups[0]["lr"]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * rate)
