"""Access tokens for mail servers: one object for each Entra app registration, through msal."""
