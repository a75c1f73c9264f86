"""A local SMTP listener: mail to be sent through a mailbox, and mail to be delivered by routes."""
