"""The asyncio shell: one client per WebSocket, in the GA and in the beta manner of calling."""
