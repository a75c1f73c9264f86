"""What an administrator has to do for a mailbox: portal steps, and a PowerShell script. Pure."""
