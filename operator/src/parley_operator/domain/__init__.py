"""Decisions of the control plane. Pure: time, randomness and ids are arguments, nothing here does I/O."""
