"""What the daemon answers over HTTP; for now the control socket alone."""
