"""Colours, type and spacing: one accent, few boxes, system fonts (nothing is fetched). Knows nothing about any view.

Every colour pair that carries text reaches 4.5:1 in both themes; tests/ui/test_theme.py computes it.
"""

from collections.abc import Mapping

import gradio as gr

_FONT = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "PingFang SC",
    "PingFang TC",
    "Microsoft YaHei",
    "Microsoft JhengHei",
    "Noto Sans CJK SC",
    "sans-serif",
)
_MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Consolas", "Noto Sans Mono", "monospace")

# theme variable -> value; a star names another variable. Each line with its dark twin.
_TOKENS: Mapping[str, str] = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "*neutral_950",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "block_background_fill": "white",
    "block_background_fill_dark": "*neutral_900",
    "block_border_color": "*neutral_200",
    "block_border_color_dark": "*neutral_800",
    "block_shadow": "none",
    "block_shadow_dark": "none",
    "block_label_text_color": "*neutral_700",
    "block_label_text_color_dark": "*neutral_200",
    "block_title_text_color": "*neutral_800",
    "block_title_text_color_dark": "*neutral_100",
    "block_title_text_weight": "600",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "border_color_primary": "*neutral_200",
    "border_color_primary_dark": "*neutral_800",
    "input_background_fill": "white",
    "input_background_fill_dark": "*neutral_950",
    "input_border_width": "1px",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "*neutral_700",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "color_accent": "*primary_700",
    "color_accent_soft": "*primary_50",
    "color_accent_soft_dark": "*neutral_800",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_hover_dark": "*primary_800",
    "button_primary_text_color": "white",
    "button_primary_text_color_dark": "white",
    "button_secondary_background_fill": "white",
    "button_secondary_background_fill_dark": "*neutral_800",
    "button_secondary_background_fill_hover": "*neutral_100",
    "button_secondary_background_fill_hover_dark": "*neutral_700",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "*neutral_700",
    "button_cancel_background_fill": "#b91c1c",
    "button_cancel_background_fill_dark": "#b91c1c",
    "button_cancel_background_fill_hover": "#991b1b",
    "button_cancel_background_fill_hover_dark": "#dc2626",
    "button_cancel_text_color": "white",
    "button_cancel_text_color_dark": "white",
    "slider_color": "*primary_700",
    "slider_color_dark": "*primary_400",
}


def build_theme() -> gr.themes.Base:
    """Return the theme. Teal 700 on white and white on teal 700 are 5.5:1; lighter teals would fail."""
    theme = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=_FONT,
        font_mono=_MONO,
    )
    return theme.set(**_TOKENS)
