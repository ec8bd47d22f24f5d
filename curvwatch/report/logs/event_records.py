"""The records of an event file: where they are, and which are whole.

A record is its length (8 bytes), a checksum of these, the data, and a checksum of the data.
tensorboard makes the checksums byte by byte in Python; here they are made for all
records of a file together.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

import numpy as np

_LENGTH = Struct("<Q").unpack_from
# a longer one is an image or the like, and its checksum would take seconds
_CHECKED_BYTES = 2048


class Records(NamedTuple):
    """Whole records of a file."""

    starts: np.ndarray  # (n,) int64, of the data of each
    lengths: np.ndarray  # (n,) int64, in bytes
    problems: tuple[str, ...]


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
    found = np.frombuffer(data, dtype=np.uint8)
    heads = begins - 12
    bad = np.flatnonzero(_checksums(found, heads, np.full(len(heads), 8)) != _stored(found, begins - 4))
    if len(bad):
        problems.append(f"damaged at byte {heads[bad[0]]} of {end}: what comes after it cannot be read")
        del starts[bad[0] :], lengths[bad[0] :]
    elif at < end:
        problems.append("ends in the middle of a record: the run was cut off, or is still writing")
    where, sizes = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    small = np.flatnonzero(sizes <= _CHECKED_BYTES)
    wrong = small[
        _checksums(found, where[small], sizes[small]) != _stored(found, (where + sizes)[small])
    ]
    if len(wrong):
        problems.append(f"{len(wrong)} damaged records are left out")
        where, sizes = np.delete(where, wrong), np.delete(sizes, wrong)
    return Records(where, sizes, tuple(problems))


def _stored(data: np.ndarray, at: np.ndarray) -> np.ndarray:
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
