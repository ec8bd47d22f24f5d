"""The records of a TensorBoard event file, and the scalars in them.

A record is its length (8 bytes), a checksum of these, the data, and a checksum of the data.
tensorboard makes the checksums byte by byte in Python; here they are made for all
records of a file together.

Scalar events of one tag differ in time, step and value alone, so one of them is parsed, and the values
of all that equal it in every other byte are taken from their places. The rest are parsed one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

_LENGTH = Struct("<Q").unpack_from
# a longer record is an image or the like, and its checksum would take seconds
_CHECKED_BYTES = 2048
# an event: 0x09 and the time (8 bytes), 0x10 and the step (7 bits a byte) unless it is 0, 0x2a and
# the summary; that of one scalar ends with 0x15 and the value (4 bytes)
_TIME, _STEP, _SUMMARY, _VALUE = 0x09, 0x10, 0x2A, 0x15
# in bytes; longer events are parsed one by one
_LONGEST_SCALAR = 512
# of events of one length: where there are more, they are no scalars, or few of each
_MOST_KINDS = 64


class Records(NamedTuple):
    """Whole records of a file."""

    starts: np.ndarray  # (n,) int64, of the data of each
    lengths: np.ndarray  # (n,) int64, in bytes
    problems: tuple[str, ...]


class Scalars(NamedTuple):
    """Values of one tag, in the order of the file."""

    tag: str
    steps: np.ndarray  # (n,) int64
    values: np.ndarray  # (n,) float64
    times: np.ndarray  # (n,) float64, seconds since 1970


def find_records(data: bytes) -> Records:
    """The whole records of `data`; whatever else is in it is named in `problems`."""
    starts, lengths, at, end = [], [], 0, len(data)
    while at + 12 <= end:
        (length,) = _LENGTH(data, at)
        if at + 16 + length > end:
            break
        starts.append(at + 12)
        lengths.append(length)
        at += 16 + length
    problems = []
    begins = np.asarray([*starts, at + 12] if at + 12 <= end else starts, dtype=np.int64)
    content = np.frombuffer(data, dtype=np.uint8)
    heads = begins - 12
    bad = np.flatnonzero(
        _checksums(content, heads, np.full(len(heads), 8)) != _read_uint32(content, begins - 4)
    )
    if len(bad):
        problems.append(f"damaged at byte {heads[bad[0]]} of {end}: what comes after it cannot be read")
        del starts[bad[0] :], lengths[bad[0] :]
    elif at < end:
        problems.append("ends in the middle of a record: the run was cut off, or is still writing")
    where, sizes = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    small = np.flatnonzero(sizes <= _CHECKED_BYTES)
    wrong = small[
        _checksums(content, where[small], sizes[small]) != _read_uint32(content, (where + sizes)[small])
    ]
    if len(wrong):
        problems.append(f"{len(wrong)} damaged records are left out")
        where, sizes = np.delete(where, wrong), np.delete(sizes, wrong)
    return Records(where, sizes, tuple(problems))


def _read_uint32(data: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The little-endian 32-bit numbers at `at`."""
    four: np.ndarray = data[at[:, None] + np.arange(4)]
    return np.ascontiguousarray(four).view("<u4")[:, 0]


def _checksums(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(n,) uint32, the masked CRC-32C of the `lengths` bytes at `starts`, byte by byte for all."""
    order = np.argsort(-lengths, kind="stable")
    at, sizes = starts[order], lengths[order]
    crc = np.full(len(at), 0xFFFFFFFF, dtype=np.uint32)
    longer_than = np.searchsorted(-sizes, -np.arange(sizes[0] if len(sizes) else 0), side="left")
    for byte, n in enumerate(longer_than):
        now = crc[:n]
        crc[:n] = _TABLE[(now ^ data[at[:n] + byte]) & 0xFF] ^ (now >> 8)
    crc ^= 0xFFFFFFFF
    result = np.empty_like(crc)
    result[order] = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    return result


def _table() -> np.ndarray:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(0x82F63B78), crc >> 1)
    return crc.astype(np.uint32)


_TABLE = _table()


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
        except Exception:  # its checksum was not checked, or another program wrote it
            return None
        return event

    for length in np.unique(records.lengths):
        starts = records.starts[records.lengths == length]
        size, kinds = int(length), 0
        rows = content[starts[:, None] + np.arange(size)] if size <= _LONGEST_SCALAR else None
        while len(starts):
            event = parse_one(int(starts[0]), size)
            fixed = None
            if rows is not None and kinds < _MOST_KINDS and event is not None:
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
    _, steps, numbers, times = _read("", row[None], mask)
    same = np.float32(numbers[0]) == np.float32(values[0].simple_value) or np.isnan(numbers[0])
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
