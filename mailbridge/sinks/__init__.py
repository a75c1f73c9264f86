"""Where events go: one module per kind of destination, behind the seam of ``base``."""
