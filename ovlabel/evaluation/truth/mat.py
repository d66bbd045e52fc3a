"""PASCAL-Context's MATLAB files: the 459 labels as published, one `.mat` an image (Mottaghi et al., CVPR 2014)."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.evaluation.truth._pictures import check_size
from ovlabel.files import read_up_to

_BYTES = 16 * 2**20  # of one file, at most


def read_mat(path: Path) -> NDArray[np.int64]:
    """The variable `LabelMap` of a MATLAB file, H × W.

    Raises:
        ValueError: the file is no MATLAB file, holds no LabelMap, or one that is no matrix of finite numbers.
        OSError: the file can't be read, or is larger than 16 MiB.
    """
    from scipy.io import loadmat, whosmat  # imported here: scipy.io takes longer to import than all else in this file

    file: Any = io.BytesIO(read_up_to(path, _BYTES))
    try:
        for _, shape, _ in whosmat(file):
            check_size(math.prod(shape), 1)
        held = loadmat(file, variable_names=["LabelMap"])
    except Exception as error:  # scipy raises errors of many kinds on a damaged file
        raise ValueError(f"no MATLAB file ({error})") from None
    if "LabelMap" not in held:
        raise ValueError("it holds no LabelMap, which PASCAL-Context's files do")
    values = held["LabelMap"]
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"its LabelMap is {values.dtype} of {values.shape}, where h × w numbers are wanted")
    return as_ids(values)


def as_ids(values: NDArray[Any]) -> NDArray[Any]:
    """Ids as integers in the order of bytes of this machine; those that are integers already are not copied.

    Raises:
        ValueError: a value is no whole number.
    """
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind != "f":
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise ValueError("it holds values that are no whole numbers")
    return values.clip(-1, 2**31).astype(np.int64)
