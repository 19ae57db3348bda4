"""`danmaku worker`: a bert-serving-server for today.

flags.py    bert-serving-start's flags, and what they mean here
server.py   START HERE: the ZMQ server
http.py     its HTTP endpoints, if `-http_port` or `-metrics_port` asks for them
status.py   what it says of itself to SHOW_CONFIG and SHOW_STATUS
probe.py    `danmaku check bert://…`
"""
