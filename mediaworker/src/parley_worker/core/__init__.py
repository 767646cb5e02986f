"""The worker's decisions: pure, no asyncio, no clock, no client library."""
