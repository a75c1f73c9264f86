"""The measurements of fetching: push for many mailboxes, polling, POP3, distance, neighbours.

``python -m benchmarks.push`` runs all of them; each part is a module with one ``run``.
"""
