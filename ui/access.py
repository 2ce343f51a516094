"""Who is asking: whose conversations, whether they may change the machine, and which language they read.

The guard in front of the page decides and writes headers that no client can send through it; this file only reads
them. Knows nothing about cookies, tokens or how either is checked.
"""

import gradio as gr

from backend.errors import PRIVATE, CriaError, Refused
from backend.text import pick_language

VISITOR, ADMIN, PLACE = "x-cria-visitor", "x-cria-admin", "x-cria-place"


def owner(request: gr.Request) -> str:
    """Return the visitor's unguessable name, under which their conversations are kept.

    Raises:
        Refused: the guard gave none; without a name conversations could not be told apart.
    """
    name = str(request.headers.get(VISITOR) or "")
    if not name:
        raise Refused("ui.no_visitor")
    return name


def place(request: gr.Request) -> str:
    """Return where the visitor comes from: an address or a network, empty for this machine itself."""
    return str(request.headers.get(PLACE) or "")


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
    return CriaError("ui.for_admins") if PRIVATE & problem.params.keys() else problem


def language(request: gr.Request) -> str:
    """Return the language of the page: the visitor's choice, else what the browser asks for."""
    chosen = dict(request.cookies or {}).get("lang")
    return pick_language(chosen, request.headers.get("accept-language"))
