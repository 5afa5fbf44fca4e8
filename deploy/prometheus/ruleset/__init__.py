"""The alert rules as Python: constants (`steps`), the closed set of causes (`causes`), records and alerts."""
