"""Embedded mode: the whole of Parley on one machine, without a cluster.

nats-server, the local provider and a media worker run as supervised child processes on loopback; the control
plane runs in this process on a store of files. `parley demo` and `parley run` are made of this package.
"""
