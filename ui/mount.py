"""Puts the page on a given ASGI app: environment, head, style, icon, language. Imports gradio only when asked to.

Knows nothing about what the page shows; the guard around the app is somebody else's.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from backend.services import Services
from backend.settings import ASSETS, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

ICON = ASSETS / "icon.svg"


def prepare_environment(settings: Settings) -> None:
    """Tell gradio, before it is imported, to call nobody, to keep its files private and to keep few statistics."""
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        HF_HUB_DISABLE_TELEMETRY="1",
        GRADIO_TEMP_DIR=str(settings.temp_dir / "gradio"),
        GRADIO_RUN_HISTORY="False",
        # After every queued event gradio rebuilds a table of the last 10,000; a page that polls would pay for it.
        GRADIO_ANALYTICS_CACHE_FREQUENCY="1000000",
        GRADIO_ANALYTICS_MAX_EVENTS="100",
    )


def page_head() -> str:
    """Return what goes into the page's head: our scripts, inline, so that they run before anything else does."""
    scripts = sorted((ASSETS / "js").glob("*.js"))
    return "".join(f"<script>{script.read_text(encoding='utf-8')}</script>" for script in scripts)


def stylesheets() -> list[Path]:
    """Return every stylesheet, in the order of their names."""
    return sorted((ASSETS / "css").glob("*.css"))


def mount_page(app: "FastAPI", services: Services) -> None:
    """Build the page and mount it at the root of ``app``, after every route that should win over it."""
    settings = services.settings
    prepare_environment(settings)
    import gradio as gr

    from ui.compat import open_queue
    from ui.i18n import translations
    from ui.layout import build_ui, first_tab
    from ui.locale import PageLanguage
    from ui.theme import build_theme

    demo = build_ui(services)
    open_queue(demo)
    gr.mount_gradio_app(
        app,
        demo,
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        footer_links=[],
        run_history=False,
        blocked_paths=[str(settings.data_dir)],
        favicon_path=str(ICON),
        show_error=True,  # handlers raise nothing; what is left are gradio's own, short messages
        max_file_size="1kb",  # nothing on the page takes a file
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        i18n=translations(),
        theme=build_theme(),
        css_paths=stylesheets(),
        head=page_head(),
    )
    app.add_middleware(PageLanguage, first_tab=lambda: first_tab(services))
