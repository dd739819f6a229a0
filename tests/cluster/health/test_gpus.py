"""GPUs: every way in which a card, its driver and torch fail to meet is told from the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.health.gpus import Gpus, check_gpus, look_for_gpus

WELL = Gpus(cards=2, devices=2, driver="580.82.07", torch_cuda="13.0", usable=2)
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def test_gpus_that_compute_and_machines_without_any_are_fine() -> None:
    assert check_gpus(Gpus(), needed=False).found == "none"
    found = check_gpus(WELL, needed=True)
    assert (found.verdict, found.found) == ("OK", "torch computes on 2; driver 580.82.07, CUDA 13.0")


def test_gpus_that_are_hidden_on_purpose_are_told_and_no_concern() -> None:
    found = check_gpus(replace(WELL, visible="1", usable=1), needed=True)
    assert (found.verdict, "1 of 2 (CUDA_VISIBLE_DEVICES=1)" in found.found) == ("OK", True)


@pytest.mark.parametrize(
    ("gpus", "found", "fix"),
    [
        (Gpus(cards=1), "no device in /dev", "--gpus all"),
        (replace(WELL, torch_cuda=None, usable=0), "built without CUDA", "an index with CUDA"),
        (replace(WELL, visible="", usable=0), "all hidden", "unset CUDA_VISIBLE_DEVICES"),
        (replace(WELL, visible="-1", usable=0), "all hidden", "unset CUDA_VISIBLE_DEVICES"),
        (replace(WELL, visible="-1,0", usable=0), "all hidden", "unset CUDA_VISIBLE_DEVICES"),
        (replace(WELL, usable=0, fault=TOO_OLD), TOO_OLD, "Update a driver"),
        (replace(WELL, usable=1, fault="no kernel image is available"), "no kernel image", "nvidia-smi"),
    ],
)
def test_what_keeps_torch_from_a_gpu_is_a_concern_and_fails_a_job_that_asks_for_one(
    gpus: Gpus, found: str, fix: str
) -> None:
    unasked, asked = check_gpus(gpus, needed=False), check_gpus(gpus, needed=True)

    assert (unasked.verdict, unasked.exit_code) == ("WARN", 0)
    assert (asked.verdict, asked.exit_code) == ("FAIL", 3)
    assert found in asked.found
    assert fix in asked.fix


def test_a_job_that_asks_for_a_gpu_fails_where_there_is_none() -> None:
    found = check_gpus(Gpus(), needed=True)
    assert (found.verdict, found.found) == ("FAIL", "none")
    assert "train.gpus_per_worker" in found.fix


def test_cards_are_counted_on_the_bus_and_devices_where_the_driver_puts_them(tmp_path: Path) -> None:
    bus, devices = tmp_path / "bus", tmp_path / "dev"
    cards = {"nvidia": ("0x10de", "0x030200"), "its-sound": ("0x10de", "0x040300"), "other": ("0x1002", "0x030000")}
    for name, (vendor, kind) in cards.items():
        (bus / name).mkdir(parents=True)
        (bus / name / "vendor").write_text(f"{vendor}\n")
        (bus / name / "class").write_text(f"{kind}\n")
    devices.mkdir()

    assert look_for_gpus({"CUDA_VISIBLE_DEVICES": "0"}, devices=devices, bus=bus) == Gpus(cards=1, visible="0")

    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Wed Aug 27 2025\nGCC version: 12.2.0")
    found = look_for_gpus({}, devices=devices, bus=bus, driver=driver)
    assert (found.devices, found.driver) == (2, "580.82.07")
    assert look_for_gpus({}, devices=devices, bus=bus, driver=tmp_path / "none").driver == ""
