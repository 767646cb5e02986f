"""The only package that talks to the API server (kopf's watches apart)."""
