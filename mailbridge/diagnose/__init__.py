"""Step-by-step diagnosis of a mailbox: what was seen, what is wrong, and how to mend it."""
