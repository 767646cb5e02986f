"""What the operator serves to users: gRPC over what the handlers know."""
