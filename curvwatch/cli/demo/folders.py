"""The folders that the demo logs to, and how it knows which are its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from curvwatch.errors import CurvwatchError

MARKER = "made-by-curvwatch-demo"


def fresh_folders(folders: Iterable[Path]) -> None:
    """Make `folders` empty but for a marker; what an earlier demo left in them is deleted.

    Raises:
        CurvwatchError: one holds something and no marker, so the demo did not make it; nothing has
            been deleted then.
    """
    folders = list(folders)
    for folder in folders:
        if folder.exists() and not _is_ours(folder):
            raise CurvwatchError(
                f"{folder} is in the way, and no earlier demo made it: choose another --dir"
            )
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARKER).write_text("`curvwatch demo` replaces this folder when it runs again.\n")


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MARKER).exists() or not any(folder.iterdir()))
