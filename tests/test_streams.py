"""A program whose output nobody can read keeps its exit status and says nothing of tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchrl_td.experiment.cli import main

pytestmark = pytest.mark.stranger("machines")
PROGRAM = """
import os, sys
from torchrl import torchrl_logger
from torchrl_td.experiment.cli import main
from torchrl_td.experiment.streams import write_to
def program():
    torchrl_logger.info("12.5 ± 3")
    write_to(sys.stdout, "12.5 ± 3\\n" * 10_000)
"""
# With streams that break later on, forked from one program, for to import all takes seconds.
FORKED = """
def unread():
    reads, writes = os.pipe()
    os.close(reads)
    os.dup2(writes, 1)
def full():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
def unheard():
    os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT), 1)
    os.close(2)
    sys.stderr = None
def left():
    full()
def printing():
    print("as hydra prints its help")
for break_it in (unread, full, unheard, left):
    child = os.fork()
    if not child:
        os.dup2(os.open(break_it.__name__, os.O_WRONLY | os.O_CREAT), 2)
        break_it()
        main(printing if break_it is left else program)
        sys.stderr and sys.stderr.write("ended")
        sys.exit()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(break_it.__name__, status, flush=True)
"""


def started(program: str, folder: Path, redirection: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        # Buffered, as programs are: what is left is written at the very end.
        ["bash", "-c", f'unset PYTHONUNBUFFERED; "{sys.executable}" - {redirection}'],
        input=program,
        cwd=folder,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_broken_stream_costs_nothing(tmp_path: Path) -> None:
    done = started(PROGRAM + FORKED, tmp_path)
    assert done.stdout.split() == [*("unread", "0", "full", "0", "unheard", "0", "left", "0")], (
        done.stderr
    )
    for name in ("unread", "full", "left"):
        said = (tmp_path / name).read_text()
        assert "Traceback" not in said and "rror" not in said and said.endswith("ended"), said
    text = (tmp_path / "out").read_text()
    assert "\033" not in text and "12.5 \\xb1 3" in text


@pytest.mark.slow
def test_no_stream_costs_nothing(tmp_path: Path) -> None:
    done = started(PROGRAM + 'main(program)\nopen("ended", "w")\n', tmp_path, ">&- 2>&-")
    assert done.returncode == 0 and (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_out_of_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture) -> None:
    def program() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main(program)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory") and "training.batch_size" in line
