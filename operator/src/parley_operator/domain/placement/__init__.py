"""Which session gets which place: the ledger of places, the lines of those who wait, the desk between."""
