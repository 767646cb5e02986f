"""The resources of `parley.dev/v1alpha1` as typed values; pure, imports nothing else of the operator."""
