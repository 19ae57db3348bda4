"""From raw danmaku to a checkpoint that the service and bert-as-service can load.

Reading order: config → corpus → clean → examples → records → model → optimizer → train → evaluate → export.
What passes to `service` is a directory, `models/<name>/`; `service` never imports this package.
"""
