"""Between protobuf and core types; the only place that knows both."""
