"""Train the bundled model `tiny`; clipkit/tiny/README.md describes the recipe."""
