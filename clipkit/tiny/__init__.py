"""The bundled model: a CLIP of 1.3 million parameters, trained on `shapes` by `train`."""
