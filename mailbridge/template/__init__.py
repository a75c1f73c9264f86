"""Templates of the configuration: Jinja2, sandboxed and bounded.

A template is written by whoever runs mailbridge. What it is given is plain values of a mail, which
are written by strangers, and are never taken for a template. Heavy: import it where it is needed.
"""

from mailbridge.template.compiled import (
    MAIL_KEYS,
    NAMES,
    Kind,
    Template,
    TemplateFailed,
    TemplateFault,
)

__all__ = ["MAIL_KEYS", "NAMES", "Kind", "Template", "TemplateFailed", "TemplateFault"]
