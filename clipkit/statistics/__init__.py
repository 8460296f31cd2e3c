"""Numbers to numbers: metrics, intervals, dependent rows, links, and what may be said of a number.

Nothing here reads a feature file.
"""
