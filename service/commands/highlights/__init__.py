"""`danmaku highlights`: finds the moments when viewers say something more often than at other times."""
