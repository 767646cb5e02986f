"""What runs: sessions, playout, supervision and drain."""
