"""Read results: labels, predictions and the name of a run."""
