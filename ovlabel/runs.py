"""Whether a store was written by the run at hand, and what differs if not. Neither torch nor zarr is needed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovlabel.errors import RunError
from ovlabel.store import Store


def check_folder(store: Store, folder: Path) -> None:
    """Raise RunError if the store belongs to another folder that is still there; one that has moved is the same."""
    if store.folder.is_dir() and not os.path.samefile(store.folder, folder):
        raise RunError(f"{store.path} belongs to the folder {store.folder}, not to {folder}. Pass another --out")


def check_run(store: Store, run: dict[str, Any]) -> None:
    """Raise RunError, naming the fields that differ, unless the store was written by this run."""
    differing = differences(store.run, run)
    if differing:
        shown = "; ".join(differing[:6]) + ("; …" if len(differing) > 6 else "")
        raise RunError(f"{store.path} belongs to another run: {shown}. Pass another --out, or the settings of that run")


def differences(stored: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """ "key: there in the store, here now", for every leaf that differs."""
    found = []
    for key in dict.fromkeys([*stored, *here]):
        name, old, new = prefix + key, stored.get(key), here.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name}.")
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) > 4:
            place = next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
            found.append(f"{name}[{place}]: {_short(old[place])} in the store, {_short(new[place])} here")
        else:
            found.append(f"{name}: {_short(old)} in the store, {_short(new)} here")
    return found


def _short(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(v, Mapping) and "use" in v for v in value):
        parts = (v["use"] + "".join(f" {k}={w}" for k, w in v.items() if k != "use") for v in value)
        return f"[{', '.join(parts)}]"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}…"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
