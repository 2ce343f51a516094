"""A recipe from what a person typed, in a form or after flags. Knows nothing about files."""

import re
from collections.abc import Iterable

from backend.errors import UsageError
from backend.recipes.pasted import understood
from backend.recipes.recipe import ADAPTER, Part, Recipe, check_name


def custom_recipe(
    name: str,
    *,
    base: str,
    delta: str | None = None,
    loras: Iterable[str] = (),
    template: str | None = None,
    rule: str = "auto",
    dtype: str | None = None,
    layout: str = "huggingface",
) -> Recipe:
    """Build a recipe from what a person typed; a LoRA may carry its scale as ``SOURCE:0.5``.

    ``rule``, ``dtype`` and ``layout`` are one of ``RULES``, ``DTYPES`` and ``LAYOUTS``.

    Raises:
        UsageError: a name that cannot be a folder's, or a scale that is no number.
    """
    return Recipe(
        name=check_name(name),
        title={"en": name},
        base=Part(understood(base)),
        delta=Part(understood(delta), rule=rule) if delta else None,
        loras=tuple(typed_lora(lora) for lora in loras),
        template=template,
        dtype=dtype,
        layout=layout,
    )


def typed_lora(text: str) -> Part:
    """Return the ingredient that a person typed as ``SOURCE`` or ``SOURCE:SCALE``.

    Raises:
        UsageError: a scale that is no number.
    """
    text = understood(text)
    source, colon, scale = text.rpartition(":")
    if colon and re.fullmatch(r"\d+(\.\d+)?", scale):
        return Part(source, float(scale), layout=ADAPTER)
    if colon and not re.search(r"[/\\]", scale):  # what is left of a path or an address has a slash
        raise UsageError("recipes.bad_scale", scale=scale[:40], source=source[:120])
    return Part(text, layout=ADAPTER)
