"""A Microsoft 365 tenant on loopback: Entra ID, Exchange Online, and a webhook receiver.

It speaks as the real services do, down to the texts of their errors, and can be told to
misbehave in every way that was seen in the field (``faults``). ``mailbridge demo`` and
``mailbridge sandbox`` run it; so do the tests. It keeps everything in memory.
"""
