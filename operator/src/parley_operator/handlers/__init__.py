"""Gather, decide, apply: the reconciler with its queue and cache, and the kopf bindings."""
