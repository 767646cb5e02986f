"""The protocol of one connection, without sockets, clocks or randomness: `session.Session` is its door."""
