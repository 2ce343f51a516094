"""What a recipe is: where base, delta and LoRAs come from, what comes out, and what is known of it beforehand.

Plain values. Knows nothing about files, machines or networks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend.dimensions import Dimensions
from backend.errors import UsageError
from backend.recipes.pasted import understood

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DTYPES = ("float16", "bfloat16", "float32")
META = "meta"  # the layout of consolidated.NN.pth
ADAPTER = "adapter"  # the layout of a LoRA's folder
LAYOUTS = ("huggingface", META)
RULES = ("auto", "zero", "mean")  # what a delta's extra embedding rows are added to


@dataclass(frozen=True)
class Part:
    """One ingredient: a folder, a repository, or ``builtin:PATH`` under ``assets/``.

    ``scale`` is for LoRAs (None: as trained), ``rule`` for deltas. ``alternatives`` hold the same model elsewhere and
    are asked in order when ``source`` cannot be had. ``bytes`` are those of its weights (None: not known), ``access``
    the page where one asks to be let in (empty: nobody has to), ``sha256`` published sums of its files by name.
    """

    source: str
    scale: float | None = None
    rule: str = "auto"
    alternatives: tuple[str, ...] = ()
    bytes: int | None = None
    layout: str = "huggingface"
    access: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[str, ...]:
        """Every source that will do, the best first."""
        return (self.source, *self.alternatives)

    def at(self, source: str) -> "Part":
        """Return this ingredient from a place of one's own, of which nothing is known beforehand."""
        return Part(understood(source), self.scale, self.rule, layout=self.layout)


@dataclass(frozen=True)
class Recipe:
    """What to make. ``title``, ``about``, ``good_for`` and ``licence`` map a language to text; English is there.

    Recipes of one ``family`` are sizes of one model; ``size`` is what people call it, such as "7B". ``parameters`` is
    the exact number of them, ``shape`` what they make up; both are of the finished model.
    """

    name: str
    title: Mapping[str, str]
    base: Part
    delta: Part | None = None
    loras: tuple[Part, ...] = ()
    template: str | None = None  # None: detected from evidence
    about: Mapping[str, str] = field(default_factory=dict)
    good_for: Mapping[str, str] = field(default_factory=dict)
    licence: Mapping[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    parameters: int | None = None
    context: int | None = None
    questions: str | None = None  # a JSON file beside the sources, with questions to suggest
    dtype: str | None = None  # number format of the result; None: the base's
    layout: str = "huggingface"  # or "meta": consolidated.NN.pth for programs that want those
    recommended: bool = False
    order: int = 2  # a person's own come after the demo, before what everybody has
    family: str = ""
    size: str = ""
    shape: Dimensions | None = None
    tags: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every ingredient, in the order they are used."""
        return (self.base, *([self.delta] if self.delta else []), *self.loras)

    @property
    def access(self) -> str:
        """The page where access has to be asked for first; empty if nobody has to."""
        return next((part.access for part in self.parts if part.access), "")

    def text(self, which: Mapping[str, str], language: str) -> str:
        """Return one of the texts in a language, else in English, else nothing."""
        return which.get(language) or which.get("en", "")

    def with_sources(
        self, *, base: str | None = None, delta: str | None = None, loras: Sequence[Part | str] = ()
    ) -> "Recipe":
        """Return this recipe with ingredients of one's own in place of the named ones; what is not given stays.

        Raises:
            UsageError: a delta for a recipe without one, or another number of LoRAs than it has.
        """
        if delta and self.delta is None:
            raise UsageError("recipes.no_delta", recipe=self.name)
        if loras and len(loras) != len(self.loras):
            raise UsageError("recipes.other_loras", recipe=self.name, count=len(self.loras), given=len(loras))
        return replace(
            self,
            base=self.base.at(base) if base else self.base,
            delta=self.delta.at(delta) if delta and self.delta else self.delta,
            loras=tuple(map(_own_lora, self.loras, loras)) if loras else self.loras,
        )


def _own_lora(theirs: Part, mine: Part | str) -> Part:
    """Return a LoRA from a place of one's own, at the scale that was given with it, else at the recipe's."""
    own = mine if isinstance(mine, Part) else Part(mine)
    return replace(theirs.at(own.source), scale=theirs.scale if own.scale is None else own.scale)


def check_name(name: str) -> str:
    """Return a model or recipe name that is safe as a folder name.

    Raises:
        UsageError: anything but lower-case letters, digits, dot, underscore and hyphen, 64 characters at most.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError("recipes.bad_name", name=name[:80])
    return name
