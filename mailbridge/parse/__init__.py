"""Bytes to a message: bounded in every dimension, never raising, never guessing silently."""

from mailbridge.parse.message import parse
from mailbridge.parse.parsed import Address, Attachment, Body, Header, ParsedMessage

__all__ = ["Address", "Attachment", "Body", "Header", "ParsedMessage", "parse"]
