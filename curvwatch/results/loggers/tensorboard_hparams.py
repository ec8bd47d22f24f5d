"""TensorBoard's HParams page, shared with what Lightning or the user logged there.

Of each run TensorBoard takes the first record of hyperparameters, files in the order of their names,
and ignores all later ones; of all runs it takes the first list of columns. So ours is written when a
run ends; where there is a record by then, both are joined in a file whose name comes before all others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FIRST = "events.out.tfevents.0000000000.curvwatch.hparams"
METRICS = ("curvature/stability_ratio", "curvature/sharpness", "curvature/loss")
# the page shows the first five columns, those that are said to differ before others
_SHOWN = ("class", "lr", "momentum", "beta1", "weight_decay")
# columns for the values of other runs, as TensorBoard reads the list of one run alone
_OF_OTHERS: dict[str, float | str | bool] = {
    "class": "",
    "lr": 0.0,
    "momentum": 0.0,
    "nesterov": False,
    "beta1": 0.0,
    "beta2": 0.0,
    "alpha": 0.0,
    "eps": 0.0,
    "weight_decay": 0.0,
}

# of protobuf's values, as api.proto numbers them
_KINDS = {"string_value": 1, "bool_value": 2, "number_value": 3}


def add_to_hparams(
    experiment: Any, hyperparameters: Mapping[str, float | str | bool], *, left_to_user: bool = False
) -> None:
    """Add `hyperparameters` to the row of a run.

    Args:
        experiment: a SummaryWriter.
        hyperparameters: names and values; those that are in the row already stay as they are.
        left_to_user: whether a run without a row gets none.
    """
    if not hasattr(experiment, "log_dir") or find_spec("tensorboard") is None:
        return  # tensorboardX, where Lightning finds nothing better
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    experiment.flush()
    folder = Path(experiment.log_dir)
    start, listed = _logged_before(folder)
    is_new = start is None
    if is_new and left_to_user:
        return
    if is_new:
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in hyperparameters.items():
        if name not in start.hparams:
            _set(start.hparams[name], value)
    listed = _with_columns(listed, start, hyperparameters)
    summaries = [
        _summary(metadata.EXPERIMENT_TAG, experiment=listed),
        _summary(metadata.SESSION_START_INFO_TAG, session_start_info=start),
    ]
    if is_new:
        for summary in summaries:
            experiment._get_file_writer().add_summary(summary)  # as Lightning's logger does
    else:
        _write_first(folder, summaries)


def _logged_before(folder: Path) -> tuple[Any, Any]:
    """The hyperparameters and the list of columns that TensorBoard takes from `folder`, or None."""
    from tensorboard.plugins.hparams import metadata

    start = listed = None
    for value in _values(folder):
        content = value.metadata.plugin_data.content
        if value.tag == metadata.SESSION_START_INFO_TAG and start is None:
            start = metadata.parse_session_start_info_plugin_data(content)
        elif value.tag == metadata.EXPERIMENT_TAG and listed is None:
            listed = metadata.parse_experiment_plugin_data(content)
        if start is not None and listed is not None:
            break
    return start, listed


def _values(folder: Path) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for file in sorted(folder.glob("*tfevents*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.HasField("summary"):
                yield from event.summary.value


def _with_columns(listed: Any, start: Any, ours: Mapping[str, float | str | bool]) -> Any:
    """The list of columns: what was `listed`, and ours."""
    from tensorboard.plugins.hparams import api_pb2

    if listed is None:
        listed = api_pb2.Experiment()
        for name, value in start.hparams.items():
            if name not in ours:
                listed.hparam_infos.add(name=name, type=_KINDS[value.WhichOneof("kind")])
    wanted = {**{f"optimizer/{n}": v for n, v in _OF_OTHERS.items()}, **ours}
    for info in listed.hparam_infos:
        info.differs |= info.name not in wanted
    there = {info.name for info in listed.hparam_infos}
    for name, value in wanted.items():
        if name not in there:
            kind = "bool_value" if isinstance(value, bool) else "number_value"
            kind = "string_value" if isinstance(value, str) else kind
            differs = name.rpartition("/")[2] in _SHOWN
            listed.hparam_infos.add(name=name, type=_KINDS[kind], differs=differs)
    there = {info.name.tag for info in listed.metric_infos}
    for tag in METRICS:
        if tag not in there:
            listed.metric_infos.add(name=api_pb2.MetricName(tag=tag))
    return listed


def _set(value: Any, given: float | str | bool) -> None:
    if isinstance(given, bool):
        value.bool_value = given
    elif isinstance(given, str):
        value.string_value = given
    else:
        value.number_value = given


def _summary(tag: str, **content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString()
    )
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
    return Summary(value=[value])


def _write_first(folder: Path, summaries: list[Any]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    with (folder / FIRST).open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for summary in summaries:
            records.write(Event(wall_time=now, summary=summary).SerializeToString())
        records.flush()
