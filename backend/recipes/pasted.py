"""What a person pasted where a source is asked for: a link without its scheme, or the command line of a tutorial.

    git clone https://huggingface.co/ORG/MODEL        huggingface-cli download ORG/MODEL --revision REV
    git lfs clone https://.../ORG/MODEL.git           modelscope download --model ORG/MODEL

Only where the bytes are is taken over; folders and tokens in such a line are not. Knows nothing about networks.
"""

import re
import shlex
from collections.abc import Sequence

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SSH = re.compile(r"git@(hf\.co|huggingface\.co):(.+)")
_HOSTS = ("huggingface.co/", "www.huggingface.co/", "hf.co/", "hf-mirror.com/", "modelscope.cn/", "www.modelscope.cn/")
_WITH_VALUE = ("--revision", "--local-dir", "--local_dir", "--cache-dir", "--cache_dir", "--token", "--repo-type",
               "--local-dir-use-symlinks", "--include", "--exclude", "--max-workers", "--depth", "--branch",
               "-b")  # fmt: skip
_LONGEST = 4000


def understood(text: str) -> str:
    """Return the source that a text means, in the words that every other part understands; any other text as it is."""
    bare = text.strip().removeprefix("$ ").removeprefix("!").strip()
    if len(bare) <= _LONGEST and re.search(r"\s", bare):
        bare = _command(bare) or bare
    if ssh := _SSH.fullmatch(bare):
        bare = f"https://huggingface.co/{ssh[2]}"
    if bare.startswith(_HOSTS):
        bare = f"https://{bare}"
    return re.sub(r"\.git/?$", "", bare) if bare.startswith("https://") else bare


def _command(line: str) -> str | None:
    """Return what a command line fetches; None where it is no command that is known."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quotation mark alone: a path, perhaps
        return None
    while words and (_ASSIGNMENT.fullmatch(words[0]) or words[0] == "sudo"):
        words = words[1:]
    match words:
        case ["git", "clone", *rest] | ["git", "lfs", "clone", *rest]:
            return _first(rest, r"(https://|git@).+", "")
        case [("huggingface-cli" | "hf"), "download", *rest]:
            return _first(rest, _NAME.pattern, _revision(rest))
        case ["modelscope", "download", *rest]:
            found = _value(rest, "--model") or _first(rest, _NAME.pattern, "")
            return f"modelscope:{found}{_revision(rest)}" if found else None
        case _:
            return None


def _first(words: Sequence[str], pattern: str, behind: str) -> str | None:
    """Return the first word of that form that belongs to no option, with something behind it."""
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in _WITH_VALUE:
            skip = True
        elif re.fullmatch(pattern, word):
            return word + behind
    return None


def _value(words: Sequence[str], option: str) -> str:
    for place, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and place + 1 < len(words):
            return words[place + 1]
    return ""


def _revision(words: Sequence[str]) -> str:
    found = _value(words, "--revision")
    return f"@{found}" if found else ""
