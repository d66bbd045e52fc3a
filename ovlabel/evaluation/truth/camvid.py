"""CamVid as published: `*_L.png`, in which a colour stands for one of 32 classes (Brostow et al., 2009).

They are read as the 11 classes of the SegNet version (Badrinarayanan et al., 2017), the ones that are scored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovlabel.evaluation.truth._pictures import open_picture
from ovlabel.evaluation.truth.masks import open_masks
from ovlabel.evaluation.truth.nouns import Convention, Truth, TruthClass

_COLOURS = (  # by class of the SegNet version: the colours, RRGGBB, of the published classes that it takes in
    "808080",  # Sky
    "008040 800000 40c000 400040 c00080",  # Bridge, Building, Wall, Tunnel, Archway
    "c0c080 000040",  # Column_Pole, TrafficCone
    "804080 8000c0 c00040",  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    "0000c0 40c080 8080c0",  # Sidewalk, ParkingBlock, RoadShoulder
    "808000 c0c000",  # Tree, VegetationMisc
    "c08080 808040 004040",  # SignSymbol, Misc_Text, TrafficLight
    "404080",  # Fence
    "400080 4080c0 c080c0 c04080 804040",  # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    "404000 c08040 4000c0 408040",  # Pedestrian, Child, CartLuggagePram, Animal
    "0080c0 c000c0",  # Bicyclist, MotorcycleScooter
    "000000",  # Void, which is ignored
)
_CLASS_OF = {int(colour, 16): index for index, row in enumerate(_COLOURS) for colour in row.split()}


def open_at(place: Path, convention: Convention, own: tuple[TruthClass, ...]) -> Truth:
    """Open a folder of coloured masks; arguments and errors as in `open_truth`."""
    return open_masks(place, convention, own, read_colours)


def read_colours(_: str, path: Path) -> NDArray[np.int64]:
    """The class of every pixel, H × W: 0 … 10, 11 where the pixel is void.

    Raises:
        ValueError: the file is no coloured picture, or holds a colour that is not one of the 32.
    """
    with open_picture(path) as picture:
        if picture.mode not in ("RGB", "P"):
            raise ValueError(f"it is {picture.mode}, where colours are wanted; the SegNet version is --truth camvid")
        packed = np.asarray(picture.convert("RGB")).astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours, where = np.unique(packed, return_inverse=True)
    strange = [f"#{colour:06x}" for colour in colours.tolist() if colour not in _CLASS_OF]
    if strange:
        raise ValueError(f"the colour {strange[0]} is none of CamVid's 32")
    return np.array([_CLASS_OF[colour] for colour in colours.tolist()])[where].reshape(packed.shape)
