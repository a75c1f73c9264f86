"""Where mail comes from: one module per protocol, behind the two seams of ``base``."""
