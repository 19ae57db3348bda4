"""From raw danmaku to a checkpoint that the service and bert-as-service can load.

Reading order: config → corpus → clean → examples → records → model → losses → optimizer → train → evaluate →
export; `cli` is the command `danmaku-train` in front of them. README.md walks through it from the outside.
What passes to `service` is a directory, `models/<name>/`; `service` never imports this package.
"""
