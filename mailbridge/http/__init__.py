"""What the daemon answers over HTTP: the control socket, and what ``http.listen`` opens."""
