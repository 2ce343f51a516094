"""Who is asking: whose conversations, whether they may change the machine, and which language they read.

The guard in front of the page decides and writes two headers that no client can send through it; this file only reads
them. Knows nothing about cookies, tokens or how either is checked.
"""

import gradio as gr

from backend.errors import CriaError, Refused
from backend.text import pick_language

_PRIVATE = frozenset({"log", "path", "folder", "kept", "file", "source"})  # values an error may carry
VISITOR, ADMIN = "x-cria-visitor", "x-cria-admin"


def owner(request: gr.Request) -> str:
    """Return the visitor's unguessable name, under which their conversations are kept.

    Raises:
        Refused: the guard gave none; without a name conversations could not be told apart.
    """
    name = str(request.headers.get(VISITOR) or "")
    if not name:
        raise Refused("ui.no_visitor")
    return name


def is_admin(request: gr.Request) -> bool:
    """Tell whether the visitor may change the machine: set up, load, unload, delete."""
    return bool(request.headers.get(ADMIN) == "1")


def require_admin(request: gr.Request) -> None:
    """Let administrators through.

    Raises:
        Refused: the visitor is none.
    """
    if not is_admin(request):
        raise Refused("ui.not_admin")


def for_everybody(problem: CriaError) -> CriaError:
    """Return an error without what only administrators may read: the engine's log, and folders of this machine."""
    return CriaError("ui.for_admins") if _PRIVATE & problem.params.keys() else problem


def language(request: gr.Request) -> str:
    """Return the language of the page: the visitor's choice, else what the browser asks for."""
    chosen = dict(request.cookies or {}).get("lang")
    return pick_language(chosen, request.headers.get("accept-language"))
