"""The ids of images in COCO's JSON. They do not depend on which other images there are."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ovlabel.errors import ConfigError, printable, short
from ovlabel.files import read_up_to

log = logging.getLogger("ovlabel")

_NUMBER = re.compile(r"(?:COCO_\w+_)?([0-9]{1,15})")  # names of COCO: 000000000139, COCO_val2014_000000000139
_BYTES = 2 * 2**30  # of a JSON; the largest that is published has half of it
_HALF = 2**52  # ids from hashes lie from here up to 2**53, which every reader of JSON can tell apart


def image_ids(keys: Sequence[str], given: Path | None) -> dict[str, int]:
    """An id for every image.

    It is the one in the given JSON; else the number that the image is named by, unless two images are named by one
    number; else a hash of the key.

    Args:
        keys: of all images.
        given: a COCO JSON whose `images` say ids by file name.

    Returns:
        Key → id, 0 … 2⁵³ − 1, all different.

    Raises:
        ConfigError: the JSON can't be read, says two ids of one name, or knows none of the images.
    """
    ids = _known(keys, given) if given else {}
    numbers = {key: int(found[1]) for key in keys if (found := _NUMBER.fullmatch(PurePosixPath(key).stem))}
    count, taken = Counter(numbers.values()), set(ids.values())
    for key in keys:
        if key not in ids:
            number = numbers.get(key, -1)
            ids[key] = number if count[number] == 1 and number not in taken else _hashed(key, taken)
            taken.add(ids[key])
    return ids


def _hashed(key: str, taken: set[int]) -> int:
    """A number from a key, that is not taken."""
    digest = hashlib.sha256(os.fsencode(key)).digest()
    number = _HALF + int.from_bytes(digest[:8], "big") % _HALF
    while number in taken:
        number = _HALF + (number + 1) % _HALF
    return number


def _known(keys: Sequence[str], path: Path) -> dict[str, int]:
    """The ids that a JSON gives images, by key: by the whole path, or by the file's name where only one has it."""
    given = _read(path)
    last = Counter(name.rpartition("/")[2] for name in given)
    by_last = {name.rpartition("/")[2]: number for name, number in given.items()}
    found: dict[str, int] = {}
    for key in keys:
        name = _plain(key)
        file = name.rpartition("/")[2]
        if name in given or last[file] == 1:
            found[key] = given.get(name, by_last[file])
    if twice := [key for key, times in _owners(found).items() if len(times) > 1]:
        first, second, *_ = _owners(found)[twice[0]]
        raise ConfigError(f"{path}: {printable(first)} and {printable(second)} would both be image {twice[0]}")
    if keys and not found:
        raise ConfigError(f"{path} knows none of the images; it has {short(next(iter(given), 'none'))}")
    if missing := len(keys) - len(found):
        log.warning("%s does not know %d of %d images; these get ids of their own", path, missing, len(keys))
    return found


def _owners(ids: dict[str, int]) -> dict[int, list[str]]:
    """Id → keys."""
    owners: dict[int, list[str]] = {}
    for key, number in ids.items():
        owners.setdefault(number, []).append(key)
    return owners


def _read(path: Path) -> dict[str, int]:
    """File name → id, of the images of a COCO JSON."""
    ids: dict[str, int] = {}
    for entry in _entries(path):
        name, number = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or type(number) is not int or not 0 <= number < 2 * _HALF:
            raise ConfigError(f"{path}: {short(entry)} in its images has no file_name and id (a whole number from 0)")
        if ids.setdefault(_plain(name), number) != number:
            raise ConfigError(f"{path} gives {printable(name)} two ids: {ids[_plain(name)]} and {number}")
    return ids


def _entries(path: Path) -> list[Any]:
    """The list `images` of a COCO JSON."""
    try:
        table = json.loads(read_up_to(path, _BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no valid JSON: {short(error)}") from None
    images = table.get("images") if isinstance(table, dict) else None
    if not isinstance(images, list):
        raise ConfigError(f"{path} has no list of images, as COCO's annotations have")
    return images


def _plain(name: str) -> str:
    """A file name with slashes, and accents written in one way."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))
