"""A program whose output nobody can read keeps its exit status and says nothing of tracebacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchrl_td.experiment.cli import main

pytestmark = pytest.mark.stranger("machines")
PROGRAM = """
import sys
from torchrl import torchrl_logger
from torchrl_td.experiment.cli import main
from torchrl_td.experiment.streams import write_to
def program():
    torchrl_logger.info("12.5 ± 3")
    write_to(sys.stdout, "12.5 ± 3\\n" * 10_000)
main(program)
sys.stderr and sys.stderr.write("ended")
"""


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", "| true", "> /dev/full", "> FILE 2>&-"])
def test_a_broken_stream_costs_nothing(redirection: str, tmp_path: Path) -> None:
    redirection = redirection.replace("FILE", str(tmp_path / "out"))
    command = f'set -o pipefail; PYTHONIOENCODING=ascii "{sys.executable}" - {redirection}'
    done = subprocess.run(
        ["bash", "-c", command], input=PROGRAM, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "rror" not in done.stderr
    if str(tmp_path) in redirection:
        text = (tmp_path / "out").read_text()
        assert "\033" not in text and "12.5 \\xb1 3" in text


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
