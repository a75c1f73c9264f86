"""mailbridge: Office 365 mailboxes to webhooks, and nothing is lost on the way."""

from importlib.metadata import version

__version__ = version("mailbridge")
