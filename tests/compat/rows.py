"""What a row of docs/compatibility.md is, and how it is run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from tests.support.modules import Classifier, ListLogger, batches, fit, is_ours
from tests.support.trace import Witness, picture, state_of

# twin: values equal those of tests/compat/twin.py; finite: each is, or a note says why not;
# words: there are none, and one warning says why
Values = Literal["twin", "finite", "words"]
SEED = 2


def _batches() -> Any:
    return batches(12)


@dataclass(frozen=True)
class Row:
    """One row: a module, and how it is trained.

    Attributes:
        name: in the document, and in the ids of the tests.
        module: makes the LightningModule.
        data: makes the loaders.
        options: of `tests.support.modules.fit`.
        callbacks: makes those that stand beside the monitor.
        monitor: arguments of the monitor beside `every_n_steps=1`.
        scenario: trains instead of `fit`, where one call is not the whole story.
        values: what is known of the values.
        steps: those with readings.
        skipped: those among them at which the optimizer made no step, or one without a gradient.
        says: parts of the warnings, one for each.
        hold: keeps still, for the twin, what the module computes without a gradient.
        masked: for the twin, from the name of a weight to a row whose gradient is zero by definition.
        rtol: of the comparison with the twin.
    """

    name: str
    module: Callable[[], pl.LightningModule]
    data: Callable[[], Any] = _batches
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[pl.Callback]] = list
    monitor: dict[str, Any] = field(default_factory=dict)
    scenario: Callable[..., pl.Trainer] = fit
    values: Values = "twin"
    steps: tuple[int, ...] = (0, 1, 2)
    skipped: tuple[int, ...] = ()
    says: tuple[str, ...] = ()
    hold: Callable[[Any], None] | None = None
    masked: dict[str, int] = field(default_factory=dict)
    rtol: float = 1e-6

    def __str__(self) -> str:
        return self.name


def of_net(net: Callable[[], nn.Module], **options: Any) -> Callable[[], Classifier]:
    """Makes a Classifier of a net that maps (n, FEATURES) to (n, CLASSES)."""
    return lambda: Classifier(net(), **options)


def with_twin(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.values == "twin"]


def values_cell(row: Row) -> str:
    """What the document says of the row's values."""
    return {"twin": f"{row.rtol:g}", "finite": "read", "words": "refused"}[row.values]


@dataclass
class Outcome:
    """A run, and what could differ from another one."""

    seen: dict[str, Any]
    trainer: pl.Trainer


def train(row: Row, *callbacks: pl.Callback, options: dict[str, Any] | None = None) -> Outcome:
    """The row's run, and further callbacks; all else is the same.

    `options` stand for the row's own.
    """
    torch.manual_seed(SEED)
    module, data = row.module(), row.data()
    witness, rows = Witness(), ListLogger()
    trainer = row.scenario(
        module,
        *row.callbacks(),
        *callbacks,
        witness,
        data=data,
        logger=rows,
        **copy.deepcopy(row.options if options is None else options),
    )
    seen = {
        "end": state_of(trainer, module),
        "logged": [[s, m] for s, m in rows.rows if not any(map(is_ours, m))],
        "precision": picture(trainer.precision_plugin.state_dict()),
        "pictures": witness.pictures,
    }
    return Outcome(_without_addresses(seen), trainer)


def _without_addresses(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_addresses(v) for k, v in value.items() if k != "_torchdynamo_wrapper_id"}
    return [_without_addresses(v) for v in value] if isinstance(value, list) else value


class Recorder(pl.Callback):
    """Keeps what each batch starts from, and the weights that it leaves."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.random: list[Tensor] = []
        self.states: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(copy.deepcopy(batch))
        self.random.append(torch.get_rng_state())
        self.states.append(copy.deepcopy(module.state_dict()))

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.after.append({n: p.detach().clone() for n, p in module.named_parameters()})
