"""The bundled model: a CLIP of 2.3 million parameters, trained from scratch on `shapes` by `clipkit.tiny.train`."""
