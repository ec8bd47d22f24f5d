"""Scalars of an event file, many at a time.

Events of one tag differ in time, step and value alone, so one of them is parsed, and all that are
equal to it in every other byte are taken without. What is alike to no other is parsed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from curvwatch.report.logs.event_records import Records

# an event: 0x09 and the time (8 bytes), 0x10 and the step (7 bits a byte) unless it is 0, 0x2a and
# the summary; that of one scalar ends with 0x15 and the value (4 bytes)
_TIME, _STEP, _SUMMARY, _VALUE = 0x09, 0x10, 0x2A, 0x15
_LONGEST = 512
# of one length; more kinds than this are no scalars, or too few of each to gain anything
_KINDS = 64


class Scalars(NamedTuple):
    """Values of one tag, in the order of the file."""

    tag: str
    steps: np.ndarray  # (n,) int64
    values: np.ndarray  # (n,) float64
    times: np.ndarray  # (n,) float64, seconds since 1970


def alike_scalars(
    data: bytes, records: Records, parse: Callable[[bytes], Any]
) -> tuple[list[Scalars], list[Any]]:
    """The scalars that come many at a time, and all other events, parsed.

    Args:
        data: the file.
        records: in it.
        parse: from the bytes of an event to its message; an event that it refuses is left out.
    """
    content = np.frombuffer(data, dtype=np.uint8)
    scalars: list[Scalars] = []
    others: list[tuple[int, Any]] = []

    def parse_one(start: int, length: int) -> Any:
        try:
            event = parse(data[start : start + length])
        except Exception:  # its checksum was not looked at, or another program wrote it
            return None
        return event

    for length in np.unique(records.lengths):
        starts = records.starts[records.lengths == length]
        size, kinds = int(length), 0
        rows = content[starts[:, None] + np.arange(size)] if size <= _LONGEST else None
        while len(starts):
            event = parse_one(int(starts[0]), size)
            fixed = None
            if rows is not None and kinds < _KINDS and event is not None:
                fixed = _fixed_bytes(rows[0], event)
            if rows is None or fixed is None:
                if event is not None:
                    others.append((int(starts[0]), event))
                starts, rows = starts[1:], rows if rows is None else rows[1:]
                continue
            kinds += 1
            alike = ((rows & fixed) == (rows[0] & fixed)).all(axis=1)
            scalars.append(_read(event.summary.value[0].tag, rows[alike], fixed))
            starts, rows = starts[~alike], rows[~alike]
    return scalars, [event for _, event in sorted(others, key=lambda other: other[0])]


def _fixed_bytes(row: np.ndarray, event: Any) -> np.ndarray | None:
    """(length,) masks of what an alike event has in common; None: `event` is not of this kind."""
    values = event.summary.value
    if len(values) != 1 or values[0].WhichOneof("value") != "simple_value":
        return None
    if len(row) < 16 or row[0] != _TIME or row[-5] != _VALUE:
        return None
    mask = np.full(len(row), 0xFF, dtype=np.uint8)
    mask[1:9] = mask[-4:] = 0
    begin = 9
    if row[9] == _STEP:
        more = np.flatnonzero(row[10:20] < 0x80)
        if not len(more):
            return None
        begin = 11 + int(more[0])
        mask[10:begin] = 0x80
    if row[begin] != _SUMMARY:
        return None
    _, steps, found, times = _read("", row[None], mask)
    same = np.float32(found[0]) == np.float32(values[0].simple_value) or np.isnan(found[0])
    return mask if same and steps[0] == event.step and times[0] == event.wall_time else None


def _read(tag: str, rows: np.ndarray, mask: np.ndarray) -> Scalars:
    steps = np.zeros(len(rows), dtype=np.uint64)
    for place, column in enumerate(np.flatnonzero(mask == 0x80)):
        steps |= (rows[:, column] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    times = np.ascontiguousarray(rows[:, 1:9]).view("<f8")[:, 0]
    values = np.ascontiguousarray(rows[:, -4:]).view("<f4")[:, 0]
    return Scalars(tag, steps.view(np.int64), values.astype(np.float64), times.astype(np.float64))


def single_scalars(event: Any, to_array: Callable[[Any], np.ndarray]) -> Iterator[Scalars]:
    """The scalars of an event that was parsed by itself, of the old and the new kind."""
    for value in event.summary.value:
        kind, number = value.WhichOneof("value"), np.nan
        if kind == "simple_value":
            number = value.simple_value
        elif kind == "tensor" and value.metadata.plugin_data.plugin_name == "scalars":
            number = float(to_array(value.tensor))
        else:
            continue
        yield Scalars(
            value.tag,
            np.asarray([event.step], dtype=np.int64),
            np.asarray([number], dtype=np.float64),
            np.asarray([event.wall_time], dtype=np.float64),
        )
