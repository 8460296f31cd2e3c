"""What does a vision-language model understand? Commands and functions over feature files."""

__version__ = "0.1.0"
