"""Chats on disk, each visitor's own, in one SQLite file. Knows nothing about cookies, pages or engines at work."""

from backend.conversations.growing import GrowingReply
from backend.conversations.records import Conversation, StoredMessage
from backend.conversations.store import MAX_MESSAGES, MAX_SYSTEM, MAX_TEXT, Conversations

__all__ = [
    "MAX_MESSAGES",
    "MAX_SYSTEM",
    "MAX_TEXT",
    "Conversation",
    "Conversations",
    "GrowingReply",
    "StoredMessage",
]
