"""`danmaku highlights`: the moments of recordings at which viewers say more of something than at other times."""
