"""Outgoing mail: from what somebody asks for, or hands over, to the bytes that are sent. Pure."""
