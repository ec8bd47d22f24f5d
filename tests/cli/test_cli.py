"""The command as a process: its exit status, and pipes that nobody reads to their end."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import pytest

from curvwatch import CurvwatchError, cli
from tests.support.studies import only


def run_as(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Let `curvwatch it` call `run`."""

    def add(commands: Any) -> None:
        commands.add_parser("it").set_defaults(run=run)

    monkeypatch.setattr(cli, "COMMANDS", (add,))


@contextmanager
def unread() -> Iterator[TextIO]:
    """Standard output is a pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream, redirect_stdout(stream):
        yield stream


def fail(_: Any) -> None:
    raise CurvwatchError("there is nothing")


@pytest.mark.parametrize(("run", "status"), [(fail, 1), (lambda _: None, 0)])
def test_the_module_exits_as_the_command_does(monkeypatch, capsys, run, status):
    run_as(monkeypatch, run)
    monkeypatch.setattr(sys, "argv", ["curvwatch", "it"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("curvwatch", run_name="__main__")
    assert exit_.value.code == status
    assert capsys.readouterr().err == "curvwatch: there is nothing\n" * status


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_went_ends_it_quietly(monkeypatch, capsys, lines):
    run_as(monkeypatch, lambda _: print("line\n" * lines))
    with unread() as stream:
        assert cli.main(["it"]) == 1
        stream.flush()  # as the interpreter does at its end
    assert capsys.readouterr().err == ""


def test_help_that_nobody_reads_ends_quietly():
    with unread() as stream:
        assert cli.main(["--help"]) == 1
        stream.flush()


def test_another_pipe_that_broke_is_a_mistake(monkeypatch):
    def run(_: Any) -> None:
        raise BrokenPipeError("a worker's")

    run_as(monkeypatch, run)
    with pytest.raises(BrokenPipeError, match="a worker's"):
        cli.main(["it"])


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    only(
        [
            (["--help"], 0, "measures"),
            (["measures"], 1, "`curvwatch measures` needs rich: pip install 'curvwatch[report]'"),
            (["compare", "runs"], 1, "`curvwatch compare` needs rich and PyYAML: pip install"),
            (
                ["demo"],
                1,
                "`curvwatch demo` needs scikit-learn and rich: pip install 'curvwatch[demo]'",
            ),
        ],
        take=["--help", "compare"],
        key=lambda case: case[0][0],
    ),
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_without_the_extras_a_command_names_the_one_it_needs(arguments, status, expected):
    program = (
        "import sys, importlib.util as util; find = util.find_spec;"
        "missing = ('rich', 'yaml', 'jinja2', 'plotext', 'sklearn', 'matplotlib');"
        "sys.modules.update(dict.fromkeys(missing));"
        "util.find_spec = lambda name: None if name in missing else find(name);"
        "from curvwatch.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
