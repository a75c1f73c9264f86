"""Where a mail goes, and whether it may wake anyone. Pure: bytes and settings in, a ruling out."""
