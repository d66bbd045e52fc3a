"""Names of classes that look as if a file had been read wrongly: numbering, comments, quotes, brackets, markers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ovlabel.errors import short

_ODD = [  # what a name looks like, and what is said of it; the first that fits is said
    (r"\d+", "is a number"),
    (r"\d+(\s*[:.)=|\]]|\s+)\s*\D.*", "begins with a number"),
    (r"(#|//|--|/\*|%|;).*|.*\s(#|//)(\s.*)?", "looks like a comment"),
    (r"[-*•>]\s.*", "begins with a bullet"),
    (r"_.*_|<.*>", "is a marker of a labelling tool"),
    (r""".*["“”„«»`].*|'.*|.*'""", "has quotation marks"),
    (r".*[\[\]{}<>].*|\(.*|[^(]*\)", "has brackets"),
    (r".*\.(jpe?g|png|tiff?|txt|ya?ml|json|csv|tsv|toml|xml|names)", "is the name of a file"),
    (r".*(://|www\.).*", "is an address"),
    (r".*[:=|\\;,].*", "has a mark that lists use between entries"),
    (r"null|none|nan|n/?a|true|false|yes|no|on|off|undefined|\?+|-+|\.+", "stands for no thing"),
    (r"void|unlabell?ed|ignored?|ignore[ _-]?(region|label)?|unknown|others?|misc|dontcare", "stands for no class"),
    ("name|names|class|classes|label|labels|id|index", "is the head of a table"),
    (".*[\u00a0\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff].*", "holds a letter that is not seen"),
    (".*(\ufffd|Ã.|â€).*", "holds letters of another encoding"),
    (r".{61,}", "is as long as a sentence"),
]
_PATTERNS = [(re.compile(pattern, re.IGNORECASE | re.DOTALL), saying) for pattern, saying in _ODD]
_NAMED = 4  # names that a sentence gives


def odd_names(names: Iterable[str]) -> list[str]:
    """Look for names that hardly are names.

    Args:
        names: what is asked of the model.

    Returns:
        A sentence for each way in which names are odd, with the first few of them.

    Example:
        >>> odd_names(["cat", "0: dog"])
        ["'0: dog' begins with a number; every letter of it is asked of the model"]
    """
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        saying = next((saying for pattern, saying in _PATTERNS if pattern.fullmatch(name)), None)
        if saying is not None:
            found.setdefault(saying, []).append(name)
    return [_sentence(saying, own) for saying, own in found.items()]


def _sentence(saying: str, names: list[str]) -> str:
    if len(names) == 1:
        return f"'{short(names[0])}' {saying}; every letter of it is asked of the model"
    shown = ", ".join(f"'{short(name)}'" for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{shown}{more}: each {saying}; every letter of them is asked of the model"
