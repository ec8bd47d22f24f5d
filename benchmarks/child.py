"""A measurement in a process of its own, for its peak memory."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_begun: list[int] = []


def in_child(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """What `module.function(**arguments)` returns in a fresh process.

    Returns:
        The result and, in bytes, "base": the resident memory when `begin` was called last; "peak":
        the most since then. "failed" alone where the process did.
    """
    run = "from benchmarks.child import main; main()"
    command = [sys.executable, "-c", run, module, function, json.dumps(arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"failed": lines[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def begin() -> None:
    """What is measured begins here: forget the peak of what went before."""
    _begun.clear()
    with suppress(OSError):  # Linux alone can forget
        Path("/proc/self/clear_refs").write_text("5")
    _begun.append(peak_bytes())


def limit_memory(size: float) -> None:
    """More than `size` bytes is an error here, and no trouble for other processes."""
    with suppress(OSError, ValueError):  # where the system has no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (int(size), int(size)))


def peak_bytes() -> int:
    """The largest resident size of this process, since `begin` where that can be had."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss of a child begins at what its parent had when it was started
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Run one function and print its result as one line of JSON."""
    module, function, arguments = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    call = getattr(importlib.import_module(module), function)
    begin()
    result = call(**json.loads(arguments))
    print(json.dumps({"base": _begun[0], "peak": peak_bytes(), **result}))
