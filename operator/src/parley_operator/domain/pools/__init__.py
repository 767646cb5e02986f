"""The fleet of a pool: which pods there are to be, which go, and what is said of them."""
