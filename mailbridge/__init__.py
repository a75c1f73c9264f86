"""mailbridge: Office 365 mailboxes to webhooks, and nothing is lost on the way."""

#: also the version of the package; hatchling reads it from here
__version__ = "0.1.0"
