"""The protocol without I/O: client events to JSON text, server frames to typed results, refusals to errors.

Nothing here knows a socket, a clock or a random source. `shape` is what GA and beta have in common, `ga` and
`beta` are the two shapes, `core` the decoder and encoder that use one of them.
"""
