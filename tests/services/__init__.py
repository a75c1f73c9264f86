"""The service as systemd runs it, and the container image: built, booted and run for real."""
