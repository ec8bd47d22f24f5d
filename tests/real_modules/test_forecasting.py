"""pytorch-forecasting's Temporal Fusion Transformer on a generated series; `make test-modules`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compat.check import check_run
from tests.compat.rows import Row
from tests.support.modules import fit

forecasting = pytest.importorskip("pytorch_forecasting")
pandas = pytest.importorskip("pandas")


def series() -> Any:
    """Two noisy waves, with a covariate that is known ahead and one that is not."""
    rng = np.random.default_rng(3)
    time = np.tile(np.arange(24), 2)
    frame = pandas.DataFrame(
        {
            "time": time,
            "group": np.repeat(["a", "b"], 24),
            "month": np.array(list("winter"))[time % 6],
            "price": rng.normal(size=48),
            "value": np.sin(time / 3) + 2 + 0.1 * rng.normal(size=48),
        }
    )
    return forecasting.TimeSeriesDataSet(
        frame,
        time_idx="time",
        target="value",
        group_ids=["group"],
        min_encoder_length=4,
        max_encoder_length=8,
        max_prediction_length=2,
        static_categoricals=["group"],
        time_varying_known_categoricals=["month"],
        time_varying_known_reals=["time", "price"],
        time_varying_unknown_reals=["value"],
        target_normalizer=forecasting.GroupNormalizer(groups=["group"], transformation="softplus"),
        add_relative_time_idx=True,
        add_target_scales=True,
        add_encoder_length=True,
    )


def transformer(**options: Any) -> Any:
    return forecasting.TemporalFusionTransformer.from_dataset(
        series(),
        learning_rate=0.03,
        hidden_size=4,
        attention_head_size=2,
        dropout=0.1,
        hidden_continuous_size=2,
        loss=forecasting.QuantileLoss(),
        log_interval=-1,
        **options,
    )


def loader(*, train: bool = True) -> Any:
    return series().to_dataloader(train=train, batch_size=12, num_workers=0)


def with_validation(module: Any, *callbacks: Any, **options: Any) -> Any:
    return fit(module, *callbacks, val=loader(train=False), **options)


# the library's own
@pytest.mark.filterwarnings("ignore:Attribute '\\w+' is an instance of `nn.Module`")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_run(optimizer: str) -> None:
    row = Row(
        "temporal fusion transformer",
        lambda: transformer(optimizer=optimizer),
        data=loader,
        options={"gradient_clip_val": 0.1, "limit_train_batches": 3},
        scenario=with_validation,
        values="finite",
    )
    check_run(row)
