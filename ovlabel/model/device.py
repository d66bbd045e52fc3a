"""The device and the precision in which the encoder computes: `encoder.device` and `encoder.precision`."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import torch

from ovlabel.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: "cpu", "cuda", "cuda:N", "mps", or "auto": CUDA if there is any, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: an unknown name, or a device that this machine does not have.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"encoder.device = {name}: devices are auto, cpu, cuda, cuda:N and mps")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"[.\n]", str(error))[0]
        raise ConfigError(f"encoder.device = {name}: this machine has none ({reason})") from None
    return torch.device(name)


def pick_precision(device: torch.device) -> str:
    """The precision of "auto": "bf16" if the device computes in it, else "fp16" on GPUs and "fp32" on CPUs."""
    if device.type == "cpu":
        flags = set()
        with contextlib.suppress(OSError):
            flags = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
        return "bf16" if flags & {"avx512_bf16", "amx_bf16", "bf16"} else "fp32"
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp16"
