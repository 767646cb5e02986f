"""The operator's side of the control service: protobuf and gRPC stay in here."""
