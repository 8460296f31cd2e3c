"""Prompt files, templates and class names -> prompts."""
