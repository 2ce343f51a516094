"""What stands between the network and everything Cria serves. Knows nothing about gradio's code, models or chats."""

from backend.guard.limits import Limits
from backend.guard.middleware import Guard

__all__ = ["Guard", "Limits"]
