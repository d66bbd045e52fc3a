"""Reading the manual's Markdown: its pages, blocks of code, headings, tables and commands. For `test_docs`."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_NOT_OURS = {"build", "dist"}
MANUAL = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(
        part in _NOT_OURS or part.endswith((".zarr", ".egg-info")) or (part.startswith(".") and part != ".github")
        for part in path.relative_to(ROOT).parts[:-1]
    )
)
_FENCE = re.compile(r"^ *(?P<mark>```+|~~~+)\s*(?P<language>[\w-]*)\s*$")
LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_OPERATORS = {"&&", "||", "|", ";", "&", "(", ")"}
_REDIRECTION = re.compile(r"[<>]+&?")


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and the line on which its first line stands."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a Markdown file."""
    begun, mark, language = 0, "", ""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if not mark and fence:
            begun, mark, language = number, fence["mark"], fence["language"]
        elif mark and line.strip() == mark:
            yield Block(path, begun + 1, language, textwrap.dedent("\n".join(lines[begun : number - 1])) + "\n")
            mark = ""
    assert not mark, f"{path}:{begun}: a block of code has no end"


def prose(path: Path) -> list[str]:
    """The lines of a Markdown file outside of its blocks; those inside are empty."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for block in blocks(path):
        for number in range(block.line - 2, block.line + block.text.count("\n")):
            lines[number] = ""
    return lines


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown file."""
    found, seen = set(), Counter[str]()
    for line in prose(path):
        if heading := re.match(r"#{1,6} +(.*?)[ #]*$", line):
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
            seen[anchor] += 1
    return found


def named(path: Path) -> str:
    """A test's name for a file."""
    return path.relative_to(ROOT).as_posix()


def of(*languages: str) -> list[Block]:
    """Every block of the manual in one of these languages."""
    return [block for path in MANUAL for block in blocks(path) if block.language in languages]


def files_with(*languages: str) -> list[Path]:
    """Every file of the manual with a block in one of these languages."""
    return sorted({block.path for block in of(*languages)})


def first_columns(path: Path, count: int) -> list[tuple[str, ...]]:
    """The first cells of every row of every table, without code marks."""
    rows = [line.strip().strip("|").split("|") for line in prose(path) if line.startswith("|")]
    return [tuple(cell.strip().strip("`") for cell in row[:count]) for row in rows]


def statements(block: Block) -> Iterator[tuple[int, str]]:
    """(line, text) of every command of a block; one that goes on behind a backslash is one."""
    text, begun = "", block.line
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        begun = begun if text else number
        text += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield begun, text
            text = ""


def ovlabel_calls(line: str) -> list[list[str]]:
    """The arguments of every `ovlabel …` in a line of shell, cron or systemd; redirections are left out."""
    calls: list[list[str]] = []
    inside, before = False, ""
    for word in _words(line):
        if word in _OPERATORS:
            inside = False
        elif not inside and Path(word).name == "ovlabel":
            inside = True
            calls.append([])
        elif inside and not _REDIRECTION.fullmatch(word) and not _REDIRECTION.fullmatch(before):
            calls[-1].append(word)
        before = word
    return calls


def _words(line: str) -> list[str]:
    plain = re.sub(r"\b\d+(?=>)", "", line.removeprefix("ExecStart="))  # 2>> is a redirection like >>
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="();|&<>")
    lexer.whitespace_split = True
    return list(lexer)
