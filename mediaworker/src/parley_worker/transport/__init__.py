"""The edges: gRPC servers, NATS, HTTP. Each knows only its own protocol."""
