"""Lines of several processes in one terminal or log."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WRITERS = {
    "write_line": "from nested_reft.runtime.lines import write_line; write_line('a line')",
    "progress": "from nested_reft.runtime.progress import Progress; Progress('job').log('a line')",
    "error": "from nested_reft.cli import main; main(['plan', '--config', 'none.yaml'])",
}


@pytest.mark.parametrize("code", WRITERS.values(), ids=WRITERS)
def test_a_line_is_one_write_in_an_unbuffered_python(code: str) -> None:
    """As torchrun starts it. A packet of this kind of pipe is one write."""
    reading, writing = os.pipe2(os.O_DIRECT)
    subprocess.run([sys.executable, "-u", "-c", code], stdout=subprocess.DEVNULL, stderr=writing, check=True)
    os.close(writing)
    packets = []
    while packet := os.read(reading, 65536):
        packets.append(packet.decode())
    os.close(reading)
    assert len(packets) == 1, packets
    assert packets[0].endswith("\n")
