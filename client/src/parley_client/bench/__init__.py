"""`parley bench`: what a media worker costs, how late its audio is, and how it holds, on the user's own
machine.

Pure: `histogram`, `scenario`, `windows`, `knee`, `rows`, `ratios`, `correlate`, `report`. Reading of /proc
is in `proc`; programs are started in `loadgen`, `workers` and `peers`; `density`, `latency`, `soak`,
`storm` and `events` are the runs.
"""
