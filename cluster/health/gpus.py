"""GPUs: the cards of this machine, the driver's devices, and what torch can do with them."""

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.findings import Finding, concern, failure, fine

_NVIDIA, _DISPLAY = "0x10de", "0x03"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpus:
    """What is known of NVIDIA's GPUs here."""

    cards: int = 0
    """On the bus of the machine, whether or not this process may use them."""
    devices: int = 0
    """That the driver offers to this process."""
    driver: str = ""
    """Its version; empty if unknown."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    torch_cuda: str | None = None
    """The CUDA that torch was built with; None for a build without."""
    usable: int = 0
    """On which torch has computed."""
    fault: str = ""
    """Why it could not on the others."""


def look_for_gpus(
    environment: Mapping[str, str] = os.environ,
    *,
    devices: Path = Path("/dev"),
    bus: Path = Path("/sys/bus/pci/devices"),
    driver: Path = Path("/proc/driver/nvidia/version"),
) -> Gpus:
    """Look for GPUs; torch is imported, which takes seconds, only where there is a device for it."""
    num_cards = sum(_is_nvidia(card) for card in bus.glob("*"))
    num_devices = len(list(devices.glob("nvidia[0-9]*")))
    visible = environment.get(_VISIBLE)
    if not num_devices:
        return Gpus(num_cards, visible=visible)
    build, usable, fault = _tried_by_torch()
    return Gpus(num_cards, num_devices, _version_of(driver), visible, build, usable, fault)


def check_gpus(gpus: Gpus, *, needed: bool) -> Finding:
    """Judge them; what is wrong is a failure for a job that asks for a GPU, else a concern."""
    if not (gpus.cards or gpus.devices or needed):
        return fine("GPUs", "none")
    if trouble := _trouble(gpus):
        return (failure if needed else concern)("GPUs", *trouble)
    share = f"{gpus.usable} of {gpus.devices}" if gpus.usable < gpus.devices else f"{gpus.usable}"
    by = "" if gpus.visible is None else f" ({_VISIBLE}={gpus.visible})"
    return fine("GPUs", f"torch computes on {share}{by}; {_driver(gpus)}, CUDA {gpus.torch_cuda}")


def _trouble(gpus: Gpus) -> tuple[str, str] | None:
    """Return what is wrong and what to do, if anything is."""
    if not gpus.cards and not gpus.devices:
        return "none", "Run where there is one, or ask for none (resources.gpu, train.gpus_per_worker)."
    if not gpus.devices:
        return (
            f"{gpus.cards} NVIDIA card(s) and no device in /dev",
            "Install NVIDIA's driver, or start the container with its GPUs (docker run --gpus all).",
        )
    if gpus.torch_cuda is None:
        return (
            f"{gpus.devices} device(s), and torch was built without CUDA",
            "pip install --force-reinstall torch from an index with CUDA (https://pytorch.org/get-started).",
        )
    if gpus.visible is not None and not _shown(gpus.visible):
        return f"{gpus.devices} device(s), all hidden by {_VISIBLE}={gpus.visible!r}", f"unset {_VISIBLE}"
    if gpus.fault:
        return (
            f"{gpus.devices} device(s), {_driver(gpus)}; torch (CUDA {gpus.torch_cuda}) fails: {gpus.fault}",
            "Update a driver that is too old, or install a torch for an older CUDA; else see `nvidia-smi` and `dmesg`.",
        )
    return None


def _driver(gpus: Gpus) -> str:
    return f"driver {gpus.driver or 'unknown'}"


def _shown(visible: str) -> bool:
    """Return whether any device is left: CUDA stops reading at the first name that is none."""
    first = visible.split(",", maxsplit=1)[0].strip()
    return bool(first) and first not in {"-1", "NoDevFiles"}


def _is_nvidia(card: Path) -> bool:
    try:
        vendor, kind = ((card / name).read_text().strip() for name in ("vendor", "class"))
    except OSError:
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY)


def _version_of(driver: Path) -> str:
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", driver.read_text())
    except OSError:
        return ""
    return found[0] if found else ""


def _tried_by_torch() -> tuple[str | None, int, str]:
    """Return the CUDA of torch, the number of devices on which it can add, and why it cannot on the next one."""
    try:
        import torch
    except (ImportError, OSError) as error:  # missing, or built for another machine
        return None, 0, str(error)
    if torch.version.cuda is None:
        return None, 0, ""
    usable = 0
    with warnings.catch_warnings(action="ignore"):  # the error that follows says the same
        try:
            torch.cuda.init()
            for number in range(torch.cuda.device_count()):
                torch.ones(2, device=f"cuda:{number}").sum().item()
                usable += 1
        except (AssertionError, RuntimeError) as error:
            return torch.version.cuda, usable, str(error).splitlines()[0]
    return torch.version.cuda, usable, ""
