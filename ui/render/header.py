"""The page's header: name, language, theme, and the administrator's door on a shared server. Pure text; no gradio."""

from backend.text import LANGUAGES, say
from ui.render.markup import esc

_LOGO = (
    '<svg class="logo" viewBox="0 0 64 64" aria-hidden="true"><rect width="64" height="64" rx="15"/><path d="M21 27'
    "c-3-5-4-12-1-17 4 2 6 6 7 11 2-1 4-1 6-1 1-5 4-9 8-11 2 5 1 12-2 17l8 8c3 3 3 7 0 9-2 2-5 3-9 3h-4v12H18V34"
    'c0-3 1-5 3-7z"/><circle cx="31.5" cy="32" r="2.6"/></svg>'
)
_HALF = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="9"/><path d="M12 3a9 9 0 0 1 0 18z"/></svg>'
)


def header_html(language: str, *, shared: bool, admin: bool) -> str:
    """Return the header. ``shared``: the app listens for others, so being administrator takes a token."""
    return (
        f'<header class="top" data-clear="{esc(say(language, "chat.clear_sure"))}">'
        f"<h1>{_LOGO}{esc(say(language, 'ui.name'))}"
        f"<small>{esc(say(language, 'ui.tagline'))}</small></h1>"
        f"<nav>{_door(language, admin=admin) if shared else ''}{_languages(language)}{_theme(language)}</nav></header>"
    )


def _languages(language: str) -> str:
    options = "".join(
        f'<option value="{code}" lang="{code}"{" selected" if code == language else ""}>{esc(name)}</option>'
        for code, name in LANGUAGES.items()
    )
    name = esc(say(language, "ui.language"))
    said = f'aria-label="{name}" title="{name}"'
    return f'<select id="language" {said} onchange="cria.speak(this.value)">{options}</select>'


def _theme(language: str) -> str:
    name = esc(say(language, "ui.theme"))
    said = f'aria-label="{name}" title="{name}"'
    return f'<button type="button" id="theme" class="quiet" {said} onclick="cria.swapTheme()">{_HALF}</button>'


def _door(language: str, *, admin: bool) -> str:
    """Return the token form for strangers, or the way out for administrators."""
    if admin:
        leave = esc(say(language, "ui.admin.leave"))
        return f'<button type="button" id="leave" class="quiet" onclick="cria.logout()">{leave}</button>'
    words = {key: esc(say(language, f"ui.admin.{key}")) for key in ("open", "token", "enter", "wrong", "wait", "why")}
    return (
        f'<details id="admin"><summary>{words["open"]}</summary>'
        f'<form onsubmit="cria.login(event)" data-wrong="{words["wrong"]}" data-wait="{words["wait"]}">'
        f'<p>{words["why"]}</p><label for="token">{words["token"]}</label>'
        f'<input id="token" name="token" type="password" autocomplete="current-password" required>'
        f'<button type="submit" class="act primary">{words["enter"]}</button>'
        '<output role="alert"></output></form></details>'
    )
