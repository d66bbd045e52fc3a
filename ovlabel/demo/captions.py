"""The texts on which the embedded model is trained: names, synonyms, templates and captions. Used by `train`.

Some combinations are held out, so that tests can measure how the model generalises: the colour-thing pairs of
`scenes.HELD_OUT`, every second template of the 80, and every second colour of a synonym.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ovlabel.demo.scenes import CLASSES, HELD_OUT, PAIR_CLASSES, PAIRS, REGIONS
from ovlabel.demo.textures import pick
from ovlabel.demo.things import COLOURS
from ovlabel.text.templates import load_templates

SYNONYMS = {
    "sky": "heavens", "grass": "lawn", "sand": "beach", "water": "sea", "road": "street", "mountain": "hill",
    "brick wall": "bricks", "concrete wall": "concrete", "wooden floor": "parquet", "tiled floor": "tiles",
    "metal": "steel", "carpet": "rug", "ball": "sphere", "box": "crate", "house": "cottage", "car": "automobile",
    "boat": "ship", "mushroom": "toadstool", "umbrella": "parasol", "flower": "blossom", "rocket": "spaceship",
}  # fmt: skip
TRAINED_PAIRS = tuple(pair for pair in PAIRS if pair not in HELD_OUT)
# Training uses every second of the 80 templates, and synonyms of things with every second colour only.
TEMPLATES = (*load_templates("imagenet80").by_kind["thing"][::2], "{}.", "{}", "the {}", "a {}")
SYNONYM_TEMPLATES = TEMPLATES[::2]
SYNONYM_COLOURS = tuple(COLOURS)[::2]
_JOINTS = (", ", " and ", " with ", " next to ")


def class_prompts(random: Generator) -> list[str]:
    """A random prompt for each of CLASSES, three in ten with a synonym."""
    return [_prompt(random, name, random.random() < 0.3) for name in CLASSES]


def pair_prompts(random: Generator) -> list[str]:
    """A random prompt for each of TRAINED_PAIRS, such as "a photo of a red ball."."""
    return [_pair_prompt(random, colour, thing) for colour, thing in TRAINED_PAIRS]


def colour_prompts(random: Generator) -> list[str]:
    """A random prompt for each colour, such as "a photo of a red thing."."""
    return [_filled(random, TEMPLATES, f"{colour} {pick(random, ('thing', 'object'))}") for colour in COLOURS]


def caption(random: Generator, pairs: NDArray[np.uint8]) -> str:
    """A random sentence that names up to four of the classes in a crop of a scene.

    Args:
        random: the source of random numbers.
        pairs: uint8, h × w, indices in PAIR_CLASSES. Regions below 6 % of the crop and pairs below 1 % are not named.
    """
    present, counts = np.unique(pairs, return_counts=True)
    share = counts / pairs.size
    names = []
    for index in present[share > np.where(present < len(REGIONS), 0.06, 0.01)]:
        if index < len(REGIONS):
            names.append(_synonym(random, REGIONS[index], 0.3))
        else:
            colour, thing = PAIRS[index - len(REGIONS)]
            other = _synonym(random, thing, 0.3 * (colour in SYNONYM_COLOURS))
            names.append(f"a {colour} {other}" if random.random() < 0.8 else f"a {other}")
    random.shuffle(names)
    sentence = str(names[0]) if names else PAIR_CLASSES[present[counts.argmax()]]
    for name in names[1 : random.integers(2, 5)]:
        sentence += pick(random, _JOINTS) + name
    return sentence + "."


def _prompt(random: Generator, name: str, synonym: bool) -> str:
    if synonym and name in SYNONYMS:
        return _filled(random, SYNONYM_TEMPLATES, SYNONYMS[name])
    return _filled(random, TEMPLATES, name)


def _pair_prompt(random: Generator, colour: str, thing: str) -> str:
    if colour in SYNONYM_COLOURS and thing in SYNONYMS and random.random() < 0.3:
        return _filled(random, SYNONYM_TEMPLATES, f"{colour} {SYNONYMS[thing]}")
    return _filled(random, TEMPLATES, f"{colour} {thing}")


def _synonym(random: Generator, name: str, chance: float) -> str:
    return SYNONYMS.get(name, name) if random.random() < chance else name


def _filled(random: Generator, templates: Sequence[str], name: str) -> str:
    return pick(random, templates).replace("{}", name)
