"""The machine: cores and memory, with the limits of control groups; the CPU; CUDA devices."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ovlabel.doctor.report import Report, one_line, size

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def cores() -> str:
    """The cores that this process may use, and the CPU quota of its control groups."""
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else count
    pairs = [line.split() for line in _limits("cpu.max")]
    pairs += [list(pair) for pair in zip(_limits("cpu.cfs_quota_us"), _limits("cpu.cfs_period_us"))]
    quota = min((int(pair[0]) / int(pair[1]) for pair in pairs if pair[0].isdigit()), default=usable)
    return f"{usable} usable of {count}" + (f", a quota of {quota:g} (cgroup)" if quota < usable else "")


def memory() -> str:
    """The memory of the machine, what is available, and the limit of the control groups."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [*_limits("memory.max"), *_limits("memory.limit_in_bytes")]
    limit = min((int(line) for line in limits if line.isdigit()), default=total)
    free = [int(line.split()[1]) for line in _lines(PROC / "meminfo") if line.startswith("MemAvailable:")]
    available = f", {size(free[0] * 1024)} available" if free else ""
    return f"{size(total)}{available}" + (f", a limit of {size(limit)} (cgroup)" if limit < total else "")


def _limits(name: str) -> list[str]:
    """The first lines of the files `name` of this process's control groups and of the groups around them.

    Both versions of control groups are read. "max" (version 2) and -1 (version 1) mean that there is no limit.
    """
    found = []
    for controllers, group in (line.split(":", 2)[1:] for line in _lines(PROC / "self" / "cgroup")):
        for base in controllers.split(","):  # "" in version 2
            for inside in (Path(group), *Path(group).parents):
                found += _lines(CGROUPS / base / str(inside).lstrip("/") / name)[:1]
    return found


def _lines(path: Path) -> list[str]:
    """The lines of a system file; none where it does not exist."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").splitlines()
    return []


def cpu() -> str:
    """The model of the CPU, and whether it computes in bf16."""
    facts = {name.strip(): text.strip() for name, _, text in (x.partition(":") for x in _lines(PROC / "cpuinfo"))}
    flags = set(f"{facts.get('flags', '')} {facts.get('Features', '')}".split())
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    bf16 = f"native bf16 ({', '.join(native)})" if native else "no native bf16" if flags else "bf16 not known"
    return f"{facts.get('model name') or platform.machine()}, {bf16}"


def cuda(report: Report) -> str:
    """The number of CUDA devices, each of which is checked too; torch's warning about a driver becomes a problem."""
    torch = import_module("torch")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for warning in caught:
        if warning.category is UserWarning:
            report.problems.append(f"CUDA: {one_line(warning.message)}; repair the driver, or pass --device cpu")
    for index in range(count):
        report.check("devices", f"cuda:{index}", partial(_cuda_device, torch, index))
    return f"{count}" if count else "none" if torch.version.cuda else "none (this torch is built without CUDA)"


def _cuda_device(torch: Any, index: int) -> str:
    """The name and memory of a device, after a computation on it: torch raises where it has no code for the device."""
    torch.ones(1, device=f"cuda:{index}").add(1).cpu()
    free, total = torch.cuda.mem_get_info(index)
    return f"{torch.cuda.get_device_name(index)}, {size(total)}, {size(free)} free"
