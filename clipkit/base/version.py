"""The version of clipkit, its one place."""

__version__ = "0.1.0"
