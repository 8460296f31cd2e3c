"""Features -> results: probes, zero-shot classification, entropy, comparison and the like."""
