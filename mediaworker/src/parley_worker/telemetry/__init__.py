"""Numbers and log lines of the worker; never content, never a secret."""
