"""Pillow and libtiff, kept within a limit of pixels and kept from writing on stderr."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
import warnings
from collections.abc import Callable

from PIL import Image, _imaging

MAX_PIXELS = 2**28  # an even number, because Pillow refuses images above twice the limit that it is given


class Limits:
    """While code runs inside, Pillow's limit is MAX_PIXELS, and it and libtiff print nothing on stderr.

    These settings hold for the whole process. The first thread that enters makes them, the last that leaves restores
    them; `warnings.catch_warnings` in each of several threads could restore what another thread had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._set()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.close()

    def _set(self) -> None:
        self._before.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self._before.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses images above twice this number
        logger, handler = logging.getLogger("PIL"), logging.NullHandler()  # without one, errors are printed on stderr
        logger.addHandler(handler)
        self._before.callback(logger.removeHandler, handler)
        if handle_errors := _libtiff_error_handler():
            self._before.callback(handle_errors, handle_errors(None))


@functools.cache
def _libtiff_error_handler() -> Callable[[int | None], int | None] | None:
    """libtiff's function that sets its error handler (None: none) and returns the one before; None on Windows."""
    try:
        setter = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler  # found through Pillow's own dependencies
    except (AttributeError, OSError):
        return None
    setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return setter


limits = Limits()
