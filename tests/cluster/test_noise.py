"""What others write goes to a file, ours to where it went before."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.noise import noise_in, own_descriptor


def test_only_our_own_lines_reach_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with own_descriptor(sys.stderr) as ours, noise_in(tmp_path / "noise"):
        os.write(2, b"raylet: noise\n")
        subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
        print("ours", file=ours)
    os.write(2, b"after\n")

    assert capfd.readouterr() == ("", "ours\nafter\n")
    assert (tmp_path / "noise").read_text() == "raylet: noise\na child\n"


def test_the_terminal_is_ours_again_after_an_error_and_the_file_grows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with noise_in(tmp_path / "noise"):
            os.write(1, b"noise\n")
            raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            fail()
    os.write(1, b"after\n")

    assert capfd.readouterr().out == "after\n"
    assert (tmp_path / "noise").read_text() == "noise\nnoise\n"


def test_a_stream_without_a_descriptor_is_used_as_it_is() -> None:
    stream = io.StringIO()
    with own_descriptor(stream) as ours:
        assert ours is stream


def test_the_descriptor_is_closed_again(capfd: pytest.CaptureFixture[str]) -> None:
    with own_descriptor(sys.stderr) as ours:
        number = ours.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    assert capfd.readouterr().err == ""
