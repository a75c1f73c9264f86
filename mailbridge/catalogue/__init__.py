"""Every failure that is known: its code, what it comes from and what mends it, in two languages."""
