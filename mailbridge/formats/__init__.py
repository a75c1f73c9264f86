"""What a webhook's body looks like; one module per format."""
