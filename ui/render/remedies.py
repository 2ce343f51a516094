"""What most likely helps against an error that ended a set-up: one button, from one table. Pure; no gradio.

A key of the table is an error's key, or an area with a dot at its end for all of its errors; the class of the error
decides about the rest. ``remedy`` draws the button with the fields it needs; what it means is ``ui.wiring``'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.errors import CriaError, EngineError, SourceError, WeightsError
from backend.text import say
from ui.render.markup import button, esc, field


class Fix(StrEnum):
    """What a button against an error does. The value is what it reports."""

    RETRY = "resume"  # go on from where it stopped
    TOKEN = "resume-token"  # noqa: S105 - go on with an access token
    FREE = "resume-free"  # delete unused downloads, then go on
    LEAN = "resume-lean"  # go on, removing each source once it is used
    RENAME = "resume-named"  # go on under another name
    UNTRIED = "resume-untried"  # go on without trying the model out
    MEND = "mend"  # look at the plan again and take a part from elsewhere
    ANEW = "anew"  # delete what is left and begin again


FIXES: Mapping[str, Fix] = {
    "download.gated": Fix.TOKEN,
    "download.gated_token": Fix.TOKEN,
    "plan.licence_first": Fix.TOKEN,
    "plan.licence_only": Fix.TOKEN,
    "download.token_refused": Fix.TOKEN,
    "download.not_found": Fix.MEND,
    "download.no_revision": Fix.MEND,
    "download.no_file": Fix.MEND,
    "download.no_weights": Fix.MEND,
    "download.in_folders": Fix.MEND,
    "download.legal": Fix.MEND,
    "download.wrong_bytes": Fix.MEND,
    "download.no_length": Fix.MEND,
    "download.bad_listing": Fix.MEND,
    "download.not_a_hub": Fix.MEND,
    "download.private": Fix.MEND,
    "download.changed": Fix.ANEW,
    "download.disk_full": Fix.FREE,
    "archive.disk": Fix.FREE,
    "weights.disk_full": Fix.FREE,
    "job.disk_full": Fix.FREE,
    "disk.full": Fix.FREE,
    "plan.disk": Fix.FREE,
    "lean.disk": Fix.LEAN,
    "lean.more_room": Fix.FREE,
    "lean.again": Fix.RETRY,
    "weights.target_exists": Fix.RENAME,
    "plan.exists": Fix.RENAME,
    "job.same_name": Fix.RENAME,
    "job.lost_folder": Fix.ANEW,
    "engine.no_folder": Fix.ANEW,  # somebody deleted what was made before it could be tried out
    "weights.hash_differs": Fix.RETRY,  # what was written is read back wrong: a second try writes it anew
    "steps.try_timeout": Fix.UNTRIED,
    "engine.": Fix.UNTRIED,
    "ops.": Fix.UNTRIED,
    "download.": Fix.RETRY,
    "proxy.": Fix.RETRY,
    "sources.": Fix.MEND,
    "archive.": Fix.MEND,
}
_CLASSES: tuple[tuple[type[CriaError], Fix], ...] = (
    (EngineError, Fix.UNTRIED),
    (SourceError, Fix.MEND),
    (WeightsError, Fix.MEND),
)


@dataclass(frozen=True)
class Means:
    """What the machine has to offer: bytes of downloads that nothing needs, whether this job's own could go on the way,
    and a name that is free.
    """

    unused_bytes: int = 0
    can_be_lean: bool = False
    free_name: str = ""


def fix_for(error: CriaError, means: Means) -> Fix:
    """Return the likeliest way out of an error here."""
    found = FIXES.get(error.key) or FIXES.get(error.key.partition(".")[0] + ".")
    if found is None:
        found = next((fix for kind, fix in _CLASSES if isinstance(error, kind)), Fix.RETRY)
    if found is Fix.FREE and not means.unused_bytes:
        return Fix.LEAN if means.can_be_lean else Fix.RETRY
    return found


def remedy(error: CriaError, job: str, language: str, means: Means) -> str:
    """Return the one button against an error, with the field it needs."""
    fix = fix_for(error, means)
    words = say(language, f"wizard.fix.{fix.name.lower()}", bytes=means.unused_bytes)
    needed = ""
    if fix is Fix.TOKEN:
        needed = field(
            say(language, "fetchui.token"), "token", kind="password", hint=say(language, "wizard.token_info")
        )
    if fix is Fix.RENAME:
        needed = field(say(language, "setup.plan.name"), "name", value=means.free_name)
    confirm = say(language, "wizard.fix.anew_sure") if fix is Fix.ANEW else ""
    press = button(words, fix, job, primary=True, confirm=confirm, enter=bool(needed))
    return f'<div class="fix" data-form="fix" data-fix="{esc(fix)}">{needed}{press}</div>'
