"""The terminal: everything a person can do in the page, over ssh. Knows nothing about gradio."""
